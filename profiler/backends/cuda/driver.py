"""CUDA graphs of work on a pycuda stream, by NVIDIA's own bindings of the driver: pycuda has no stream capture.

Everything runs in the context that is current in the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from ....errors import BackendUnavailableError
from ..base import pause_gc
from ..error_translation import make_error

INSTALL_BINDINGS = 'pip install "cuda-bindings>=12.6"'


class StreamGraph:
    """A CUDA graph of what a function queues on one stream, launched on that stream. Not for several threads."""

    def __init__(self, work: Callable[[], object], stream: int) -> None:
        """Capture what `work` queues; nothing of it is run.

        Calls of other threads, say torch's, do not break the capture.

        Args:
            work: queues on the stream, reading and writing memory that outlives the graph and never moves. It must
                have run before: libraries allocate and choose kernels in their first run, which no capture takes.
            stream: handle of the stream, not the default one.

        Raises:
            MeasurementError: `work` fails, or does what cannot be captured.
        """
        self._stream, self._launchable = stream, None
        graph = self._capture(work)
        try:
            self._launchable = call_driver("cuGraphInstantiate", graph, 0)
        finally:
            call_driver("cuGraphDestroy", graph)  # the launchable one is a copy

    def _capture(self, work: Callable[[], object]) -> Any:
        mode = _import_bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        # a finaliser that the collector runs may free device memory, which no capture takes
        with pause_gc():
            call_driver("cuStreamBeginCapture", self._stream, mode)
            try:
                work()
            except BaseException:
                # the stream is of no use until its capture has ended; the error of `work` tells more than this call's
                result, graph = _import_bindings().cuStreamEndCapture(self._stream)
                if int(result) == 0 and graph is not None and int(graph):
                    call_driver("cuGraphDestroy", graph)
                raise
            return call_driver("cuStreamEndCapture", self._stream)

    def launch(self) -> None:
        """Queue the graph once; does not wait for its end."""
        call_driver("cuGraphLaunch", self._launchable, self._stream)

    def close(self) -> None:
        """Free the graph; more than once does no harm."""
        graph, self._launchable = self._launchable, None
        if graph is not None:
            call_driver("cuGraphExecDestroy", graph)


def call_driver(name: str, *arguments: Any) -> Any:
    """Call the driver's function `name` and return what it gives, None if nothing.

    Raises:
        MeasurementError: it fails; the message has the driver's name of the error.
        BackendUnavailableError: the bindings or the driver are missing.
    """
    try:
        result, *values = getattr(_import_bindings(), name)(*arguments)
    except RuntimeError as error:  # the bindings find no driver, or one that lacks the function
        raise BackendUnavailableError(f"the NVIDIA driver lacks {name}: {error}") from error
    if int(result) != 0:
        raise make_error(f"{name} failed", [getattr(result, "name", f"CUDA error {int(result)}")])
    return values[0] if values else None


def diagnose_bindings() -> str | None:
    """Return None if NVIDIA's bindings of the driver load, else the reason and the mend."""
    try:
        _import_bindings()
    except ImportError as error:
        return f"the package cuda-bindings does not load ({error}): {INSTALL_BINDINGS}"
    return None


@cache
def _import_bindings() -> Any:
    return import_module("cuda.bindings.driver")
