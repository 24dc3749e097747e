"""Settings of a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of a part.

    Attributes:
        device: `cuda:N` or `cpu`.
        out: folder of the results.
        scratch: folder that is removed at the end.
        limit_s: time limit in seconds.
        part: number of the part.
        rehearsal: True for a small space, few networks and steps, and no bounds on measured values.
    """

    device: str
    out: Path
    scratch: Path
    limit_s: float = 60.0
    part: int = 0
    rehearsal: bool = False

    @property
    def on_gpu(self) -> bool:
        """True if the device is a GPU."""
        return self.device != "cpu"

    @property
    def backend(self) -> str:
        """Backend of tables and frame rates."""
        return "torch" if self.on_gpu else "onnxruntime"

    def precision(self, requested: str) -> str:
        """Return the precision of tables and frame rates: the requested one on a GPU, fp32 on a CPU."""
        return requested if self.on_gpu else "fp32"

    def table(self, precision: str) -> Path:
        """Return the path of the table of a precision."""
        return self.out / f"table-{precision}.lut"

    @property
    def record_file(self) -> Path:
        """Path of the part's record."""
        return self.scratch / f"part-{self.part}.json"
