"""Objectives: what any registered one must do, and what each is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lgc.models.space.cost import Cost
from lgc.search.config import SearchConfig
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.objectives import (
    OBJECTIVES,
    DualAscent,
    FixedWeight,
    NoTerm,
    Objective,
    make_objective,
)
from lgc.search.decisions import Decisions
from lgc.search.supernet.blocks import BlockDecisions

from ...spaces import ToySpace

CONFIG = SearchConfig(steps=10, beta=0.02, multiplier_lr=0.1)
RATIOS = (0.0, 1e-3, 0.7, 1.0, 1.8, 1e6)


@pytest.fixture(params=OBJECTIVES)
def objective(request) -> Objective:
    return OBJECTIVES[request.param].from_config(CONFIG)


@pytest.fixture
def constraint() -> CostConstraint:
    space, rng = ToySpace(), np.random.default_rng(0)
    single = rng.uniform(1, 2, (len(space.decisions), space.num_choices))
    costs = [Cost("ms", "random", 0.5, factor * single, {(0, 1): rng.uniform(1, 2, (3, 3))}) for factor in (1, 2)]
    return CostConstraint(Decisions(space), costs, [4.0, 15.0])


def test_penalty_is_finite_and_scalar(objective):
    for ratio in RATIOS:
        penalty = objective.penalty(torch.tensor(ratio))
        assert penalty.shape == ()
        assert math.isfinite(penalty.item())
        objective.update(ratio)
        assert math.isfinite(objective.multiplier)


def test_penalty_never_rewards_a_higher_cost(objective):
    """At the start, and after steps above the target, a higher cost never lowers the loss."""
    for _ in range(20):
        ratios = torch.linspace(1, 3, 20)
        penalties = torch.stack([objective.penalty(ratio) for ratio in ratios])
        assert (penalties.diff() >= 0).all()
        objective.update(1.5)


def test_multiplier_is_the_whole_state(objective):
    """Checkpoints hold the multiplier alone."""
    for ratio in (1.4, 0.8, 2.0):
        objective.update(ratio)
    again = type(objective).from_config(CONFIG)
    again.multiplier = objective.multiplier
    for each in (objective, again):
        each.update(1.1)
    assert again.multiplier == objective.multiplier
    assert again.penalty(torch.tensor(1.3)).item() == objective.penalty(torch.tensor(1.3)).item()


def test_gradients_match_finite_differences(objective, constraint):
    objective.update(1.7)
    logits = torch.randn(constraint.decisions.searched_shape, dtype=torch.double, requires_grad=True)

    def value(x: torch.Tensor) -> torch.Tensor:
        return objective.penalty(
            constraint.expected_target_ratio(constraint.expected(torch.softmax(x, dim=-1)))
        ).double()

    if isinstance(objective, NoTerm):
        assert not value(logits).requires_grad
    else:
        assert torch.autograd.gradcheck(value, (logits,), atol=1e-6)
        value(logits).backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() > 1e-5


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, FixedWeight),
        ({"targets_ms": ((1.0,),)}, DualAscent),
        ({"latency_term": False}, NoTerm),
        ({"latency_term": False, "targets_ms": ((1.0,),)}, NoTerm),
        ({"targets_ms": ((1e9,),)}, NoTerm),
    ],
)
def test_settings_choose_the_objective(predictor, changes, kind):
    config = SearchConfig(steps=1, **changes)
    targets = config.targets_ms[0] if config.targets_ms else None
    constraint = CostConstraint.from_predictors(BlockDecisions(predictor.space), [predictor], targets)
    assert type(make_objective(config, constraint)) is kind


def test_fixed_weight_multiplies_log_cost():
    ms, term = torch.tensor(8.0), FixedWeight(0.5)
    term.update(8.0)
    assert term.penalty(ms).item() == pytest.approx(0.5 * math.log(8))
    assert term.multiplier == 0.5


def test_no_term_is_zero():
    ratio, term = torch.tensor(8.0), NoTerm()
    term.update(8.0)
    assert (term.penalty(ratio).item(), term.multiplier) == (0.0, 0.0)


def test_dual_ascent_works_in_both_directions():
    ratio, term = torch.tensor(2.0), DualAscent(lr=0.1)
    assert term.penalty(ratio).item() == pytest.approx(math.log(2) ** 2 / 2)
    term.update(2.0)
    assert term.multiplier == pytest.approx(0.1 * math.log(2))
    assert term.penalty(ratio).item() == pytest.approx(0.6 * math.log(2) ** 2)
    term.update(0.25)
    assert term.multiplier == pytest.approx(-0.1 * math.log(2))
    assert term.penalty(torch.tensor(1.0)).item() == 0.0
