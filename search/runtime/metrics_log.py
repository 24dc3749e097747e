"""Metrics of each step of a stage: JSON lines, and the same values for TensorBoard.

Trainers add losses as tensors on the device. Reading one would make the host wait for the step, so they are read
together, on flush.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict, cast

import torch
from torch import Tensor

from ...errors import TrainingError
from ...files import replace_non_finite, write_atomic
from .fabric import all_reduce_mean

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Metric = float | Tensor
"""A number, or a scalar on the device whose mean over all processes is logged."""
EVENT_FOLDER = "tensorboard"
"""Folder of the event files in a run folder."""


class MetricsRecord(TypedDict):
    """Metrics of a step; trainers add metrics, lists of numbers and texts."""

    step: int


class MetricsLog:
    """Metrics of a stage's steps: `STAGE.jsonl`, and events under `tensorboard/STAGE`. Use it as a context.

    Every process adds its records, and flushes at the same steps; the first one writes.

    Args:
        path: run folder.
        stage: name of the stage.
        step: next step; records of this and later steps, left by a crash, are dropped.
        fabric: device and processes.
        check: called with each record before it is written; an error of it ends the log at the step before.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        step: int,
        fabric: Fabric,
        check: Callable[[MetricsRecord], None] = lambda record: None,
    ) -> None:
        self._file = path / f"{stage}.jsonl"
        self._pending: list[MetricsRecord] = []
        self._fabric, self._check, self._active = fabric, check, fabric.is_global_zero
        if not self._active:
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
        self._pending.append(record)

    def amend(self, metrics: Mapping[str, object]) -> None:
        """Add metrics to the last queued record."""
        self._pending[-1] = cast("MetricsRecord", {**self._pending[-1], **metrics})

    def read(self) -> MetricsRecord | None:
        """Read the tensors of queued records, and check them; if one is refused, write those before it.

        Returns:
            The last record, with numbers in place of tensors; None if no record is queued.

        Raises:
            TrainingError: `check` refuses a record.
        """
        pending, self._pending = self._pending, []
        records, accepted = _read_tensors(pending, self._fabric), 0
        try:
            for record in records:
                self._check(record)
                accepted += 1
        except TrainingError:
            self._write(records[:accepted])
            raise
        self._pending = records
        return records[-1] if records else None

    def flush(self) -> MetricsRecord | None:
        """Read and write queued records; call it before each checkpoint, so that none of its steps is missing.

        Returns:
            As `read`.

        Raises:
            TrainingError: as `read`.
        """
        last = self.read()
        self._write(self._pending)
        self._pending = []
        return last

    def _write(self, records: Sequence[MetricsRecord]) -> None:
        if not self._active or not records:
            return
        with self._file.open("a") as file:
            file.writelines(f"{json.dumps(replace_non_finite(record))}\n" for record in records)
        for record in records:
            self._add_events(record)
        self._events.flush()

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
        """Write queued records and close.

        After an error, those of a single process are written, since their steps are finished; of several processes,
        the others may be at another step.
        """
        if error is None:
            self.flush()
        elif self._fabric.world_size == 1:
            with suppress(TrainingError, RuntimeError):  # the device may have failed
                self.flush()
        if self._active:
            self._events.close()


def _read_tensors(records: Sequence[MetricsRecord], fabric: Fabric) -> list[MetricsRecord]:
    """Return records with the means of their tensors over all processes, by one message and one copy to the host."""
    tensors = [(record, name) for record in records for name, value in record.items() if isinstance(value, Tensor)]
    if not tensors:
        return [*records]
    values = torch.stack([record[name].detach().to(fabric.device, torch.float32) for record, name in tensors])  # type: ignore[literal-required]
    numbers = iter(all_reduce_mean(values, fabric).tolist())
    return [
        cast(
            "MetricsRecord",
            {name: next(numbers) if isinstance(value, Tensor) else value for name, value in record.items()},
        )
        for record in records
    ]
