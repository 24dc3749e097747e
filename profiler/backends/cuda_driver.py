"""The calls of CUDA's driver that pycuda lacks, by ctypes on pycuda's handles: graphs, and a pause of a stream.

pycuda (2026.1) has contexts, memory, streams and events, but neither graph capture nor host functions. Everything here
works on the context that is current in the calling thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from ...errors import BackendUnavailableError
from .failure import failure

LIBRARY = "libcuda.so.1"

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do, say torch's, does not spoil the capture."""

_handle, _out = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (_handle, ctypes.c_int),
    "cuStreamEndCapture": (_handle, _out),
    "cuGraphInstantiateWithFlags": (_out, _handle, ctypes.c_ulonglong),
    "cuGraphLaunch": (_handle, _handle),
    "cuGraphExecDestroy": (_handle,),
    "cuGraphDestroy": (_handle,),
    "cuLaunchHostFunc": (_handle, _handle, _handle),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}
"""Function -> types of its arguments; all return a CUresult."""


class StreamGraph:
    """A CUDA graph of what a function queues on one stream, launched on that stream. Not for several threads."""

    def __init__(self, work: Callable[[], object], stream: int) -> None:
        """Capture what `work` queues; nothing of it is run.

        Args:
            work: queues on the stream, reading and writing memory that outlives the graph and never moves. It must
                have run before, since libraries allocate and choose kernels in their first run, which no capture takes.
            stream: handle of the stream, not the default one.

        Raises:
            MeasurementError: `work` fails, or does what cannot be captured.
        """
        self._stream, self._launchable = stream, _handle()
        graph = self._capture(work)
        try:
            call("cuGraphInstantiateWithFlags", ctypes.byref(self._launchable), graph, 0)
        finally:
            call("cuGraphDestroy", graph)  # the launchable one is a copy

    def _capture(self, work: Callable[[], object]) -> ctypes.c_void_p:
        graph = _handle()
        call("cuStreamBeginCapture_v2", self._stream, THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # the stream is of no use until its capture has ended; what `work` said tells more than this call would
            if _cuda().cuStreamEndCapture(self._stream, ctypes.byref(graph)) == 0 and graph.value:
                call("cuGraphDestroy", graph)
            raise
        call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        return graph

    def launch(self) -> None:
        """Queue the graph once; does not wait for its end."""
        call("cuGraphLaunch", self._launchable, self._stream)

    def close(self) -> None:
        """Free the graph; more than once does no harm."""
        if self._launchable.value:
            call("cuGraphExecDestroy", self._launchable)
            self._launchable = _handle()


def pause(stream: int, microseconds: int) -> None:
    """Keep a stream from going on for a while after what is queued on it, so that more can be queued behind.

    The C library's `usleep` is the host function: it takes its one argument in the register of a pointer, needs no
    interpreter, and always ends. To wait for a flag in memory that is set once everything is queued would be exact,
    but a queue that fills up before makes the host wait for the device and the device for the host, for ever.
    """
    call("cuLaunchHostFunc", stream, ctypes.cast(_usleep(), _handle), microseconds)


def call(name: str, *arguments: Any) -> None:
    """Call the driver's function `name`.

    Raises:
        MeasurementError: it fails; the message has the driver's name of the error.
        BackendUnavailableError: there is no driver, or one that lacks the function.
    """
    result = getattr(_cuda(), name)(*arguments)
    if result != 0:
        raise failure(f"{name} failed", [error_name(result)])


def error_name(result: int) -> str:
    """The driver's name of a CUresult, say `CUDA_ERROR_OUT_OF_MEMORY`."""
    text = ctypes.c_char_p()
    known = _cuda().cuGetErrorName(result, ctypes.byref(text)) == 0 and text.value is not None
    return (text.value or b"").decode() if known else f"CUDA error {result}"


@cache
def _cuda() -> Any:
    """The driver's library, its functions' types set."""
    try:
        library = ctypes.CDLL(LIBRARY)
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, ctypes.c_int
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(f"no NVIDIA driver of CUDA 11.4 or later: {error}") from error
    return library


@cache
def _usleep() -> Any:
    return ctypes.CDLL(None).usleep
