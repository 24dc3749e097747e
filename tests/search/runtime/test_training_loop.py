"""The training loop: metrics, checkpoints and resumption, with a trainer that sums numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lgc.errors import TrainingError
from lgc.search.runtime import training_loop
from lgc.search.runtime.fabric import open_fabric
from lgc.search.runtime.run_folder import RunFolder
from lgc.search.runtime.training_loop import restore_checkpoint, run_steps

from ..runs import KilledError, kill_at, load_checkpoint, read_log

STEPS = 5


class Sum:
    """Adds the batches, which are numbers."""

    refused = None

    def __init__(self):
        self.fabric, self.step, self.seconds, self.total = open_fabric("cpu"), 0, 0.0, 0

    def train_step(self, number):
        self.total += number
        self.step += 1
        return {"step": self.step - 1, "loss": torch.tensor(float(self.total))}

    def check(self, record):
        if record["loss"] == self.refused:
            raise TrainingError(f"loss {record['loss']} at step {record['step']}")

    def snapshot(self):
        return {"step": self.step, "seconds": self.seconds, "total": self.total}

    def restore(self, state):
        self.step, self.seconds, self.total = state["step"], state["seconds"], state["total"]


@pytest.fixture
def train(tmp_path):
    """Restore and train up to step 5 in a run folder: `train(on_step)` returns the trainer."""

    def run(on_step=lambda step, steps: None, stop=STEPS):
        trainer, folder = Sum(), RunFolder(tmp_path / "run", "train", {})
        restore_checkpoint(trainer, folder.checkpoint)
        run_steps(trainer, (step for step in range(trainer.step, stop)), stop, folder, on_step)
        return trainer

    return run


def test_last_step_is_logged_and_saved(train, tmp_path):
    reported = []
    trainer = train(lambda *step: reported.append(step))
    assert reported == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert load_checkpoint(tmp_path / "run", "train") == trainer.snapshot()
    assert [row["loss"] for row in read_log(tmp_path / "run", "train")] == [0.0, 1.0, 3.0, 6.0, 10.0]


@pytest.mark.parametrize(("interval_s", "resumed"), [(0.0, [4, 5]), (1e9, [1, 2, 3, 4, 5])])
def test_interrupted_loop_resumes_from_last_checkpoint(train, tmp_path, monkeypatch, interval_s, resumed):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", interval_s)
    with pytest.raises(KilledError):
        train(kill_at(3))
    steps = []
    assert train(lambda step, _: steps.append(step)).total == sum(range(STEPS))
    assert steps == resumed
    assert [row["step"] for row in read_log(tmp_path / "run", "train")] == list(range(STEPS))


def test_time_of_earlier_calls_is_included(train):
    train()
    seconds = train().seconds
    assert seconds > 0
    assert train().seconds == seconds


def test_loop_without_steps_writes_a_checkpoint(train, tmp_path):
    train(stop=0)
    assert load_checkpoint(tmp_path / "run", "train")["step"] == 0


@pytest.fixture
def clock(monkeypatch):
    """A clock that `clock.now` sets."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training_loop.time, "monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize(("step_s", "expected"), [(0.25, [1, 3, 7, 11, 15, 17]), (3.0, [1, *range(3, 18)])])
def test_log_is_flushed_every_second(train, clock, monkeypatch, step_s, expected):
    flushed, real, steps = [], training_loop.MetricsLog.flush, []

    def flush(self):
        if self._pending:
            flushed.append(steps[-1] + 1 if steps else 1)
        return real(self)

    def advance(step, _):
        steps.append(step)
        clock.now += step_s

    clock.now = 0.0
    monkeypatch.setattr(training_loop.MetricsLog, "flush", flush)
    train(advance, stop=17)
    assert flushed == expected


def test_refused_loss_leaves_earlier_checkpoint(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(Sum, "refused", 3.0)
    with pytest.raises(TrainingError, match="at step 2"):
        train()
    assert load_checkpoint(tmp_path / "run", "train")["step"] == 2
    assert [row["loss"] for row in read_log(tmp_path / "run", "train")] == [0.0, 1.0]
