"""Metrics of each step of a stage: JSON lines, and the same values for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TypedDict

from ...files import write_atomic

EVENT_FOLDER = "tensorboard"
"""Folder of the event files in a run folder."""


class MetricsRecord(TypedDict):
    """Metrics of a step; trainers add numbers, lists of numbers and texts."""

    step: int


class MetricsLog:
    """Metrics of a stage's steps: `STAGE.jsonl`, and events under `tensorboard/STAGE`. Use it as a context.

    Args:
        path: run folder.
        stage: name of the stage.
        step: next step; records of this and later steps, left by a crash, are dropped.
        active: True if this process writes; only the first one does.
    """

    def __init__(self, path: Path, stage: str, step: int, *, active: bool = True) -> None:
        self._file = path / f"{stage}.jsonl"
        self._pending: list[MetricsRecord] = []
        self._active = active
        if not active:
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        write_atomic(self._file, "".join(f"{line}\n" for line in self._read_lines(step)))
        self._events = SummaryWriter(str(path / EVENT_FOLDER / stage), purge_step=step, flush_secs=3600)

    def _read_lines(self, step: int) -> list[str]:
        """Return the complete lines of steps before `step`."""
        lines = []
        for line in self._file.read_text().splitlines() if self._file.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["step"] < step:
                lines.append(line)
        return lines

    def add(self, record: MetricsRecord) -> None:
        """Queue the record of a step."""
        if self._active:
            self._pending.append(record)

    def flush(self) -> None:
        """Write queued records; call it before each checkpoint, so that none of its steps is missing."""
        if not self._pending:
            return
        with self._file.open("a") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in self._pending)
        for record in self._pending:
            self._add_events(record)
        self._events.flush()
        self._pending = []

    def _add_events(self, record: MetricsRecord) -> None:
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
        """Write queued records and close; after an error too, since their steps are finished."""
        self.flush()
        if self._active:
            self._events.close()
