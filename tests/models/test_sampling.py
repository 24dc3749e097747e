import numpy as np
import pytest

from lgc.models import PRESETS, Architecture, SearchSpace


@pytest.fixture(scope="module", params=PRESETS)
def space(request):
    return SearchSpace.load(request.param)


def faults(architecture):
    return [cell.fault(choices) for cell, choices in architecture.by_cell()]


def test_samples_are_whole_networks(space):
    for architecture in [*(space.sample(seed) for seed in range(15)), *space.spread(15, 0)]:
        assert faults(architecture) == [None] * (space.cells + 1)
        assert len(architecture.choices) == space.edges


def test_a_seed_is_a_network(space):
    assert space.sample(7) == space.sample(7)
    assert space.sample(7) != space.sample(8)
    assert list(space.spread(5, 7)) == list(space.spread(5, 7))
    assert list(space.spread(5, 7)) != list(space.spread(5, 8))
    assert list(space.spread(3, 7)) == list(space.spread(5, 7))[:3]


def test_every_operator_is_drawn_on_some_edge(space):
    drawn = {choice for seed in range(10) for choice in space.sample(seed).choices}
    assert drawn == set(range(len(space.operators)))


def test_spread_spreads_wider_than_sample(space):
    even = np.array([space.sample(seed).macs for seed in range(30)])
    spread = np.array([architecture.macs for architecture in space.spread(30, 0)])
    assert spread.std() > 1.5 * even.std()
    assert spread.min() < even.min()
    assert spread.max() > even.max()


def test_a_space_of_almost_only_zero_still_gives_networks(mini_space):
    barren = SearchSpace.check(
        {**mini_space.model_dump(mode="json"), "operators": ["zero", "skip"], "nodes": 8, "cells": 1, "reductions": []},
        "barren",
    )
    networks = list(barren.spread(30, 0))
    assert all(isinstance(network, Architecture) for network in networks)
    assert [fault for network in networks for fault in faults(network) if fault] == []
