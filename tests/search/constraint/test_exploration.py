"""Random paths of a supernet lie near the targets, and anywhere without them."""

from __future__ import annotations

import numpy as np
import pytest

from lgc.lut.predictor import Predictor
from lgc.models.space.lgcnet import LGCNetSpace
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.exploration import LOWEST_SHARE, NUM_PATHS, draw_paths
from lgc.search.decisions import Decisions

from ...spaces import SLIM


@pytest.fixture
def slim(predict) -> Predictor:
    return predict(LGCNetSpace.check({**SLIM, "classes": 11}, "slim"))


def make_constraint(predictor: Predictor, share: float | None) -> CostConstraint:
    fastest, slowest = predictor.range_ms
    targets = None if share is None else [fastest + share * (slowest - fastest)]
    return CostConstraint.from_predictors(Decisions(predictor.space), [predictor], targets)


def test_paths_lie_near_the_target(slim):
    constraint = make_constraint(slim, 0.6)
    paths = draw_paths([constraint], 0)
    assert len(paths) == NUM_PATHS
    ratios = constraint.target_ratio(constraint.decisions.with_defaults(paths))
    cheapest = float(constraint.target_ratio(constraint.cheapest)[0])
    assert ratios.max() <= 1 + 1e-9
    assert ratios.max() > 0.97
    assert np.quantile(ratios, 0.1) > 0.8 * max(LOWEST_SHARE, cheapest)
    assert len(np.unique(paths, axis=0)) > 100
    for each, decision in zip(paths.T, constraint.decisions.decisions, strict=True):
        assert len(np.unique(each)) == len(decision.choices)


def test_each_point_has_an_equal_share(slim):
    low, high = (make_constraint(slim, share) for share in (0.2, 0.8))
    paths = draw_paths([low, high], 0)
    ratios = low.target_ratio(low.decisions.with_defaults(paths))
    half = len(paths) // 2
    assert ratios[:half].max() <= 1 + 1e-9 < ratios[half:].mean()


def test_lowest_target_is_feasible(slim):
    fastest, _ = slim.range_ms
    constraint = CostConstraint.from_predictors(Decisions(slim.space), [slim], [1.02 * fastest])
    ratios = constraint.target_ratio(constraint.decisions.with_defaults(draw_paths([constraint], 0)))
    assert ratios.max() <= 1 + 1e-9


@pytest.mark.parametrize("share", [None, 2.0])
def test_without_active_target_paths_are_uniform(slim, share):
    constraint = make_constraint(slim, share)
    paths = draw_paths([constraint], 0)
    for each, decision in zip(paths.T, constraint.decisions.decisions, strict=True):
        frequencies = np.bincount(each) / len(paths)
        assert np.abs(frequencies - 1 / len(decision.choices)).max() < 0.07


def test_seed_determines_the_paths(slim):
    constraint = make_constraint(slim, 0.5)
    first, again, other = (draw_paths([constraint], seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
