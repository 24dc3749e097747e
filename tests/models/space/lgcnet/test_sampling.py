import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.models import PRESETS, Architecture, SearchSpace


@pytest.fixture(scope="module", params=PRESETS)
def space(request):
    return SearchSpace.load(request.param)


SPREAD = [(1, 2, 1, 1, 1, 1, 1, 2, 2, 1, 1, 2, 1, 0, 2), (1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1)]
"""Choices of the mini space's first two spread networks with seed 3."""


def faults(architecture):
    return [cell.find_fault(choices) for cell, choices in architecture.iter_cells()]


def test_samples_are_valid(space):
    for architecture in [*(space.sample(seed) for seed in range(15)), *space.spread(15, 0)]:
        assert faults(architecture) == [None] * len(space.plan.searched_cells)
        assert len(architecture.choices) == len(space.decisions)


def test_seed_determines_network(space):
    assert space.sample(7) == space.sample(7)
    assert space.sample(7) != space.sample(8)
    assert list(space.spread(5, 7)) == list(space.spread(5, 7))
    assert list(space.spread(5, 7)) != list(space.spread(5, 8))
    assert list(space.spread(3, 7)) == list(space.spread(5, 7))[:3]


def test_every_operator_is_drawn(space):
    drawn = {choice for seed in range(10) for choice in space.sample(seed).choices[:-1]}
    assert drawn == set(range(len(space.operators)))


def with_heads(space, widths):
    return SearchSpace.check({**space.model_dump(mode="json"), "head_widths": widths}, "s")


def test_spread_draws_searched_widths():
    space = SearchSpace.load("rapid")
    networks = list(space.spread(60, 0))
    for index, decision in enumerate(space.widths_searched):
        drawn = {network.choices[space.edges + index] for network in networks}
        assert drawn == set(range(len(decision.choices))), decision.name
    ranks = [sum(network.choices[space.edges :]) for network in networks]
    assert max(ranks) > 3 * min(ranks), "from narrow to wide"


@pytest.mark.parametrize("space", [name for name in PRESETS if name != "rapid"], indirect=True)
def test_spread_draws_heads_evenly(space):
    networks = list(space.spread(3 * len(space.heads), 0))
    for first in range(0, len(networks), len(space.heads)):
        assert sorted(network.choices[-1] for network in networks[first : first + len(space.heads)]) == [*range(5)]
    orders = {tuple(network.choices[-1] for network in space.spread(5, seed)) for seed in range(5)}
    assert len(orders) > 1, "the order depends on the seed"
    assert {space.sample(seed).head_channels for seed in range(10)} == {None}


@given(seed=st.integers(0, 2**32), widths=st.sets(st.integers(5, 9)))
@settings(max_examples=20)
def test_heads_do_not_change_drawn_operators(mini_space, seed, widths):
    space = with_heads(mini_space, sorted(widths))
    for draw in (lambda space: space.spread(4, seed), lambda space: [space.sample(seed)]):
        choices = [[network.choices[:-1] for network in draw(each)] for each in (space, mini_space)]
        assert choices[0] == choices[1]


def test_single_head_spaces_keep_old_samples(mini_space):
    """Tables from before `head_widths` store these networks."""
    assert mini_space.sample(0).choices[:-1] == (2, 1, 2, 1, 2, 0, 2, 1, 0, 1, 1, 2, 2, 2, 1)
    assert [network.choices[:-1] for network in mini_space.spread(2, 3)] == SPREAD


def test_spread_covers_wider_range_than_sample(space):
    even = np.array([space.sample(seed).macs for seed in range(30)])
    spread = np.array([architecture.macs for architecture in space.spread(30, 0)])
    assert spread.std() > 1.5 * even.std()
    assert spread.min() < even.min()
    assert spread.max() > even.max()


def test_few_operators_still_give_valid_networks(mini_space):
    barren = SearchSpace.check(
        {**mini_space.model_dump(mode="json"), "operators": ["zero", "skip"], "nodes": 8, "cells": 1, "reductions": []},
        "barren",
    )
    networks = list(barren.spread(30, 0))
    assert all(isinstance(network, Architecture) for network in networks)
    assert [fault for network in networks for fault in faults(network) if fault] == []
