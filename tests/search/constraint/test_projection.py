"""Projection of architectures onto targets, compared with enumerations of small spaces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lgc.models import SearchSpace
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.projection import TARGET_TOLERANCE, ArchitectureBatch, build_architecture, project_to_target
from lgc.search.supernet.blocks import BlockDecisions

seeds = st.integers(0, 100_000)
shares = st.sampled_from([0.0, 1e-4, 0.01, 1.0]) | st.floats(0, 1)


def preferences(latency: CostConstraint, seed: int, count: int, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).gumbel(size=(count, *latency.decisions.searched_shape))


def enumerate_space(space: SearchSpace) -> ArchitectureBatch:
    every = itertools.product(*(range(len(decision.choices)) for decision in space.decisions))
    return ArchitectureBatch(np.array([choices for choices in every if space.find_fault(choices) is None]))


@pytest.fixture(scope="session")
def all_little(little_space) -> ArchitectureBatch:
    return enumerate_space(little_space)


@pytest.fixture(params=["little", "mini", "deep", "zeroless", "deep, shared, fixed fusion"])
def decisions(request, little_space, mini_space, deep_space, zeroless_space) -> BlockDecisions:
    spaces = {"little": little_space, "mini": mini_space, "deep": deep_space, "zeroless": zeroless_space}
    name, *rest = request.param.split(", ")
    return BlockDecisions(spaces[name], shared=bool(rest), fixed_fusion=bool(rest))


@given(seed=seeds, share=shares, scale=st.sampled_from([0.0, 0.1, 3.0, 1e4]))
@settings(max_examples=30)
def test_results_are_valid_and_meet_target(decisions, random_predictor, latency_at, seed, share, scale):
    latency = latency_at(decisions, random_predictor(decisions.space, seed), share)
    preference = preferences(latency, seed, 8, scale)
    start = np.random.default_rng(seed).integers(latency.decisions.searched_shape[1], size=(8, decisions.num_searched))
    for choices in (start, preference.argmax(axis=2)):
        batch = project_to_target(choices, preference, latency)
        assert (latency.target_ratio(batch.choices) <= 1 + 1e-9).all()
        for row in range(len(batch)):
            architecture = build_architecture(batch, row, latency)  # validates itself
            assert architecture.choices[-1] == batch.choices[row, -1]
            assert np.array_equal(decisions.expand(batch.choices[row : row + 1])[0], architecture.choices)


@given(seed=seeds, share=st.floats(0.03, 0.97))
@example(seed=74834, share=0.625)  # one choice takes three quarters of the range
@settings(max_examples=20)
def test_medium_space_ends_within_one_percent(random_predictor, latency_at, seed, share):
    decisions = BlockDecisions(SearchSpace.load("tiny"))
    latency = latency_at(decisions, random_predictor(decisions.space, seed), share)
    preference = preferences(latency, seed, 8)
    batch = project_to_target(preference.argmax(axis=2), preference, latency)
    ratio = latency.target_ratio(batch.choices)
    assert (ratio <= 1 + 1e-9).all()
    assert (ratio >= 1 - TARGET_TOLERANCE).all()


@given(seed=seeds, share=shares)
@settings(max_examples=30)
def test_no_swap_ends_nearer_outside_tolerance(little_space, random_predictor, latency_at, all_little, seed, share):
    decisions = BlockDecisions(little_space)
    latency = latency_at(decisions, random_predictor(little_space, seed), share)
    preference = preferences(latency, seed, 20)
    batch = project_to_target(preference.argmax(axis=2), preference, latency)
    ratios = latency.target_ratio(all_little.choices)
    for choices, ratio in zip(batch.choices, latency.target_ratio(batch.choices), strict=True):
        if ratio < 1 - TARGET_TOLERANCE:
            neighbours = (all_little.choices != choices)[:, :-1].sum(axis=1) <= 1  # with any head
            assert neighbours.sum() > 3
            assert ratios[neighbours & (ratios <= 1)].max() <= ratio + 1e-9


@given(seed=seeds)
@settings(max_examples=20)
def test_fastest_and_slowest_match_enumeration(little_space, random_predictor, all_little, seed):
    decisions = BlockDecisions(little_space)
    single = CostConstraint.from_predictors(decisions, [random_predictor(little_space, seed)], [2.0])
    ratios = single.target_ratio(all_little.choices)
    assert single.target_ratio(single.costliest)[0] == pytest.approx(ratios.max())
    assert single.target_ratio(single.cheapest)[0] == pytest.approx(ratios.min())
    predictors = [random_predictor(little_space, seed), random_predictor(little_space, seed + 1)]
    double = CostConstraint.from_predictors(decisions, predictors, [2.0, 1.0])
    ratios = double.target_ratio(all_little.choices)
    assert ratios.min() <= double.target_ratio(double.cheapest)[0] + 1e-12 <= 1.05 * ratios.min()
    assert double.target_ratio(double.costliest)[0] == pytest.approx(ratios.max())


@given(seed=seeds, slack=st.sampled_from([1e-9, 0.003, 0.05]))
@settings(max_examples=30)
def test_targets_of_all_tables_are_met(decisions, random_predictor, seed, slack):
    """The targets are the latencies of a random architecture, so both are feasible."""
    predictors = [random_predictor(decisions.space, seed), random_predictor(decisions.space, seed + 1)]
    free = CostConstraint.from_predictors(decisions, predictors)
    start = decisions.with_defaults(preferences(free, seed + 2, 1).argmax(axis=2))
    reference = decisions.repair(start, decisions.complete_preferences(np.zeros(decisions.searched_shape)))
    reference[:, -1] = seed % len(decisions.space.heads)
    targets = free.evaluate(reference)[0] * (1 + slack)
    latency = CostConstraint.from_predictors(decisions, predictors, targets)
    preference = preferences(latency, seed, 8)
    batch = project_to_target(preference.argmax(axis=2), preference, latency)
    assert (latency.evaluate(batch.choices) <= targets * (1 + 1e-9)).all()
    assert (latency.target_ratio(batch.choices) > 0.5).all()


def test_infeasible_target_gives_the_fastest(decisions, random_predictor):
    predictor = random_predictor(decisions.space, 0)
    free = CostConstraint.from_predictors(decisions, [predictor])
    fastest = free.target_ratio(free.cheapest)[0]
    latency = CostConstraint.from_predictors(decisions, [predictor], [0.9 * fastest])
    preference = preferences(latency, 0, 8)
    batch = project_to_target(preference.argmax(axis=2), preference, latency)
    assert latency.target_ratio(batch.choices) == pytest.approx(np.full(8, 1 / 0.9))


def one_hot_preference(latency: CostConstraint, choices: np.ndarray) -> np.ndarray:
    preference = np.full(latency.decisions.searched_shape, -60.0)
    preference[np.arange(len(preference)), choices[: len(preference)]] = 0.0
    return preference


@given(seed=seeds)
@settings(max_examples=20)
def test_architecture_on_target_is_returned_unchanged(decisions, random_predictor, seed):
    predictor = random_predictor(decisions.space, seed)
    free = CostConstraint.from_predictors(decisions, [predictor])
    start = preferences(free, seed, 1)
    choices = decisions.repair(decisions.with_defaults(start.argmax(axis=2)), decisions.complete_preferences(start))
    latency = CostConstraint.from_predictors(decisions, [predictor], free.evaluate(choices)[0] * (1 + 1e-9))
    batch = project_to_target(choices[:, :-1], one_hot_preference(latency, choices[0]), latency)
    assert np.array_equal(batch.choices, choices)


@pytest.mark.parametrize(("over_ms", "head"), [(-0.05, 0), (0.0, 1), (0.05, 2)])
def test_head_absorbs_less_than_a_swap(little_space, random_predictor, over_ms, head):
    predictor, decisions = random_predictor(little_space, 0), BlockDecisions(little_space)
    predictor.edge_ms[:] = [0.0, 0.1, 0.2]
    predictor.head_ms[:] = [-0.05, 0.0, 0.05]
    choices = np.array([1, 2, 1, 1, 2, 1])
    start = decisions.with_defaults(choices[None])
    own = CostConstraint.from_predictors(decisions, [predictor]).evaluate(start)[0]
    latency = CostConstraint.from_predictors(decisions, [predictor], own + over_ms + 1e-9)
    batch = project_to_target(choices[None], one_hot_preference(latency, choices), latency)
    assert batch.choices.tolist() == [[*choices, head]]


def test_all_heads_are_used(little_space, random_predictor, latency_at):
    decisions = BlockDecisions(little_space)
    latency = latency_at(decisions, random_predictor(little_space, 0), 0.5)
    preference = preferences(latency, 0, 200)
    heads = project_to_target(preference.argmax(axis=2), preference, latency).choices[:, -1]
    assert set(heads) == {0, 1, 2}


def test_swap_loses_the_smallest_preference(zeroless_space, random_predictor):
    """Operators cost the same everywhere, so the nearly indifferent decision is swapped."""
    predictor = random_predictor(zeroless_space, 0)
    predictor.edge_ms[:] = [0.0, 0.1]
    decisions = BlockDecisions(zeroless_space)
    slow = np.ones(decisions.num_searched, np.int64)
    latency = CostConstraint.from_predictors(decisions, [predictor], [0.5 + 0.1 * (decisions.num_searched - 1) + 1e-6])
    preference = np.tile([0.0, 5.0], (decisions.num_searched, 1))
    preference[3] = [0.0, 0.2]
    batch = project_to_target(slow[None], preference, latency)
    assert np.flatnonzero(batch.choices[0, :-1] == 0).tolist() == [3]
    loose = CostConstraint.from_predictors(decisions, [predictor], [0.5 + 0.1 + 1e-6])
    preference[:, 1] = -5.0
    preference[7, 1] = -0.2
    assert np.flatnonzero(project_to_target(0 * slow[None], preference, loose).choices[0, :-1]).tolist() == [7]


def test_slack_is_spent_by_preference(zeroless_space, random_predictor):
    predictor = random_predictor(zeroless_space, 0)
    predictor.edge_ms[:] = [0.0, 0.1]
    decisions = BlockDecisions(zeroless_space)
    preference = np.zeros((decisions.num_searched, 2))
    preference[[2, 5, 11], 1] = [1.0, 3.0, 2.0]
    for count, selected in ((1, [5]), (2, [5, 11]), (3, [2, 5, 11])):
        latency = CostConstraint.from_predictors(decisions, [predictor], [0.5 + 0.1 * count + 1e-6])
        batch = project_to_target(np.zeros((1, decisions.num_searched), np.int64), preference, latency)
        assert np.flatnonzero(batch.choices[0, :-1]).tolist() == selected


@given(seed=seeds)
@settings(max_examples=20)
def test_without_target_architectures_are_only_repaired(decisions, random_predictor, seed):
    latency = CostConstraint.from_predictors(decisions, [random_predictor(decisions.space, seed)])
    preference = preferences(latency, seed, 4)
    choices = np.random.default_rng(seed).integers(
        latency.decisions.searched_shape[1], size=(4, decisions.num_searched)
    )
    batch = project_to_target(choices, preference, latency)
    expected = decisions.repair(decisions.with_defaults(choices), decisions.complete_preferences(preference))
    assert np.array_equal(batch.choices, expected)


def test_arguments_are_not_modified(little_space, random_predictor, latency_at):
    decisions = BlockDecisions(little_space)
    latency = latency_at(decisions, random_predictor(little_space, 1), 0.3)
    preference = preferences(latency, 1, 5)
    choices, before = preference.argmax(axis=2), preference.copy()
    start = choices.copy()
    project_to_target(choices, preference, latency)
    assert np.array_equal(choices, start)
    assert np.array_equal(preference, before)


def test_shared_preference_equals_repeated_preferences(little_space, random_predictor, latency_at):
    decisions = BlockDecisions(little_space)
    latency = latency_at(decisions, random_predictor(little_space, 1), 0.3)
    shared = preferences(latency, 1, 1)[0]
    choices = preferences(latency, 2, 6).argmax(axis=2)
    single, repeated = (
        project_to_target(choices, preference, latency) for preference in (shared, np.repeat(shared[None], 6, axis=0))
    )
    assert np.array_equal(single.choices, repeated.choices)


def test_drop_duplicates_keeps_first_in_order():
    batch = ArchitectureBatch(np.array([[2, 1, 0], [0, 1, 1], [2, 1, 0], [0, 1, 0], [0, 1, 1]]))
    unique = batch.drop_duplicates()
    assert unique.choices.tolist() == [[2, 1, 0], [0, 1, 1], [0, 1, 0]]
    assert len(batch.select(batch.choices[:, -1] == 1)) == 2
