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
from .data_wait import DataWait
from .metrics_log import MetricsLog, MetricsRecord
from .run_folder import CHECKPOINT_S, OnStep, RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item", contravariant=True)
State = TypeVar("State", bound=Checkpoint)
Validate = Callable[[Callable[[], object]], Mapping[str, float | None] | None]
"""Validation after a step: calls its argument before, and returns scores for the metrics log; None if none is due."""
FLUSH_S = 1.0
"""Seconds between two flushes of the metrics log, after which an invalid loss is noticed."""
LOG_S = 30.0
"""Seconds between two lines with the losses."""
_LOG = logging.getLogger("lgc.training")


class Trainer(Protocol[Item, State]):
    """A model in training, with everything that its next step depends on.

    Attributes:
        fabric: device, precision and processes.
        step: number of finished steps.
        seconds: time spent on them, including earlier calls.
        waiting_pct: share of the time of this call's steps that was spent waiting for data, in percent; None without
            a second step.
    """

    fabric: Fabric
    step: int
    seconds: float
    waiting_pct: float | None

    def train_step(self, item: Item, /) -> MetricsRecord:
        """Make one step on a batch, or on several, and return its metrics, without waiting for a GPU."""

    def check(self, record: MetricsRecord, /) -> None:
        """Raise an error if the metrics of a step, by now numbers, show that the training has failed."""

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
    validate: Validate = lambda before: None,
    advice: str = "",
) -> None:
    """Train up to step `stop`, with a metrics log and a checkpoint every `CHECKPOINT_S` in the run folder.

    The losses go to the logger `lgc.training` every `LOG_S`, and after the last step. Losses are read from the device
    every `FLUSH_S`, and before each checkpoint.

    Args:
        trainer: trainer at any step.
        batches: batches from that step to `stop`; closed afterwards.
        stop: step after the last one.
        run: run folder.
        on_step: callback for the number of finished steps and `stop`.
        validate: validation after a step, if one is due; a checkpoint follows it.
        advice: phrase for the remark if the steps wait long for their batches.

    Raises:
        TrainingError: a loss is NaN or infinite; the last checkpoint, if any, is kept.
        DataError: a file of the dataset is damaged or holds foreign values.
    """
    started = saved = logged = time.monotonic()
    earlier_s, flushes, wait = trainer.seconds, _FlushSteps(trainer.step), DataWait(trainer.fabric, advice)
    log = MetricsLog(run.path, run.stage, trainer.step, trainer.fabric, trainer.check)
    with closing(batches), log:
        for batch in wait.watch(batches):
            log.add(trainer.train_step(batch))
            is_last, stepped = trainer.step == stop, time.monotonic()
            if (scores := validate(log.read)) is not None:  # an invalid loss is reported before it spoils scores
                log.amend(scores)
                wait.leave_out(time.monotonic() - stepped)
            trainer.seconds = earlier_s + time.monotonic() - started
            if is_last or scores is not None or flushes.is_due(trainer.step):
                record = log.flush()
                flushes.plan(trainer.step, trainer.fabric)
                wait.remark(is_last=is_last)
                if is_last or scores is not None or time.monotonic() - saved > CHECKPOINT_S:
                    saved = time.monotonic()
                    if run.active:
                        checkpoint.save(run.checkpoint, trainer.snapshot())
                if record is not None and (time.monotonic() - logged > LOG_S or is_last):
                    logged = time.monotonic()
                    losses = ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name.endswith("loss"))
                    _LOG.info("step %d of %d: %s", trainer.step, stop, losses)
            on_step(trainer.step, stop)
    trainer.waiting_pct = None if (share := wait.read()) is None else round(100 * share, 1)
    if run.active and not run.checkpoint.exists():  # no step was left, e.g. in a front that shares all steps
        checkpoint.save(run.checkpoint, trainer.snapshot())
    trainer.fabric.barrier()


class _FlushSteps:
    """Steps after which the metrics log is flushed, about every `FLUSH_S`; the same in all processes.

    A flush is a message between processes, so clocks of their own must not decide on it. The first process sets the
    number of steps up to the next flush by the pace since the last one; at most twice as many, as a few steps say
    little.

    Args:
        step: number of finished steps.
    """

    def __init__(self, step: int) -> None:
        self._last, self._next, self._flushed = step, step + 1, time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return True if the log must be flushed after `step` finished steps."""
        return step >= self._next

    def plan(self, step: int, fabric: Fabric) -> None:
        """Set the next flush, after one at `step`."""
        now, done = time.monotonic(), step - self._last
        steps = min(FLUSH_S, CHECKPOINT_S) * done / max(now - self._flushed, 1e-6)
        self._next = step + int(fabric.broadcast(min(max(int(steps), 1), 2 * done)))
        self._last, self._flushed = step, now
