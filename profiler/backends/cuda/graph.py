"""Work on a CUDA device, captured once and launched as a whole: how networks are deployed, and how they are timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from ....device import Device
from ....errors import MeasurementError
from ..base import collector_paused
from ..error_translation import failure
from .replay_queue import Marks, ReplayQueue, spin

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

WARM_UPS = 3
"""Runs before the capture, in which libraries choose kernels and allocate: neither can be captured."""


class CudaGraph(Generic[Result]):
    """A CUDA graph of what a function queues, replayed on torch's current stream.

    Not for several threads at once. Graphs on one device share their memory, so no two may run at the same time.

    Attributes:
        result: what the function returned in the capture; every replay fills its tensors anew.
    """

    result: Result

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        """Run `work` on a side stream until it is warm, then capture it there.

        Args:
            work: queues kernels on torch's current stream, reading tensors that outlive the graph and never move. It
                must not wait for the device.
            device: the CUDA device of those tensors.

        Raises:
            MeasurementError: `work` fails or cannot be captured, or there is too little memory; the message gives the
                reason in torch's words.
        """
        import torch

        self._device, self._graph, self._queue = device, torch.cuda.CUDAGraph(), ReplayQueue(Device(str(device)))
        stream = _side_stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            # where a capture fails, torch.cuda.graph leaves its stream the current one: the context around it does not
            with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    work()
                # a finaliser that the collector runs may free device memory, which no capture takes
                with collector_paused(), self._capture(stream):
                    self.result = work()
        except (RuntimeError, MeasurementError) as error:
            _alive(device).clear()  # a failed capture can leave the shared memory locked against further ones
            raise failure("torch makes no CUDA graph of it", [_first_reason(error)]) from error
        _alive(device).add(self)

    def replay(self) -> None:
        """Launch the graph once, behind whatever is queued on the current stream; does not wait for its end."""
        import torch

        with torch.cuda.device(self._device):
            self._graph.replay()

    def wait(self) -> None:
        """Wait until all replays have ended."""
        import torch

        torch.cuda.synchronize(self._device)

    def replay_batch(self, repeats: int) -> None:
        """Replay `repeats` times back to back and wait once; nothing is timed."""
        import torch

        with torch.cuda.device(self._device):
            for _ in range(repeats):
                self._graph.replay()
            self.wait()

    def time(self, repeats: int) -> list[float]:
        """Replay `repeats` times back to back; the duration of each in milliseconds, by two CUDA events around it.

        All replays are queued before the device comes to the first, see `lead`.
        """
        import torch

        with torch.cuda.device(self._device):
            marks = self._queue.fill(repeats, hold=spin, enqueue=self._enqueue, wait=self.wait)
        return [float(start.elapsed_time(end)) for start, end in marks]

    def _enqueue(self, repeats: int) -> Marks:
        marks = [(_event(), _event()) for _ in range(repeats)]
        for start, end in marks:
            start.record()
            self._graph.replay()
            end.record()
        return marks

    def _capture(self, stream: torch.cuda.Stream) -> AbstractContextManager[None]:
        """Context that captures what is queued on `stream`; calls of other threads do not break it."""
        import torch

        pool = _shared_memory(self._device)
        return torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")

    def close(self) -> None:
        """Free the graph and its result; more than once does no harm."""
        _alive(self._device).discard(self)
        self._graph.reset()
        self.__dict__.pop("result", None)


@cache
def _alive(device: torch.device) -> WeakSet[CudaGraph[Any]]:
    """The graphs on `device` that are not closed."""
    return WeakSet()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures on `device`: graphs that share memory are to be captured on the same one."""
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _shared_memory(device: torch.device) -> Any:
    """The memory that the graphs on `device` share, as torch names it; None for the first one, which brings its own.

    Sharing it is safe here, in whatever order they are replayed: a graph reads nothing that an earlier replay left,
    its inputs lie outside, and its result stays allocated. It saves each graph a copy of all intermediate results.
    """
    return next((graph._graph.pool() for graph in _alive(device)), None)


def _first_reason(error: BaseException) -> str:
    """First line of the error that began it: ending a capture that has failed raises another on top of it."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _event() -> torch.cuda.Event:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
