"""Constraint, projection and strategies in any search space, and under any cost: the search's half of the suite."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lgc.lut import Predictor
from lgc.models import Space
from lgc.models.space.cost import Cost
from lgc.models.space.costs import count_cost
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.projection import TARGET_TOLERANCE, build_architecture, project_to_target
from lgc.search.decisions import Decisions
from lgc.search.selection.strategies import sample_likely

from ...spaces import EXAMPLES, enumerate_choices

seeds = st.integers(0, 10_000)


@pytest.fixture(params=EXAMPLES)
def space(request) -> Space:
    return EXAMPLES[request.param]()


@pytest.fixture(params=["latency", "macs"])
def cost(request, space, make_table) -> Cost:
    """Costs of two units: the search knows neither."""
    return Predictor(space, make_table(space)).cost if request.param == "latency" else count_cost(space, "macs")


def at_share(space: Space, cost: Cost, share: float) -> CostConstraint:
    """Return a constraint with a target at a share of the range of the space."""
    values = cost.evaluate(enumerate_choices(space))
    return CostConstraint(Decisions(space), [cost], [values.min() + share * np.ptp(values)])


def draw_preferences(constraint: CostConstraint, seed: int, count: int) -> np.ndarray:
    return 3 * constraint.decisions.draw_preferences(count, np.random.default_rng(seed))


@given(seed=seeds, share=st.floats(0, 1))
@settings(max_examples=15)
def test_projection_is_valid_and_on_target(space, cost, seed, share):
    constraint = at_share(space, cost, share * 0.999 + 0.001)
    preference = draw_preferences(constraint, seed, 16)
    batch = project_to_target(preference.argmax(axis=2), preference, constraint)
    ratios = constraint.target_ratio(batch.choices)
    assert (ratios <= 1 + 1e-9).all()
    for row in range(len(batch)):
        architecture = build_architecture(batch, row, constraint)  # validates itself
        assert architecture.choices == tuple(batch.choices[row])
    reachable = constraint.target_ratio(enumerate_choices(space))
    for choices, ratio in zip(batch.choices, ratios, strict=True):
        if ratio < 1 - TARGET_TOLERANCE:  # then no single swap, with any choice of the last step, ends nearer
            searched = constraint.decisions.num_searched
            near = (enumerate_choices(space) != choices)[:, :searched].sum(axis=1) <= 1
            assert reachable[near & (reachable <= 1)].max() <= ratio + 1e-9


def test_projection_without_defaults(space, cost):
    """Every decision of the search is searched: those with a default have it fixed."""
    defaults = [decision.default for decision in space.decisions]
    searched = [index for index, default in enumerate(defaults) if default is None]
    assignment = [*range(len(searched)), *[-1] * (len(defaults) - len(searched))]
    decisions = Decisions(space, assignment, [default or 0 for default in defaults])
    free = CostConstraint(decisions, [cost])
    cheapest, costliest = (float(free.target_ratio(end)[0]) for end in (free.cheapest, free.costliest))
    constraint = CostConstraint(decisions, [cost], [(cheapest + costliest) / 2])
    preference = draw_preferences(constraint, 0, 16)
    batch = project_to_target(preference.argmax(axis=2), preference, constraint)
    assert batch.choices.shape == (16, len(searched))
    assert (constraint.target_ratio(batch.choices) <= 1 + 1e-9).all()


def test_extremes_match_enumeration(space, cost):
    constraint, rows = at_share(space, cost, 0.5), enumerate_choices(space)
    ratios = constraint.target_ratio(rows)
    assert constraint.target_ratio(constraint.cheapest)[0] == pytest.approx(ratios.min())
    assert constraint.target_ratio(constraint.costliest)[0] == pytest.approx(ratios.max())


def test_two_costs_are_held_together(space, make_table):
    latency, macs = Predictor(space, make_table(space)).cost, count_cost(space, "macs")
    rows = enumerate_choices(space)
    targets = [float(np.quantile(each.evaluate(rows), 0.6)) for each in (latency, macs)]
    constraint = CostConstraint(Decisions(space), [latency, macs], targets)
    assert [each.unit for each in constraint.costs] == ["ms", "macs"]
    preference = draw_preferences(constraint, 0, 16)
    batch = project_to_target(preference.argmax(axis=2), preference, constraint)
    assert (constraint.evaluate(batch.choices) <= np.array(targets) * (1 + 1e-9)).all()


def one_hot(decisions: Decisions, choices: np.ndarray) -> torch.Tensor:
    searched = torch.from_numpy(choices[: decisions.num_searched])
    return F.one_hot(searched, decisions.searched_shape[1]).double()


def test_one_hot_probabilities_give_the_cost(space, cost):
    constraint = CostConstraint(Decisions(space), [cost])
    for architecture in itertools.islice((space.sample(seed) for seed in itertools.count()), 10):
        choices = np.array(architecture.choices)
        expected = constraint.expected(one_hot(constraint.decisions, choices))
        assert expected.item() == pytest.approx(cost.evaluate(choices[None])[0], rel=1e-5)


def random_probabilities(decisions: Decisions, seed: int) -> torch.Tensor:
    logits = decisions.draw_preferences(1, np.random.default_rng(seed))[0]
    return torch.softmax(torch.from_numpy(logits), dim=-1)


def test_expected_cost_is_mean_over_samples(space, cost):
    decisions = Decisions(space)
    constraint, p = CostConstraint(decisions, [cost]), random_probabilities(decisions, 0)
    torch.manual_seed(0)
    samples = torch.multinomial(p, 40_000, replacement=True).T.numpy()
    mean = constraint.evaluate(decisions.with_defaults(samples)).mean()
    assert constraint.expected(p).item() == pytest.approx(mean, rel=0.01)


def test_gradients_match_finite_differences(space, cost):
    scaled = cost.scale(1 / float(cost.evaluate(np.array([space.sample(0).choices]))[0]))
    decisions = Decisions(space)
    constraint = CostConstraint(decisions, [scaled])
    probabilities = random_probabilities(decisions, 1)
    rows, columns = probabilities.shape
    missing = torch.from_numpy(~decisions.exists[:rows, :columns])
    logits = probabilities.clamp_min(1e-3).log().requires_grad_()

    def expect(x: torch.Tensor) -> torch.Tensor:
        return constraint.expected(torch.softmax(x.masked_fill(missing, -torch.inf), dim=-1))

    assert torch.autograd.gradcheck(expect, (logits,), eps=1e-3, atol=1e-4)


def test_likely_candidates_are_unique_and_on_target(space, cost):
    constraint = at_share(space, cost, 0.5)
    log_p = random_probabilities(constraint.decisions, 3).clamp_min(1e-300).log().numpy()
    candidates = sample_likely(log_p, constraint, 64, 8, 0)
    assert 1 < len(candidates.drop_duplicates()) == len(candidates) <= 8
    assert (constraint.target_ratio(candidates.choices) <= 1 + 1e-9).all()


def test_shared_and_fixed_decisions_expand(space, cost):
    """Two decisions with equal choices share one, and another is fixed."""
    names = [decision.choices if decision.default is None else None for decision in space.decisions]
    pairs = itertools.combinations(range(len(names)), 2)
    first, second = next((a, b) for a, b in pairs if names[a] is not None and names[a] == names[b])
    fixed = next(index for index, choices in enumerate(names) if index not in (first, second) and choices)
    assignment, number = [-1] * len(names), itertools.count()
    for index in range(len(names)):
        if index != fixed:
            assignment[index] = assignment[first] if index == second else next(number)
    choice = names[fixed].index(names[fixed][-1])
    decisions = Decisions(space, assignment, [choice if index == fixed else 0 for index in range(len(names))])
    constraint = CostConstraint(decisions, [cost])
    preference = decisions.draw_preferences(20, np.random.default_rng(0))
    batch = project_to_target(preference.argmax(axis=2), preference, constraint)
    expanded = decisions.expand(batch.choices)
    assert (expanded[:, first] == expanded[:, second]).all()
    assert (expanded[:, fixed] == choice).all()
    assert all(space.find_fault(choices) is None for choices in expanded.tolist())
    np.testing.assert_allclose(constraint.evaluate(batch.choices)[:, 0], cost.evaluate(expanded), rtol=1e-12)
