"""What a latency table was measured on: a device, a backend, a precision, a number of threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..device import Device
from ..errors import UsageError

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Target:
    """Where networks are run and timed.

    Attributes:
        device: where networks run; a name is converted.
        backend: name of a profiler backend, say `onnxruntime`.
        precision: `fp32`, `fp16` or `bf16`.
        threads: CPU threads inside an operator; 1 on a GPU.
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
        """What differs, as `device cpu, not cuda:0` (own value first); empty if nothing does."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{key} {mine[key]}, not {theirs[key]}" for key in mine if mine[key] != theirs[key]]
