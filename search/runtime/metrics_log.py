"""What a stage writes down of every step: JSON lines, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from ...files import write_atomic

EVENT_FOLDER = "tensorboard"
"""Folder of the event files in a run folder."""


class MetricsLog:
    """Records of a stage's steps: `STAGE.jsonl`, and events under `tensorboard/STAGE`. Use it as a context.

    Args:
        path: the run folder.
        stage: name of the stage.
        step: first step that is still to come; what a crash left of it and of later ones is dropped.
        active: whether this process writes; all but the first only compute.
    """

    def __init__(self, path: Path, stage: str, step: int, *, active: bool = True) -> None:
        self._file = path / f"{stage}.jsonl"
        self._waiting: list[dict[str, Any]] = []
        self._active = active
        if not active:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        write_atomic(self._file, "".join(f"{line}\n" for line in self._kept(step)))
        self._events = SummaryWriter(str(path / EVENT_FOLDER / stage), purge_step=step, flush_secs=3600)

    def _kept(self, step: int) -> list[str]:
        """Whole lines of earlier steps."""
        kept = []
        for line in self._file.read_text().splitlines() if self._file.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["step"] < step:
                kept.append(line)
        return kept

    def add(self, record: dict[str, Any]) -> None:
        """Take down the record of a step: numbers, lists of numbers and texts, by name, and `step`."""
        if self._active:
            self._waiting.append(record)

    def flush(self) -> None:
        """Write what waits; to be called before each checkpoint, so that no step of it is missing."""
        if not self._waiting:
            return
        with self._file.open("a") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in self._waiting)
        for record in self._waiting:
            self._show(record)
        self._events.flush()
        self._waiting = []

    def _show(self, record: dict[str, Any]) -> None:
        step = record["step"]
        for name, value in record.items():
            if isinstance(value, str):
                self._events.add_text(name, value, step)
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    self._events.add_scalar(f"{name}/{index:02d}", item, step)
            elif name != "step" and value is not None:
                self._events.add_scalar(name, value, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits and close; after an error too, since those steps were made."""
        self.flush()
        if self._active:
            self._events.close()
