"""A CUDA device by pycuda: its primary context, a stream, memory on both sides, and events."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuda_driver import StreamGraph, pause
from .cuda_graph import LEAD_PER_REPLAY_US, LEAD_US
from .failure import failure
from .trt_loader import INSTALL_FULL

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream takes no heed of the default one, on which torch works."""


def pycuda_missing() -> str | None:
    """None if pycuda is there and loads, else the reason and the mend."""
    mend = f"{INSTALL_FULL} (pycuda is compiled as it is installed: nvcc of the CUDA toolkit has to be on PATH)"
    if find_spec("pycuda") is None:
        return f"pycuda is not installed: {mend}"
    try:
        import_module("pycuda.driver")
    except ImportError as error:
        return f"pycuda is installed but does not load ({error}); reinstall it: {mend}"
    return None


@dataclass
class Buffer:
    """A tensor's memory: page-locked on the host, and on the device, both for as long as this lives."""

    name: str
    host: NDArray[Any]
    device: Any

    def free(self) -> None:
        """Give the device's part back; the host's goes when the array does."""
        self.device.free()


class CudaPlace:
    """A device, its primary context and one stream of its own.

    The primary context is the one that torch and the CUDA runtime use, so all three live beside each other and share
    its memory. It is current only inside `current`; what was current before is so again afterwards.
    """

    def __init__(self, device: str) -> None:
        """Take the device called `device`, say `cuda:0`.

        Raises:
            MeasurementError: CUDA fails.
        """
        self.name, self._driver = device, _driver()
        self._context: Any = None
        with self._failures("CUDA does not start"):
            self._context = _primary_context(int(device.partition(":")[2] or 0))
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

    def allocate(self, name: str, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Memory for a tensor on both sides, zero on both: engines may read what was never written."""
        host = self._driver.pagelocked_zeros(shape, np.dtype(dtype))
        device = self._driver.mem_alloc(max(host.nbytes, 1))
        buffer = Buffer(name, host, device)
        self.send(buffer)
        return buffer

    def reserve(self, size: int) -> Any:
        """Memory on the device alone, for a library's own use; as `mem_alloc` gives it, aligned to 256 bytes."""
        return self._driver.mem_alloc(size)

    def send(self, buffer: Buffer) -> None:
        """Queue the copy of a buffer from the host to the device."""
        self._driver.memcpy_htod_async(buffer.device, buffer.host, self._stream)

    def fetch(self, buffer: Buffer) -> None:
        """Queue the copy of a buffer from the device to the host."""
        self._driver.memcpy_dtoh_async(buffer.host, buffer.device, self._stream)

    def capture(self, work: Callable[[], object]) -> StreamGraph:
        """What `work` queues on the stream, as a graph; see `StreamGraph`."""
        return StreamGraph(work, self.stream)

    def wait(self) -> None:
        """Wait until the device has done all that is queued."""
        self._spin(self._driver.Event().record(self._stream))

    def time(self, launch: Callable[[], object], repeats: int) -> list[float]:
        """Queue `launch` so often back to back; the duration of each in milliseconds, by two events around it.

        The stream pauses until all of it is queued. Without that, work shorter than its own launch (some 10 us) would
        be timed at the pace of those launches.
        """
        marks = [(self._driver.Event(), self._driver.Event()) for _ in range(repeats)]
        pause(self.stream, LEAD_US + LEAD_PER_REPLAY_US * repeats)
        for start, end in marks:
            start.record(self._stream)
            launch()
            end.record(self._stream)
        self.wait()
        return [float(start.time_till(end)) for start, end in marks]

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


def free_all(things: Sequence[Any]) -> None:
    """Give the device's memory back, that of buffers or what was reserved."""
    for thing in things:
        thing.free()


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
