"""How a part is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What a part is given.

    Attributes:
        device: `cuda:N` or `cpu`.
        out: folder of the results.
        scratch: folder that is removed in the end.
        limit_s: seconds after which the part is ended.
        part: its number.
        rehearsal: a small space, few networks and steps, and no bounds on what is measured.
    """

    device: str
    out: Path
    scratch: Path
    limit_s: float = 60.0
    part: int = 0
    rehearsal: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    @property
    def backend(self) -> str:
        """Backend under which tables and frame rates are measured."""
        return "torch" if self.on_gpu else "onnxruntime"

    def precision(self, wanted: str) -> str:
        """Return the precision of tables and frame rates: the wanted one, fp32 on a CPU."""
        return wanted if self.on_gpu else "fp32"

    def table(self, precision: str) -> Path:
        """Return where the table of a precision lies."""
        return self.out / f"table-{precision}.lut"

    @property
    def record_file(self) -> Path:
        """Where the part writes what it finds."""
        return self.scratch / f"part-{self.part}.json"
