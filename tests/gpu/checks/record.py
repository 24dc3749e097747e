"""Results of a part, written after every step: a part that is killed keeps its results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class SkipPartError(Exception):
    """Error for a part that cannot run on this machine; the message gives the reason."""


class Record:
    """Values and checks of a part.

    Attributes:
        status: how the part ended; None while it runs.
        words: reason of that status.
        stage: current stage.
        checks: name -> value, bound, and True under `holds` if the value is within the bound.
        values: name -> other measured value.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.status: str | None = None
        self.words, self.stage = "", ""
        self.checks: dict[str, Any] = {}
        self.values: dict[str, Any] = {}

    def enter(self, stage: str) -> None:
        """Set the current stage, which the result of a killed part names."""
        self.stage = stage
        self._write()

    def add_value(self, name: str, value: Any) -> None:
        """Add a number, text, list or dictionary."""
        self.values[name] = value
        self._write()

    def add_check(self, name: str, value: float, *, min_value: float = -math.inf, max_value: float = math.inf) -> None:
        """Add a number and check that it is within the bounds, inclusive; nan never is."""
        bounds = [f">= {min_value:g}"] * (min_value > -math.inf) + [f"<= {max_value:g}"] * (max_value < math.inf)
        self.checks[name] = {
            "value": value,
            "bound": " and ".join(bounds),
            "holds": bool(min_value <= value <= max_value),
        }
        self._write()

    def finish(self, status: str, words: str) -> None:
        """Set the part's status and its reason."""
        self.status, self.words = status, words
        self._write()

    def _write(self) -> None:
        content = {name: value for name, value in vars(self).items() if name != "_file"}
        temporary = self._file.with_suffix(".draft")
        temporary.write_text(json.dumps(content, default=str))
        temporary.replace(self._file)

    @classmethod
    def read(cls, file: Path) -> Record:
        """Return the record in a file; empty if there is no file."""
        record = cls(file)
        if file.exists():
            vars(record).update(json.loads(file.read_text()))
        return record
