"""Registry of backends: each is looked up by name and imported on first use."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, cast

from ...errors import BackendUnavailableError, UnknownNameError, UsageError
from ...precisions import EXPORT_PRECISIONS
from .base import Backend, Runner, Workload

if TYPE_CHECKING:
    from ...lut.target import Target

__all__ = ["BACKENDS", "Backend", "Runner", "Workload", "get_backend", "require", "require_backend", "require_support"]

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
        UnknownNameError: unknown backend; the message lists the known ones.
    """
    if name not in BACKENDS:
        raise UnknownNameError("backend", name, BACKENDS)
    module, attribute = BACKENDS[name].split(":")
    return cast(Backend, getattr(import_module(module, __name__), attribute)())


def require_backend(target: Target, precisions: Collection[str] = EXPORT_PRECISIONS) -> Backend:
    """Return the backend of `target` after checking that it runs on the target's device and in its precision.

    Args:
        target: target to run on.
        precisions: precisions that the caller can use; an error suggests only these.

    Raises:
        BackendUnavailableError: the backend does not run on the device; the message gives the reason and the fix.
        UsageError: the backend does not support the precision on that device, or its threads exceed the cores that this
            process may use.
    """
    from ..machine.cpu_limits import require_threads

    require_threads(target)
    return require_support(target, precisions)


def require_support(target: Target, precisions: Collection[str] = EXPORT_PRECISIONS) -> Backend:
    """Return the backend of `target` as `require_backend` does, without a check of the threads.

    Raises:
        BackendUnavailableError: the backend does not run on the device; the message gives the reason and the fix.
        UsageError: the backend does not support the precision on that device.
    """
    backend = get_backend(target.backend)
    reason = backend.diagnose(target.device)
    if reason is not None:
        raise BackendUnavailableError(f"backend {target.backend} cannot run on {target.device}: {reason}")
    supported = backend.precisions(target.device)
    if target.precision not in supported:
        raise UsageError(
            f"backend {target.backend} has no precision {target.precision!r} on {target.device}; "
            f"choose from {', '.join(name for name in supported if name in precisions)}"
        )
    return backend


require = require_backend
"""Old name of `require_backend`; removed in 0.3.0."""
