"""Target of a latency table: device, backend, precision and number of threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..device import Device
from ..errors import UsageError


@dataclass(frozen=True)
class Target:
    """Device and software that run and time the networks.

    Attributes:
        device: Device of the networks; a name is converted.
        backend: name of a profiler backend, e.g. `onnxruntime`.
        precision: `fp32`, `fp16` or `bf16`.
        threads: Number of CPU threads of an operator; 1 on a GPU.
    """

    device: Device
    backend: str
    precision: str = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", Device(self.device))  # e.g. from a table's JSON
        if self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device.is_cpu else ""
        return f"{self.device}, {self.backend}, {self.precision}{threads}"

    def differences(self, other: Target) -> list[str]:
        """Return the fields that differ, e.g. `device cpu, not cuda:0`, with this target's value first."""
        own, others = asdict(self), asdict(other)
        return [f"{key} {own[key]}, not {others[key]}" for key in own if own[key] != others[key]]
