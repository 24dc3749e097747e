"""CUDA graphs of torch: captured once and launched as a whole, as networks are deployed and timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from ....device import Device
from ....errors import MeasurementError
from ..base import pause_gc
from ..error_translation import make_error
from .replay_queue import EventPairs, ReplayQueue, queue_spin

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

NUM_WARM_UP_RUNS = 3
"""Runs before the capture, in which libraries choose kernels and allocate: neither can be captured."""


class CudaGraph(Generic[Result]):
    """CUDA graph of the work that a function queues, replayed on torch's current stream.

    Not thread-safe. Graphs on a device share their memory, so no two may run at the same time.

    Attributes:
        result: value that the function returned in the capture; each replay overwrites its tensors.
    """

    result: Result

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        """Run `work` on a side stream until it is warm, then capture it there.

        Args:
            work: function that queues kernels on torch's current stream; it reads tensors that outlive the graph and
                never move. It must not wait for the device.
            device: CUDA device of those tensors.

        Raises:
            MeasurementError: `work` fails or cannot be captured, or memory is short; the message quotes torch.
        """
        import torch

        self._device, self._graph, self._queue = device, torch.cuda.CUDAGraph(), ReplayQueue(Device(str(device)))
        stream = _get_side_stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            # after a failed capture torch.cuda.graph leaves its stream current; the context around it restores it
            with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(stream):
                for _ in range(NUM_WARM_UP_RUNS):
                    work()
                # a finaliser run by the collector may free device memory, which breaks a capture
                with pause_gc(), self._capture(stream):
                    self.result = work()
        except (RuntimeError, MeasurementError) as error:
            _get_open_graphs(device).clear()  # a failed capture can lock the shared memory against further captures
            raise make_error("torch cannot capture a CUDA graph", [_get_root_cause(error)]) from error
        _get_open_graphs(device).add(self)

    def replay(self) -> None:
        """Queue the graph once on the current stream without waiting for it."""
        import torch

        with torch.cuda.device(self._device):
            self._graph.replay()

    def synchronize(self) -> None:
        """Wait until all replays have ended."""
        import torch

        torch.cuda.synchronize(self._device)

    def replay_batch(self, repeats: int) -> None:
        """Replay `repeats` times back to back, untimed, and synchronise once."""
        import torch

        with torch.cuda.device(self._device):
            for _ in range(repeats):
                self._graph.replay()
            self.synchronize()

    def time(self, repeats: int) -> list[float]:
        """Replay `repeats` times back to back and return each latency in ms, by two CUDA events around it.

        All replays are queued before the device starts the first; see `ReplayQueue`.
        """
        import torch

        with torch.cuda.device(self._device):
            events = self._queue.replay(repeats, spin=queue_spin, enqueue=self._enqueue, synchronize=self.synchronize)
        return [float(start.elapsed_time(end)) for start, end in events]

    def _enqueue(self, repeats: int) -> EventPairs:
        events = [(_make_event(), _make_event()) for _ in range(repeats)]
        for start, end in events:
            start.record()
            self._graph.replay()
            end.record()
        return events

    def _capture(self, stream: torch.cuda.Stream) -> AbstractContextManager[None]:
        """Return a context that captures the work on `stream`; calls of other threads do not break it."""
        import torch

        pool = _get_shared_pool(self._device)
        return torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")

    def close(self) -> None:
        """Free the graph and its result; idempotent."""
        _get_open_graphs(self._device).discard(self)
        self._graph.reset()
        self.__dict__.pop("result", None)


@cache
def _get_open_graphs(device: torch.device) -> WeakSet[CudaGraph[Any]]:
    """Return the graphs on `device` that are not closed."""
    return WeakSet()


@cache
def _get_side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on `device`: graphs that share memory must be captured on one stream."""
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _get_shared_pool(device: torch.device) -> Any:
    """Return torch's handle of the memory pool that graphs on `device` share; None for the first graph, which owns it.

    Sharing is safe in any order of replays: no graph reads anything that an earlier replay left, inputs lie outside
    the pool, and results stay allocated. It saves each graph a copy of all intermediate results.
    """
    return next((graph._graph.pool() for graph in _get_open_graphs(device)), None)


def _get_root_cause(error: BaseException) -> str:
    """Return the first line of the original error: ending a failed capture raises another on top of it."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _make_event() -> torch.cuda.Event:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
