"""What a part has found so far, on the disk after every step: a part that is ended keeps what it measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class SkipPartError(Exception):
    """The part cannot run on this machine; the message says why."""


class Record:
    """Values and checks of a part.

    Attributes:
        status: how the part ended; None while it runs.
        words: why.
        stage: what it is at.
        checks: name -> value, bound, and whether it holds.
        values: name -> what was measured besides.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.status: str | None = None
        self.words, self.stage = "", ""
        self.checks: dict[str, Any] = {}
        self.values: dict[str, Any] = {}

    def at(self, stage: str) -> None:
        """Say what comes next: a part that is ended is ended there."""
        self.stage = stage
        self._write()

    def value(self, name: str, value: Any) -> None:
        """Keep a number, text, list or dictionary."""
        self.values[name] = value
        self._write()

    def check(self, name: str, value: float, *, least: float = -math.inf, most: float = math.inf) -> None:
        """Keep a number and whether it lies within bounds, both included; nan never does."""
        bounds = [f">= {least:g}"] * (least > -math.inf) + [f"<= {most:g}"] * (most < math.inf)
        self.checks[name] = {"value": value, "bound": " and ".join(bounds), "holds": bool(least <= value <= most)}
        self._write()

    def finish(self, status: str, words: str) -> None:
        """End the part."""
        self.status, self.words = status, words
        self._write()

    def _write(self) -> None:
        content = {name: value for name, value in vars(self).items() if name != "_file"}
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(content, default=str))
        draft.replace(self._file)

    @classmethod
    def read(cls, file: Path) -> Record:
        """Return what a process has written; empty if it has written nothing."""
        record = cls(file)
        if file.exists():
            vars(record).update(json.loads(file.read_text()))
        return record
