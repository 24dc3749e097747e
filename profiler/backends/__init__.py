"""The registry of backends: looked up by name, imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from ...errors import BackendUnavailableError, UnknownNameError, UsageError
from ...lut.target import Target
from .base import Backend, Runner, Workload

__all__ = ["BACKENDS", "Backend", "Runner", "Workload", "get_backend", "require", "require_backend"]

BACKENDS = {
    "onnxruntime": ".ort.backend:OnnxRuntimeBackend",
    "onnxruntime-tensorrt": ".ort.backend:OnnxRuntimeTensorRTBackend",
    "tensorrt": ".trt.backend:TensorRTBackend",
    "torch": ".torch_.backend:TorchBackend",
}
"""Backend name -> module and class, relative to this package."""


def get_backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        UnknownNameError: no such backend; the message lists the known ones.
    """
    if name not in BACKENDS:
        raise UnknownNameError("backend", name, BACKENDS)
    module, attribute = BACKENDS[name].split(":")
    return cast(Backend, getattr(import_module(module, __name__), attribute)())


def require_backend(target: Target) -> Backend:
    """Return the backend of `target`, after showing that it can run there.

    Raises:
        BackendUnavailableError: it cannot; the message gives the reason and the mend.
        UsageError: the backend does not offer the precision on that device.
    """
    backend = get_backend(target.backend)
    reason = backend.diagnose(target.device)
    if reason is not None:
        raise BackendUnavailableError(f"backend {target.backend} cannot run on {target.device}: {reason}")
    offered = backend.precisions(target.device)
    if target.precision not in offered:
        raise UsageError(
            f"backend {target.backend} has no precision {target.precision!r}; "
            f"it offers {', '.join(offered)} on {target.device}"
        )
    return backend


require = require_backend
"""Old name of `require_backend`; removed in 0.3.0."""
