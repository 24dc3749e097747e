from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.models import Architecture
from lgc.search.derive import derive, fit_target, make_valid


def log_probabilities(predictor, seed: int, scale: float = 3.0):
    logits = np.random.default_rng(seed).normal(size=predictor.edge_ms.shape) * scale
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.98))
def test_results_are_valid_and_land_below_the_target(predictor, seed, share):
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    target = low + share * (high - low)
    log_p = log_probabilities(predictor, seed)
    draw = np.random.default_rng(seed).integers(0, log_p.shape[1], log_p.shape[0])
    choices = fit_target(make_valid(draw, log_p, predictor.space), log_p, predictor, target)
    found = Architecture.from_choices(predictor.space, choices.tolist())  # validates
    assert predictor.predict(found) <= target + 1e-9
    assert predictor.predict(found) >= 0.9 * target or share < 0.15


@given(seed=st.integers(0, 10_000))
def test_valid_choices_are_left_alone(predictor, seed):
    log_p = log_probabilities(predictor, seed)
    choices = np.array(predictor.space.sample(seed).choices)
    assert np.array_equal(make_valid(choices, log_p, predictor.space), choices)
    assert np.array_equal(fit_target(choices, log_p, predictor, None), choices)


@given(seed=st.integers(0, 10_000))
def test_anything_can_be_made_valid(predictor, seed):
    log_p = log_probabilities(predictor, seed)
    for draw in (np.zeros(log_p.shape[0], dtype=np.int64), log_p.argmax(1)):
        Architecture.from_choices(predictor.space, make_valid(draw, log_p, predictor.space).tolist())


def test_a_certain_distribution_gives_its_architecture(predictor):
    wanted = predictor.space.sample(5)
    log_p = np.full(predictor.edge_ms.shape, -60.0)
    log_p[np.arange(len(wanted.choices)), wanted.choices] = 0.0
    found = derive(log_p, predictor, lambda a: 0.0, target_ms=None, samples=20, finalists=2, seed=0)
    assert found.choices == wanted.choices


def test_the_finalist_of_least_loss_wins(predictor):
    log_p = log_probabilities(predictor, 1, scale=0.5)
    seen: dict[tuple[int, ...], float] = {}

    def loss_of(architecture: Architecture) -> float:
        seen[architecture.choices] = float(len(seen) * 7 % 5)
        return seen[architecture.choices]

    found = derive(log_p, predictor, loss_of, target_ms=None, samples=50, finalists=5, seed=0)
    assert len(seen) == 5
    assert seen[found.choices] == min(seen.values())


def test_a_target_below_everything_gives_the_fastest(predictor):
    log_p = log_probabilities(predictor, 2)
    start = np.array(predictor.slowest.choices)
    found = fit_target(start, log_p, predictor, predictor.predict(predictor.fastest))
    assert predictor.predict_many(found[None])[0] == pytest.approx(predictor.predict(predictor.fastest))
