"""CUDA graphs of a pycuda stream, through NVIDIA's own bindings of the driver: pycuda cannot capture streams.

All calls use the context that is current in the calling thread.
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
    """CUDA graph of the work that a function queues on a stream; launches go to that stream. Not thread-safe."""

    def __init__(self, work: Callable[[], object], stream: int) -> None:
        """Capture the work that `work` queues, without running it.

        Calls of other threads, e.g. torch's, do not break the capture.

        Args:
            work: function that queues work on the stream; it reads and writes memory that outlives the graph and never
                moves. It must have run before: in their first run libraries allocate and choose kernels, and neither
                can be captured.
            stream: handle of the stream, which must not be the default stream.

        Raises:
            MeasurementError: `work` fails or cannot be captured.
        """
        self._stream, self._executable = stream, None
        graph = self._capture(work)
        try:
            self._executable = call_driver("cuGraphInstantiate", graph, 0)
        finally:
            call_driver("cuGraphDestroy", graph)  # the executable graph is a copy

    def _capture(self, work: Callable[[], object]) -> Any:
        mode = _import_bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        # a finaliser run by the collector may free device memory, which breaks a capture
        with pause_gc():
            call_driver("cuStreamBeginCapture", self._stream, mode)
            try:
                work()
            except BaseException:
                # the stream is unusable until its capture ends; the error of `work` says more than this call's
                result, graph = _import_bindings().cuStreamEndCapture(self._stream)
                if int(result) == 0 and graph is not None and int(graph):
                    call_driver("cuGraphDestroy", graph)
                raise
            return call_driver("cuStreamEndCapture", self._stream)

    def launch(self) -> None:
        """Queue one run of the graph without waiting for it."""
        call_driver("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; idempotent."""
        graph, self._executable = self._executable, None
        if graph is not None:
            call_driver("cuGraphExecDestroy", graph)


def call_driver(name: str, *arguments: Any) -> Any:
    """Call the driver's function `name` and return its value, or None if it has none.

    Raises:
        MeasurementError: the call fails; the message gives the driver's name of the error.
        BackendUnavailableError: the bindings or the driver are missing.
    """
    try:
        result, *values = getattr(_import_bindings(), name)(*arguments)
    except RuntimeError as error:  # no driver, or one without this function
        raise BackendUnavailableError(f"the NVIDIA driver lacks {name}: {error}") from error
    if int(result) != 0:
        raise make_error(f"{name} failed", [getattr(result, "name", f"CUDA error {int(result)}")])
    return values[0] if values else None


def diagnose_bindings() -> str | None:
    """Return None if NVIDIA's bindings of the driver load, else the reason and the fix."""
    try:
        _import_bindings()
    except ImportError as error:
        return f"cannot load package cuda-bindings ({error}): {INSTALL_BINDINGS}"
    return None


@cache
def _import_bindings() -> Any:
    return import_module("cuda.bindings.driver")
