"""Default backend of a device."""

from __future__ import annotations

from ...device import Device
from ...errors import BackendUnavailableError
from . import get_backend

PREFERRED_BACKENDS = {"cpu": ("onnxruntime", "torch"), "cuda": ("tensorrt", "torch")}
"""Kind of device -> backends in order of preference; the first is the usual one for deployment."""


def default_backend(device: Device) -> str:
    """Return the name of the first preferred backend that runs on `device`.

    Raises:
        BackendUnavailableError: no preferred backend runs; the message gives each one's reason.
    """
    reasons = []
    for name in PREFERRED_BACKENDS[device.kind]:
        reason = get_backend(name).diagnose(device)
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    raise BackendUnavailableError(f"no backend runs on {device}: {'; '.join(reasons)}")
