"""A CUDA device by pycuda: its primary context, a stream, memory on both sides, and events."""

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
from ..error_translation import failure
from ..trt.loader import INSTALL_FULL
from .driver import StreamGraph, bindings_missing
from .replay_queue import Marks, ReplayQueue, spin

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream takes no heed of the default one, on which torch works."""


def pycuda_missing() -> str | None:
    """Return None if pycuda and NVIDIA's bindings of the driver load, else the reason and the mend."""
    mend = f"{INSTALL_FULL} (pycuda is compiled as it is installed: nvcc of the CUDA toolkit has to be on PATH)"
    if find_spec("pycuda") is None:
        return f"pycuda is not installed: {mend}"
    try:
        import_module("pycuda.driver")
    except ImportError as error:
        return f"pycuda is installed but does not load ({error}); reinstall it: {mend}"
    return bindings_missing()


@dataclass(frozen=True)
class Buffer:
    """A tensor's memory on the device, for as long as this lives.

    Attributes:
        name: the tensor's.
        shape: the tensor's.
        dtype: the tensor's, by numpy's name.
        device: the memory, as pycuda allocates it.
        host: page-locked memory of the host, where copies from it or to it are timed; else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: Any
    host: NDArray[Any] | None = None

    def free(self) -> None:
        """Free the memory on the device; the host's goes with the array."""
        self.device.free()


@dataclass
class _Block:
    memory: Any
    size: int
    users: int = 0


class Scratch:
    """Memory on a device in which all engines there work: no two of them run at the same time."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def take(self, size: int, allocate: Callable[[int], Any]) -> Any:
        """Return memory of `size` bytes at least, for a library's own use between start and end of a run.

        A larger block is made where none is large enough; smaller ones stay as long as captured graphs refer to them.
        Sizes are powers of two, so that all blocks together are less than twice the largest.
        """
        block = next((block for block in self._blocks if block.size >= size), None)
        if block is None:
            rounded = 1 << max(size - 1, 0).bit_length()
            block = _Block(allocate(rounded), rounded)
            self._blocks.append(block)
        block.users += 1
        return block.memory

    def give_back(self, memory: Any) -> None:
        """Free the block once nobody uses it."""
        block = next(block for block in self._blocks if block.memory is memory)
        block.users -= 1
        if block.users == 0:
            self._blocks.remove(block)
            block.memory.free()


@cache
def scratch_for(device: Device) -> Scratch:
    """Return the scratch memory of a device, say `cuda:0`."""
    return Scratch()


class CudaDevice:
    """A device, its primary context and one stream of its own.

    The primary context is the one that torch and the CUDA runtime use, so all three live beside each other and share
    its memory. It is current only inside `current`; what was current before is so again afterwards.
    """

    def __init__(self, device: Device) -> None:
        """Take the device called `device`, say `cuda:0`.

        Raises:
            MeasurementError: CUDA fails.
        """
        self.name, self._driver = device, _driver()
        self._context: Any = None
        with self._failures("CUDA does not start"):
            self._context = _primary_context(device.ordinal)
        self._replays, self._scratch = ReplayQueue(device), scratch_for(device)
        with self.current():
            self._stream: Any = self._driver.Stream(NON_BLOCKING)

    @property
    def stream(self) -> int:
        """The handle of its stream."""
        return int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Context in which the device is the calling thread's; pycuda's errors come out of it as our own.

        Raises:
            MeasurementError: a call of pycuda fails, or there is too little memory; the message says so.
        """
        with self._failures(f"{self.name} failed"):
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()

    def allocate(self, name: str, shape: tuple[int, ...], dtype: str, *, pinned: bool) -> Buffer:
        """Allocate a tensor on the device, zero: engines may read what was never written.

        Args:
            name: the tensor's.
            shape: the tensor's.
            dtype: the tensor's, by numpy's name.
            pinned: allocate it on the host too, page-locked, for copies that are timed.
        """
        kind = np.dtype(dtype)
        size = max(int(np.prod(shape)) * kind.itemsize, 1)
        host = self._driver.pagelocked_zeros(shape, kind) if pinned else None
        device = self._driver.mem_alloc(size)
        self._driver.memset_d8_async(device, 0, size, self._stream)
        return Buffer(name, shape, kind, device, host)

    def take_scratch(self, size: int) -> Any:
        """Return shared device memory of `size` bytes at least, see `Scratch`; aligned to 256 bytes."""
        return self._scratch.take(size, self._driver.mem_alloc)

    def give_back_scratch(self, memory: Any) -> None:
        """Return what `take_scratch` gave."""
        self._scratch.give_back(memory)

    def send(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Queue the copy of a contiguous array of the buffer's type, which outlives it, to the device."""
        self._driver.memcpy_htod_async(buffer.device, array, self._stream)

    def fetch(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Queue the copy of a buffer from the device to a contiguous array of its type, which outlives it."""
        self._driver.memcpy_dtoh_async(array, buffer.device, self._stream)

    def capture(self, work: Callable[[], object]) -> StreamGraph:
        """What `work` queues on the stream, as a graph; see `StreamGraph`."""
        return StreamGraph(work, self.stream)

    def wait(self) -> None:
        """Wait until the device has done all that is queued."""
        self._spin(self._driver.Event().record(self._stream))

    def time(self, launch: Callable[[], object], repeats: int) -> list[float]:
        """Queue `launch` `repeats` times back to back; the duration of each in milliseconds, by two events around it.

        All of it is queued before the device comes to the first, see `lead`.
        """

        def enqueue(replays: int) -> Marks:
            marks = [(self._driver.Event(), self._driver.Event()) for _ in range(replays)]
            for start, end in marks:
                start.record(self._stream)
                launch()
                end.record(self._stream)
            return marks

        marks = self._replays.fill(repeats, hold=self._hold, enqueue=enqueue, wait=self.wait)
        return [float(start.time_till(end)) for start, end in marks]

    def _hold(self, microseconds: float) -> None:
        """Keep the stream busy, by torch's spinning kernel: a pause on the host would need its interpreter."""
        import torch

        stream = torch.cuda.ExternalStream(self.stream, device=torch.device(self.name))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            spin(microseconds)

    def close(self) -> None:
        """Destroy the stream; the context stays for the next one. More than once does no harm."""
        self._stream = None

    def _spin(self, event: Any) -> None:
        """Wait by asking again and again, which wakes up sooner than the driver's own waiting may.

        How the driver waits is a flag of the primary context, which belongs to torch as well: it is left alone.
        """
        while not event.query():
            pass

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise failure(what, [str(error)]) from error


def _driver() -> Any:
    return import_module("pycuda.driver")


@cache
def _primary_context(index: int) -> Any:
    """The primary context of a device, held until the process ends: to release and take it anew costs a start of CUDA.

    It is given back before the interpreter takes its modules apart, when the driver may be gone.
    """
    driver = _driver()
    driver.init()
    context = driver.Device(index).retain_primary_context()
    atexit.register(context.detach)
    return context
