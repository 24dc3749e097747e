"""CUDA device through pycuda: its primary context, a stream, device and host memory, events."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....device import Device
from ..error_translation import make_error
from .driver import StreamGraph, diagnose_bindings
from .replay_queue import EventPairs, ReplayQueue, queue_spin

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not synchronise with the default stream, on which torch works."""


def diagnose_pycuda(install_hint: str) -> str | None:
    """Return None if pycuda and NVIDIA's bindings of the driver load, else the reason and the fix.

    Args:
        install_hint: command that installs pycuda.
    """
    fix = f"{install_hint} (compiles pycuda: nvcc of the CUDA toolkit must be on PATH)"
    if find_spec("pycuda") is None:
        return f"pycuda is not installed: {fix}"
    try:
        import_module("pycuda.driver")
    except ImportError as error:
        return f"cannot load pycuda ({error}); reinstall it: {fix}"
    return diagnose_bindings()


@dataclass(frozen=True)
class Buffer:
    """Memory of one tensor on the device.

    Attributes:
        name: name of the tensor.
        shape: shape of the tensor.
        dtype: type of the tensor.
        device: device memory, as pycuda allocates it.
        host: page-locked host memory, where copies are part of the timed graph; else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: Any
    host: NDArray[Any] | None = None

    def free(self) -> None:
        """Free the device memory; the host memory goes with its array."""
        self.device.free()


@dataclass
class _Block:
    memory: Any
    size: int
    num_users: int = 0


class ScratchMemory:
    """Device memory shared by all engines on a device, of which no two run at the same time."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def acquire(self, size: int, allocate: Callable[[int], Any]) -> Any:
        """Return at least `size` bytes for a library's own use from the start to the end of a run.

        A larger block is allocated where none is large enough. Smaller ones stay as long as captured graphs refer to
        them. Sizes are powers of two, so all blocks together are less than twice the largest.
        """
        block = next((block for block in self._blocks if block.size >= size), None)
        if block is None:
            rounded = 1 << max(size - 1, 0).bit_length()
            block = _Block(allocate(rounded), rounded)
            self._blocks.append(block)
        block.num_users += 1
        return block.memory

    def release(self, memory: Any) -> None:
        """Free the block after its last user's release."""
        block = next(block for block in self._blocks if block.memory is memory)
        block.num_users -= 1
        if block.num_users == 0:
            self._blocks.remove(block)
            block.memory.free()


@cache
def get_scratch_memory(device: Device) -> ScratchMemory:
    """Return the scratch memory of a device, e.g. `cuda:0`."""
    return ScratchMemory()


class CudaDevice:
    """CUDA device with its primary context and a stream of its own.

    The primary context is shared with torch and the CUDA runtime, and so is the memory. The context is current inside
    `activate` only, which restores the previous one.
    """

    def __init__(self, device: Device) -> None:
        """Open the device called `device`, e.g. `cuda:0`.

        Raises:
            MeasurementError: CUDA fails.
        """
        self.name, self._driver = device, _import_driver()
        self._context: Any = None
        with self._translate_errors("CUDA does not start"):
            self._context = _retain_primary_context(device.ordinal)
        self._replays, self._scratch = ReplayQueue(device), get_scratch_memory(device)
        with self.activate():
            self._stream: Any = self._driver.Stream(NON_BLOCKING)

    @property
    def stream(self) -> int:
        """Handle of the device's stream."""
        return int(self._stream.handle)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make the device the calling thread's inside the context, and translate pycuda's errors.

        Raises:
            MeasurementError: a pycuda call fails, or memory is short; the message says which.
        """
        with self._translate_errors(f"{self.name} failed"):
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()

    def allocate(self, name: str, shape: tuple[int, ...], dtype: str, *, pinned: bool) -> Buffer:
        """Allocate a tensor of zeros on the device; engines may read elements that were never written.

        Args:
            name: name of the tensor.
            shape: shape of the tensor.
            dtype: type of the tensor, by numpy's name.
            pinned: allocate page-locked host memory too, for timed copies.
        """
        kind = np.dtype(dtype)
        size = max(int(np.prod(shape)) * kind.itemsize, 1)
        host = self._driver.pagelocked_zeros(shape, kind) if pinned else None
        device = self._driver.mem_alloc(size)
        self._driver.memset_d8_async(device, 0, size, self._stream)
        return Buffer(name, shape, kind, device, host)

    def acquire_scratch(self, size: int) -> Any:
        """Return at least `size` bytes of shared device memory, aligned to 256 bytes; see `ScratchMemory`."""
        return self._scratch.acquire(size, self._driver.mem_alloc)

    def release_scratch(self, memory: Any) -> None:
        """Release memory of `acquire_scratch`."""
        self._scratch.release(memory)

    def copy_to_device(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Queue the copy of an array to the device: contiguous, of the buffer's type, and alive until the copy ends."""
        self._driver.memcpy_htod_async(buffer.device, array, self._stream)

    def copy_to_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Queue the copy of a buffer to an array: contiguous, of the buffer's type, and alive until the copy ends."""
        self._driver.memcpy_dtoh_async(array, buffer.device, self._stream)

    def capture(self, work: Callable[[], object]) -> StreamGraph:
        """Return a graph of the work that `work` queues on the stream; see `StreamGraph`."""
        return StreamGraph(work, self.stream)

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        self._poll(self._driver.Event().record(self._stream))

    def time(self, launch: Callable[[], object], repeats: int) -> list[float]:
        """Queue `launch` `repeats` times back to back and return each latency in ms, by two events around it.

        All launches are queued before the device starts the first; see `ReplayQueue`.
        """

        def enqueue(replays: int) -> EventPairs:
            events = [(self._driver.Event(), self._driver.Event()) for _ in range(replays)]
            for start, end in events:
                start.record(self._stream)
                launch()
                end.record(self._stream)
            return events

        events = self._replays.replay(repeats, spin=self._queue_spin, enqueue=enqueue, synchronize=self.synchronize)
        return [float(start.time_till(end)) for start, end in events]

    def _queue_spin(self, microseconds: float) -> None:
        """Queue torch's spin kernel on the stream: a host function there would need the Python interpreter."""
        import torch

        stream = torch.cuda.ExternalStream(self.stream, device=torch.device(self.name))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            queue_spin(microseconds)

    def close(self) -> None:
        """Destroy the stream and keep the context for the next one; idempotent."""
        self._stream = None

    def _poll(self, event: Any) -> None:
        """Wait by polling, which wakes up sooner than the driver's own wait may.

        The driver's way of waiting is a flag of the primary context, which torch shares: it stays unchanged.
        """
        while not event.query():
            pass

    @contextmanager
    def _translate_errors(self, summary: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise make_error(summary, [str(error)]) from error


def _import_driver() -> Any:
    return import_module("pycuda.driver")


@cache
def _retain_primary_context(index: int) -> Any:
    """Return the primary context of a device, retained until the process ends: a new one costs a start of CUDA.

    It is released before the interpreter unloads its modules, when the driver may be gone.
    """
    driver = _import_driver()
    driver.init()
    context = driver.Device(index).retain_primary_context()
    atexit.register(context.detach)
    return context
