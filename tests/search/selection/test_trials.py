"""Short trainings from scratch, by which the best architectures of a search are told apart."""

from __future__ import annotations

import math

import pytest

from lgc.models import Architecture
from lgc.search.config import SearchConfig
from lgc.search.data.datasets import load_dataset, split_halves
from lgc.search.engine import search
from lgc.search.runtime.batches import load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.selection import finalize as choosing
from lgc.search.selection import trials
from lgc.search.selection.trials import compute_trial_loss


@pytest.fixture
def try_out(street_space, scenes):
    """Tries an architecture out: `try_out(seed_of_it, steps=4, ...)`; a quarter of the steps are the trial's."""
    first, second = split_halves(load_dataset(scenes, "train", (32, 32), augment=True), 0)
    judged_on = list(load_batches(second, 2, 0, start=0, stop=2))

    def run(number=0, on_step=lambda: None, **settings):
        config = SearchConfig(**({"steps": 16, "batch": 2, "trial_share": 0.25} | settings))
        return compute_trial_loss(
            street_space.sample(number), config, open_fabric("cpu"), first, judged_on, None, on_step
        )

    return run


def test_a_trial_follows_from_seed_and_architecture(try_out):
    losses = [try_out(), try_out(), try_out(seed=1), try_out(1)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    assert all(0.5 < loss < 10 for loss in losses)


def test_the_seed_is_that_of_the_first_weights_too(try_out):
    """Batches of all images are the same for all seeds, but for their order, which plays no part."""
    one, other = (try_out(seed=seed, batch=4) for seed in (0, 1))
    assert abs(one - other) > 1e-3


def test_a_trial_trains(try_out):
    ticks = []
    short, long = (try_out(steps=steps, on_step=lambda: ticks.append(0)) for steps in (4, 160))
    assert long < short - 0.2
    assert len(ticks) == 1 + 40


def test_a_trial_that_diverges_loses(try_out, monkeypatch):
    real = trials.upsampled_loss
    monkeypatch.setattr(trials, "upsampled_loss", lambda *words: real(*words) * math.nan)
    assert try_out() == math.inf


def test_the_least_loss_of_the_trials_wins(street, scenes, short, tmp_path, monkeypatch):
    """Candidates come best in the supernet first; whichever trains best is the result."""
    tried: list[Architecture] = []

    def known_loss(architecture, *words):
        tried.append(architecture)
        return abs(len(tried) - wanted)

    monkeypatch.setattr(choosing, "compute_trial_loss", known_loss)
    settings = SearchConfig(**(short.model_dump() | {"trials": 3}))
    for wanted in (1, 3):
        tried.clear()
        found = search(street, scenes, tmp_path / str(wanted), settings)
        assert len(tried) == 3
        assert len({one.choices for one in tried}) == 3
        assert Architecture.load(found["architecture"]).choices == tried[wanted - 1].choices
        assert found["trial_losses"] == [abs(index - wanted) for index in (1, 2, 3)]
        assert found["predicted_ms"] == pytest.approx(street.predict(tried[wanted - 1]))
        losses = found["loss_after"]
    first = search(street, scenes, tmp_path / "none", short)
    assert first["loss_after"] <= losses  # without trials, the best one in the supernet
    assert (first["trial_losses"], first["trial_steps"]) == ([], 0)


def test_a_search_tells_the_steps_of_its_trials(street, scenes, short, tmp_path):
    told = []
    settings = SearchConfig(**(short.model_dump() | {"trials": 2, "trial_share": 0.5}))
    found = search(street, scenes, tmp_path / "run", settings, on_step=lambda *step: told.append(step))
    assert told == [(step, 12) for step in range(1, 13)]
    assert found["trial_steps"] == 3
    assert len(found["trial_losses"]) == 2


def test_killed_in_a_trial_only_that_one_is_made_again(street, scenes, short, tmp_path):
    settings = SearchConfig(**(short.model_dump() | {"trials": 2, "trial_share": 0.5}))
    whole = search(street, scenes, tmp_path / "whole", settings)

    def die(step: int, steps: int) -> None:
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(street, scenes, tmp_path / "cut", settings, on_step=die)
    told = []
    cut = search(street, scenes, tmp_path / "cut", settings, on_step=lambda step, _: told.append(step))
    assert told == [10, 11, 12]  # the first trial was finished
    assert (tmp_path / "cut" / "search-trials.json").exists()
    assert cut["trial_losses"] == whole["trial_losses"]
    assert Architecture.load(cut["architecture"]).choices == Architecture.load(whole["architecture"]).choices
