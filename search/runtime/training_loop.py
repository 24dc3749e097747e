"""The training loop of search and training: steps with a metrics log and checkpoints, resumed bit for bit on a CPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from . import checkpoint
from .checkpoint import Checkpoint
from .metrics_log import MetricsLog, MetricsRecord
from .run_folder import CHECKPOINT_S, OnStep, RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item", contravariant=True)
State = TypeVar("State", bound=Checkpoint)
Validate = Callable[[], Mapping[str, float | None] | None]
"""Validation after a step: returns its scores for the metrics log, or None if none is due."""
LOG_S = 30.0
"""Seconds between two lines with the losses."""
_LOG = logging.getLogger("lgc.training")


class Trainer(Protocol[Item, State]):
    """A model in training, with everything that its next step depends on.

    Attributes:
        fabric: device, precision and processes.
        step: number of finished steps.
        seconds: time spent on them, including earlier calls.
    """

    fabric: Fabric
    step: int
    seconds: float

    def train_step(self, item: Item, /) -> MetricsRecord:
        """Make one step on a batch, or on several, and return its metrics."""

    def snapshot(self) -> State:
        """Return the state that `restore` loads."""

    def restore(self, state: State) -> None:
        """Load a snapshot."""


def restore_checkpoint(trainer: Trainer[Any, State], path: Path) -> None:
    """Restore a trainer from a checkpoint, if there is one; the first process reads it for all."""
    fabric = trainer.fabric
    state = fabric.broadcast(checkpoint.load(path) if fabric.is_global_zero else None)
    if state is not None:
        trainer.restore(cast("State", state))


def run_steps(
    trainer: Trainer[Item, State],
    batches: Generator[Item],
    stop: int,
    run: RunFolder,
    on_step: OnStep,
    validate: Validate = lambda: None,
) -> None:
    """Train up to step `stop`, with a metrics log and a checkpoint every `CHECKPOINT_S` in the run folder.

    The losses go to the logger `lgc.training` every `LOG_S`, and after the last step.

    Args:
        trainer: trainer at any step.
        batches: batches from that step to `stop`; closed afterwards.
        stop: step after the last one.
        run: run folder.
        on_step: callback for the number of finished steps and `stop`.
        validate: validation after a step, if one is due; a checkpoint follows it.

    Raises:
        TrainingError: a loss is NaN or infinite; the last checkpoint, if any, is kept.
        DataError: a file of the dataset is damaged or holds foreign values.
    """
    started = saved = logged = time.monotonic()
    earlier_s = trainer.seconds
    with closing(batches), MetricsLog(run.path, run.stage, trainer.step, active=run.active) as log:
        for batch in batches:
            record, scores = trainer.train_step(batch), None
            try:
                scores = validate()
            finally:  # after an error too: the log reports an invalid loss, which spoils weights, first
                log.add(cast("MetricsRecord", {**record, **(scores or {})}))
            trainer.seconds = earlier_s + time.monotonic() - started
            if scores is not None or time.monotonic() - saved > CHECKPOINT_S or trainer.step == stop:
                saved = time.monotonic()
                log.flush()
                if run.active:
                    checkpoint.save(run.checkpoint, trainer.snapshot())
            on_step(trainer.step, stop)
            if time.monotonic() - logged > LOG_S or trainer.step == stop:
                logged = time.monotonic()
                losses = ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name.endswith("loss"))
                _LOG.info("step %d of %d: %s", trainer.step, stop, losses)
    if run.active and not run.checkpoint.exists():  # no step was left, e.g. in a front that shares all steps
        checkpoint.save(run.checkpoint, trainer.snapshot())
    trainer.fabric.barrier()
