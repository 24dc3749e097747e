"""Trials: short trainings from scratch that compare the best architectures of a search."""

from __future__ import annotations

import math

import pytest

from lgc.models import Architecture
from lgc.search.config import SearchConfig
from lgc.search.data.datasets import load_dataset, split_halves
from lgc.search.engine import search
from lgc.search.runtime.batches import load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.selection import finalize, trials
from lgc.search.selection.trials import compute_trial_loss

from ..runs import KilledError, kill_at


@pytest.fixture
def run_trial(street_space, scenes):
    """Return an architecture's trial loss: `run_trial(number, steps=4, ...)`; a trial has a quarter of the steps."""
    first, second = split_halves(load_dataset(scenes, "train", (32, 32), augment=True), 0)
    held_out = list(load_batches(second, 2, 0, start=0, stop=2))

    def run(number=0, on_step=lambda: None, **settings):
        config = SearchConfig(**({"steps": 16, "batch": 2, "trial_share": 0.25} | settings))
        return compute_trial_loss(
            street_space.sample(number), config, open_fabric("cpu"), first, held_out, None, on_step
        )

    return run


def test_trial_depends_on_seed_and_architecture(run_trial):
    losses = [run_trial(), run_trial(), run_trial(seed=1), run_trial(1)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    assert all(0.5 < loss < 10 for loss in losses)


def test_seed_determines_initial_weights(run_trial):
    """A batch of all images is the same for all seeds, except for an order that does not matter."""
    first, second = (run_trial(seed=seed, batch=4) for seed in (0, 1))
    assert abs(first - second) > 1e-3


def test_longer_trial_has_lower_loss(run_trial):
    ticks = []
    short, long = (run_trial(steps=steps, on_step=lambda: ticks.append(0)) for steps in (4, 160))
    assert long < short - 0.2
    assert len(ticks) == 1 + 40


def test_diverged_trial_has_infinite_loss(run_trial, monkeypatch):
    real = trials.upsampled_loss
    monkeypatch.setattr(trials, "upsampled_loss", lambda *arguments: real(*arguments) * math.nan)
    assert run_trial() == math.inf


def test_lowest_trial_loss_wins(street, scenes, short, tmp_path, monkeypatch):
    """Candidates are ordered by their supernet loss; the lowest trial loss determines the result."""
    tried: list[Architecture] = []

    def known_loss(architecture, *_):
        tried.append(architecture)
        return abs(len(tried) - best)

    monkeypatch.setattr(finalize, "compute_trial_loss", known_loss)
    settings = SearchConfig(**(short.model_dump() | {"trials": 3}))
    for best in (1, 3):
        tried.clear()
        result = search(street, scenes, tmp_path / str(best), settings)
        assert len(tried) == 3
        assert len({architecture.choices for architecture in tried}) == 3
        assert Architecture.load(result.architecture).choices == tried[best - 1].choices
        assert result.trial_losses == [abs(index - best) for index in (1, 2, 3)]
        assert result.predicted_ms == pytest.approx(street.predict(tried[best - 1]))
        loss_after = result.loss_after
    first = search(street, scenes, tmp_path / "none", short)
    assert first.loss_after <= loss_after  # without trials, the best in the supernet wins
    assert (first.trial_losses, first.trial_steps) == ([], 0)


def test_search_reports_steps_of_trials(street, scenes, short, tmp_path):
    reported = []
    settings = SearchConfig(**(short.model_dump() | {"trials": 2, "trial_share": 0.5}))
    result = search(street, scenes, tmp_path / "run", settings, on_step=lambda *step: reported.append(step))
    assert reported == [(step, 12) for step in range(1, 13)]
    assert result.trial_steps == 3
    assert len(result.trial_losses) == 2


def test_only_interrupted_trial_is_repeated(street, scenes, short, tmp_path):
    settings = SearchConfig(**(short.model_dump() | {"trials": 2, "trial_share": 0.5}))
    whole = search(street, scenes, tmp_path / "whole", settings)

    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", settings, on_step=kill_at(10))
    reported = []
    cut = search(street, scenes, tmp_path / "cut", settings, on_step=lambda step, _: reported.append(step))
    assert reported == [10, 11, 12]  # the first trial was finished
    assert (tmp_path / "cut" / "search-trials.json").exists()
    assert cut.trial_losses == whole.trial_losses
    assert Architecture.load(cut.architecture).choices == Architecture.load(whole.architecture).choices
