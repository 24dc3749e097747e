"""The backend that is taken where the user names none."""

from __future__ import annotations

from ...device import Device
from ...errors import BackendUnavailableError
from . import get_backend

PREFERRED = {"cpu": ("onnxruntime", "torch"), "cuda": ("tensorrt", "torch")}
"""Kind of device -> backends, the one that users deploy with first."""


def default_backend(device: Device) -> str:
    """Name of the first preferred backend that runs on `device`.

    Raises:
        BackendUnavailableError: none does; the message gives each one's reason.
    """
    reasons = []
    for name in PREFERRED[device.kind]:
        reason = get_backend(name).unavailable(device)
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    raise BackendUnavailableError(f"no backend runs on {device}: {'; '.join(reasons)}")
