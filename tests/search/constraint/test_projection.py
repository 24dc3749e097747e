"""Bringing architectures onto targets, against enumerations of small spaces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lgc.lut import Predictor
from lgc.models import Architecture, SearchSpace
from lgc.search.constraint.latency import Latency
from lgc.search.constraint.projection import ROOM, ArchitectureBatch, architecture_of, project_to_target
from lgc.search.decisions import Decisions

seeds = st.integers(0, 100_000)
shares = st.sampled_from([0.0, 1e-4, 0.01, 1.0]) | st.floats(0, 1)


def reach(latency: Latency) -> tuple[float, float]:
    """Load of the fastest architecture, and of that with all the dearest operators."""
    dearest = latency.ms[0].argmax(axis=1)
    return float(latency.load(*latency.fastest)[0]), float(latency.load(dearest[None], np.array([-1]))[0])


def on_the_way(blocks: Decisions, predictor: Predictor, share: float) -> Latency:
    """Loads against a target at a share of the way from the fastest to the slowest architecture."""
    fastest, slowest = reach(Latency(blocks, [predictor]))
    return Latency(blocks, [predictor], [fastest + share * (slowest - fastest)])


def preferences(latency: Latency, seed: int, count: int, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).gumbel(size=(count, *latency.ms.shape[1:]))


def every_architecture(space: SearchSpace) -> ArchitectureBatch:
    rows = []
    for choices in itertools.product(range(len(space.operators)), repeat=space.edges):
        try:
            Architecture.from_choices(space, choices)
        except ValidationError:
            continue
        rows += [(*choices, head) for head in range(len(space.heads))]
    table = np.array(rows)
    return ArchitectureBatch(table[:, :-1], table[:, -1])


@pytest.fixture(scope="session")
def all_little(little_space) -> ArchitectureBatch:
    return every_architecture(little_space)


@pytest.fixture(params=["little", "mini", "deep", "zeroless", "deep, shared, fixed fusion"])
def blocks(request, little_space, mini_space, deep_space, zeroless_space) -> Decisions:
    spaces = {"little": little_space, "mini": mini_space, "deep": deep_space, "zeroless": zeroless_space}
    name, *rest = request.param.split(", ")
    return Decisions(spaces[name], shared=bool(rest), fixed_fusion=bool(rest))


@given(seed=seeds, share=shares, scale=st.sampled_from([0.0, 0.1, 3.0, 1e4]))
@settings(max_examples=30)
def test_results_are_valid_and_never_above_a_target_in_reach(blocks, made_up, seed, share, scale):
    latency = on_the_way(blocks, made_up(blocks.space, seed), share)
    wanted = preferences(latency, seed, 8, scale)
    start = np.random.default_rng(seed).integers(latency.ms.shape[2], size=(8, blocks.decisions))
    for picked in (start, wanted.argmax(axis=2)):
        found = project_to_target(picked, wanted, latency)
        assert (latency.load(found.picked, found.heads) <= 1 + 1e-9).all()
        for row in range(len(found)):
            architecture = architecture_of(found, row, latency)  # checks itself
            assert architecture.head == found.heads[row]
            assert np.array_equal(blocks.expand(found.picked[row : row + 1])[0], architecture.choices)


@given(seed=seeds, share=st.floats(0.03, 0.97))
@settings(max_examples=20)
def test_in_a_space_of_some_size_results_land_within_one_percent(made_up, seed, share):
    blocks = Decisions(SearchSpace.load("tiny"))
    latency = on_the_way(blocks, made_up(blocks.space, seed), share)
    wanted = preferences(latency, seed, 8)
    found = project_to_target(wanted.argmax(axis=2), wanted, latency)
    load = latency.load(found.picked, found.heads)
    assert (load <= 1 + 1e-9).all()
    assert (load >= 1 - ROOM).all()


@given(seed=seeds, share=shares)
@settings(max_examples=30)
def test_where_nothing_lands_no_swap_and_no_head_is_nearer(little_space, made_up, all_little, seed, share):
    blocks = Decisions(little_space)
    latency = on_the_way(blocks, made_up(little_space, seed), share)
    wanted = preferences(latency, seed, 20)
    found = project_to_target(wanted.argmax(axis=2), wanted, latency)
    everything = latency.load(all_little.picked, all_little.heads)
    for picked, load in zip(found.picked, latency.load(found.picked, found.heads), strict=True):
        if load < 1 - ROOM:
            near = (all_little.picked != picked).sum(axis=1) <= 1  # with any head
            assert near.sum() > 3
            assert everything[near & (everything <= 1)].max() <= load + 1e-9


@given(seed=seeds)
@settings(max_examples=20)
def test_the_fastest_and_the_slowest_are_those_of_all(little_space, made_up, all_little, seed):
    blocks = Decisions(little_space)
    one = Latency(blocks, [made_up(little_space, seed)], [2.0])
    assert one.load(*one.slowest)[0] == pytest.approx(one.load(all_little.picked, all_little.heads).max())
    assert one.load(*one.fastest)[0] == pytest.approx(one.load(all_little.picked, all_little.heads).min())
    two = Latency(blocks, [made_up(little_space, seed), made_up(little_space, seed + 1)], [2.0, 1.0])
    least = two.load(all_little.picked, all_little.heads).min()
    assert least <= two.load(*two.fastest)[0] + 1e-12 <= 1.05 * least
    assert two.load(*two.slowest)[0] == pytest.approx(two.load(all_little.picked, all_little.heads).max())


@given(seed=seeds, slack=st.sampled_from([1e-9, 0.003, 0.05]))
@settings(max_examples=30)
def test_the_targets_of_all_tables_are_met(blocks, made_up, seed, slack):
    """Two tables; the targets are those of a random architecture, so both can be met."""
    predictors = [made_up(blocks.space, seed), made_up(blocks.space, seed + 1)]
    free = Latency(blocks, predictors)
    heads = np.array([seed % len(blocks.space.heads)])
    reference = blocks.repaired(preferences(free, seed + 2, 1).argmax(axis=2), np.zeros(free.ms.shape[1:]))
    targets = free.predicted_ms(reference, heads)[0] * (1 + slack)
    latency = Latency(blocks, predictors, targets)
    wanted = preferences(latency, seed, 8)
    found = project_to_target(wanted.argmax(axis=2), wanted, latency)
    assert (latency.predicted_ms(found.picked, found.heads) <= targets * (1 + 1e-9)).all()
    assert (latency.load(found.picked, found.heads) > 0.5).all()


def test_a_target_out_of_reach_gives_the_fastest(blocks, made_up):
    predictor = made_up(blocks.space, 0)
    fastest = reach(Latency(blocks, [predictor]))[0]
    latency = Latency(blocks, [predictor], [0.9 * fastest])
    wanted = preferences(latency, 0, 8)
    found = project_to_target(wanted.argmax(axis=2), wanted, latency)
    assert latency.load(found.picked, found.heads) == pytest.approx(np.full(8, 1 / 0.9))


def certain(latency: Latency, picked: np.ndarray) -> np.ndarray:
    wanted = np.full(latency.ms.shape[1:], -60.0)
    wanted[np.arange(len(picked)), picked] = 0.0
    return wanted


@given(seed=seeds)
@settings(max_examples=20)
def test_what_is_certain_is_returned_at_its_own_latency(blocks, made_up, seed):
    free = Latency(blocks, [made_up(blocks.space, seed)])
    start = preferences(free, seed, 1)
    picked = blocks.repaired(start.argmax(axis=2), start)[0]
    latency = Latency(blocks, [made_up(blocks.space, seed)], free.predicted_ms(picked[None])[0] * (1 + 1e-9))
    found = project_to_target(picked[None], certain(latency, picked), latency)
    assert np.array_equal(found.picked[0], picked)
    assert found.heads[0] == latency.default_head


@pytest.mark.parametrize(("over_ms", "head"), [(-0.05, 0), (0.0, 1), (0.05, 2)])
def test_the_head_takes_up_what_is_less_than_a_swap(little_space, made_up, over_ms, head):
    predictor, blocks = made_up(little_space, 0), Decisions(little_space)
    predictor.edge_ms[:] = [0.0, 0.1, 0.2]
    predictor.head_ms[:] = [-0.05, 0.0, 0.05]
    picked = np.array([1, 2, 1, 1, 2, 1])
    own = Latency(blocks, [predictor]).predicted_ms(picked[None])[0]
    latency = Latency(blocks, [predictor], own + over_ms + 1e-9)
    found = project_to_target(picked[None], certain(latency, picked), latency)
    assert np.array_equal(found.picked[0], picked)
    assert found.heads[0] == head


def test_all_heads_come_to_use(little_space, made_up):
    blocks = Decisions(little_space)
    latency = on_the_way(blocks, made_up(little_space, 0), 0.5)
    wanted = preferences(latency, 0, 200)
    heads = project_to_target(wanted.argmax(axis=2), wanted, latency).heads
    assert set(heads) == {0, 1, 2}


def test_preference_is_given_up_where_it_costs_least(zeroless_space, made_up):
    """Equal operators all over: the one decision that is nearly indifferent is swapped."""
    predictor = made_up(zeroless_space, 0)
    predictor.edge_ms[:] = [0.0, 0.1]
    blocks = Decisions(zeroless_space)
    dear = np.ones(blocks.decisions, np.int64)
    latency = Latency(blocks, [predictor], [0.5 + 0.1 * (blocks.decisions - 1) + 1e-6])
    wanted = np.tile([0.0, 5.0], (blocks.decisions, 1))
    wanted[3] = [0.0, 0.2]
    found = project_to_target(dear[None], wanted, latency)
    assert np.flatnonzero(found.picked[0] == 0).tolist() == [3]
    spare = Latency(blocks, [predictor], [0.5 + 0.1 + 1e-6])
    wanted[:, 1] = -5.0
    wanted[7, 1] = -0.2
    assert np.flatnonzero(project_to_target(0 * dear[None], wanted, spare).picked[0]).tolist() == [7]


def test_room_is_spent_on_what_is_wanted_first(zeroless_space, made_up):
    predictor = made_up(zeroless_space, 0)
    predictor.edge_ms[:] = [0.0, 0.1]
    blocks = Decisions(zeroless_space)
    wanted = np.zeros((blocks.decisions, 2))
    wanted[[2, 5, 11], 1] = [1.0, 3.0, 2.0]
    for count, kept in ((1, [5]), (2, [5, 11]), (3, [2, 5, 11])):
        latency = Latency(blocks, [predictor], [0.5 + 0.1 * count + 1e-6])
        found = project_to_target(np.zeros((1, blocks.decisions), np.int64), wanted, latency)
        assert np.flatnonzero(found.picked[0]).tolist() == kept


@given(seed=seeds)
@settings(max_examples=20)
def test_without_a_target_architectures_are_only_made_valid(blocks, made_up, seed):
    latency = Latency(blocks, [made_up(blocks.space, seed)])
    wanted = preferences(latency, seed, 4)
    picked = np.random.default_rng(seed).integers(latency.ms.shape[2], size=(4, blocks.decisions))
    found = project_to_target(picked, wanted, latency)
    assert np.array_equal(found.picked, blocks.repaired(picked, wanted))
    assert (found.heads == latency.default_head).all()


def test_what_is_given_is_left_alone(little_space, made_up):
    blocks = Decisions(little_space)
    latency = on_the_way(blocks, made_up(little_space, 1), 0.3)
    wanted = preferences(latency, 1, 5)
    picked, before = wanted.argmax(axis=2), wanted.copy()
    start = picked.copy()
    project_to_target(picked, wanted, latency)
    assert np.array_equal(picked, start)
    assert np.array_equal(wanted, before)


def test_one_preference_serves_all(little_space, made_up):
    blocks = Decisions(little_space)
    latency = on_the_way(blocks, made_up(little_space, 1), 0.3)
    one = preferences(latency, 1, 1)[0]
    picked = preferences(latency, 2, 6).argmax(axis=2)
    single, repeated = (project_to_target(picked, wanted, latency) for wanted in (one, np.repeat(one[None], 6, axis=0)))
    assert np.array_equal(single.picked, repeated.picked)
    assert np.array_equal(single.heads, repeated.heads)


def test_equal_ones_are_found_once_in_order():
    found = ArchitectureBatch(np.array([[2, 1], [0, 1], [2, 1], [0, 1], [0, 1]]), np.array([0, 1, 0, 0, 1]))
    once = found.distinct()
    assert once.picked.tolist() == [[2, 1], [0, 1], [0, 1]]
    assert once.heads.tolist() == [0, 1, 0]
    assert len(found.take(found.heads == 1)) == 2
