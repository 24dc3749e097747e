"""Decisions and edges, by brute force over the cells of the plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.models import Architecture, SearchSpace
from lgc.models.space.operators import ZERO
from lgc.search.decisions import Decisions, plain_fusion

KINDS = [(shared, fixed) for shared in (False, True) for fixed in (False, True)]


@pytest.fixture(params=KINDS, ids=["independent", "independent, fixed fusion", "shared", "shared, fixed fusion"])
def blocks(request, deep_space) -> Decisions:
    return Decisions(deep_space, shared=request.param[0], fixed_fusion=request.param[1])


def random_picks(blocks: Decisions, seed: int, zeros: float, count: int = 8) -> np.ndarray:
    """Operators drawn evenly, then `zero` put on a share of the decisions."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(blocks.space.operators), size=(count, blocks.decisions))
    return np.where(rng.random(picked.shape) < zeros, 0, picked)


def names_by_cell(blocks: Decisions, picked: np.ndarray) -> list[list[str]]:
    """Operators of every cell's edges, by hand from the blocks."""
    found: dict[int, list[str]] = {}
    first = 0
    for block in blocks.blocks:
        last = first + len(block.plan.edges)
        for cell in block.cells:
            found[cell] = [blocks.space.operators[choice] for choice in picked[first:last]]
        first = last
    if blocks.fusion is not None:
        found[blocks.space.cells] = [blocks.space.operators[choice] for choice in blocks.fusion]
    return [found[index] for index in range(len(blocks.space.plan.searched_cells))]


def dead_ends(cell, names) -> set[tuple[str, int]]:
    live = [edge for edge, name in zip(cell.edges, names, strict=True) if name != ZERO]
    dead = {("node", node) for node in range(cell.nodes)} - {("node", edge.node) for edge in live}
    return dead | ({("input", i) for i in range(len(cell.inputs))} - {("input", edge.source) for edge in live})


def all_dead(blocks: Decisions, picked: np.ndarray) -> int:
    """Dead ends of all blocks, after showing that the plan's cells call the same networks faulty."""
    cells = names_by_cell(blocks, picked)
    plans = blocks.space.plan.searched_cells
    found = [dead_ends(plan, names) for plan, names in zip(plans, cells, strict=True)]
    assert [bool(dead) for dead in found] == [
        plan.find_fault(names) is not None for plan, names in zip(plans, cells, strict=True)
    ]
    return sum(len(found[block.cells[0]]) for block in blocks.blocks)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 0.9))
@settings(max_examples=25)
def test_expanded_picks_are_what_every_cell_was_given(blocks, seed, zeros):
    picked = random_picks(blocks, seed, zeros)
    choices = blocks.expand(picked)
    assert choices.shape == (len(picked), blocks.space.edges)
    for row, found in zip(picked, choices, strict=True):
        names = [blocks.space.operators[choice] for choice in found]
        assert names == [name for cell in names_by_cell(blocks, row) for name in cell]


def test_decisions_are_counted_once_where_cells_share(deep_space):
    fusion = len(deep_space.plan.fusion.edges)
    counts = {kind: Decisions(deep_space, shared=kind[0], fixed_fusion=kind[1]).decisions for kind in KINDS}
    assert counts == {
        (False, False): deep_space.edges,
        (False, True): deep_space.edges - fusion,
        (True, False): 2 * 5 + fusion,  # the cells of a kind have 2 inputs and 2 nodes
        (True, True): 2 * 5,
    }
    names = [block.name for block in Decisions(deep_space, shared=True).blocks]
    assert names == ["normal cells", "reduction cells", "fusion"]
    assert [block.cells for block in Decisions(deep_space, shared=True).blocks] == [(0, 1), (2, 3), (4,)]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_shared_cells_of_a_kind_have_the_same_operators_and_independent_ones_their_own(deep_space, seed):
    shared, independent = Decisions(deep_space, shared=True), Decisions(deep_space)
    picked = shared.repaired(random_picks(shared, seed, 0.2, 1), np.zeros((shared.decisions, 4)))
    cells = Architecture.from_choices(deep_space, shared.expand(picked)[0].tolist()).cells
    assert (cells[0], cells[2]) == (cells[1], cells[3])
    own = random_picks(independent, seed, 0.2)
    assert np.array_equal(independent.expand(own), own)


def test_a_fixed_fusion_is_the_plain_one_whatever_is_picked(deep_space):
    blocks = Decisions(deep_space, fixed_fusion=True)
    choices = blocks.expand(random_picks(blocks, 0, 0.5))
    assert (choices[:, -len(deep_space.plan.fusion.edges) :] == plain_fusion(deep_space)).all()


@pytest.mark.parametrize(
    ("operators", "light", "heavy"),
    [
        (["zero", "skip", "max_pool_3x3", "sep_conv_3x3_d2", "conv_3x3"], "skip", "sep_conv_3x3_d2"),
        (["conv_3x3", "zero", "sep_conv_3x3"], "conv_3x3", "conv_3x3"),
        (["zero", "max_pool_3x3", "skip"], "skip", "max_pool_3x3"),
    ],
)
def test_the_plain_fusion_passes_on_inputs_and_convolves_nodes(mini_space, operators, light, heavy):
    space = SearchSpace.check({**mini_space.model_dump(mode="json"), "operators": operators}, "of other operators")
    cell = space.plan.fusion
    names = [operators[choice] for choice in plain_fusion(space)]
    wanted = [light if edge.source < len(cell.inputs) else heavy for edge in cell.edges]
    assert names == wanted
    assert cell.find_fault(names) is None


def test_gathered_sums_are_the_predictors(blocks, predict):
    predictor = predict(blocks.space)
    gathered, rest = blocks.gather(predictor.edge_ms)
    picked = random_picks(blocks, 0, 0.3, 50)
    sums = predictor.fixed_ms + rest + gathered[np.arange(blocks.decisions), picked].sum(axis=1)
    np.testing.assert_allclose(sums, predictor.predict_many(blocks.expand(picked)), rtol=1e-12)
    assert (rest > 0) == (blocks.fusion is not None)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 0.9))
@settings(max_examples=25)
def test_every_end_of_a_valid_network_is_alive_and_no_other(blocks, seed, zeros):
    for picked in random_picks(blocks, seed, zeros, 4):
        alive = (blocks.ends & blocks.live(picked[None])).any(axis=1)
        assert (~alive).sum() == all_dead(blocks, picked)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 0.7))
@settings(max_examples=25)
def test_needed_are_the_decisions_whose_loss_kills_something(blocks, seed, zeros):
    for picked in random_picks(blocks, seed, zeros, 2):
        before, wanted = all_dead(blocks, picked), []
        for decision in range(blocks.decisions):
            without = picked.copy()
            without[decision] = blocks.zero
            wanted.append(all_dead(blocks, without) > before)
        assert blocks.needed(picked[None])[0].tolist() == wanted


preferences = st.integers(0, 10_000).flatmap(
    lambda seed: st.sampled_from([0.1, 5.0, 1e6]).map(lambda scale: (seed, scale))
)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 1), preference=preferences, own=st.booleans())
@settings(max_examples=25)
def test_anything_is_repaired_by_zeros_alone(blocks, seed, zeros, preference, own):
    picked = random_picks(blocks, seed, zeros)
    rng, shape = np.random.default_rng(preference[0]), (blocks.decisions, len(blocks.space.operators))
    wanted = preference[1] * rng.normal(size=(len(picked), *shape) if own else shape)
    repaired = blocks.repaired(picked, wanted)
    per_row = np.broadcast_to(wanted, (len(picked), *shape))
    for before, after, likes in zip(picked, repaired, per_row, strict=True):
        assert all_dead(blocks, after) == 0
        if all_dead(blocks, before) == 0:
            assert np.array_equal(before, after)
        changed = np.flatnonzero(before != after)
        assert (before[changed] == blocks.zero).all()
        alive = likes.copy()
        alive[:, blocks.zero] = -np.inf
        assert (after[changed] == alive[changed].argmax(axis=1)).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50)
def test_a_repair_costs_the_least_preference(deep_space, seed):
    blocks = Decisions(deep_space)
    rng = np.random.default_rng(seed)
    end = blocks.ends[rng.integers(len(blocks.ends))]
    picked = rng.integers(1, len(deep_space.operators), size=blocks.decisions)
    picked[end] = blocks.zero
    wanted = rng.normal(size=(blocks.decisions, len(deep_space.operators)))
    if all_dead(blocks, picked) > 1:
        return  # where several ends are dead, a dearer swap may serve two of them
    repaired = blocks.repaired(picked[None], wanted)[0]
    (at,) = np.flatnonzero(repaired != picked)
    lost = [wanted[g, 0] - wanted[g, 1:].max() for g in np.flatnonzero(end)]
    assert wanted[at, 0] - wanted[at, repaired[at]] == pytest.approx(min(lost))


def test_without_zero_there_is_nothing_to_repair(zeroless_space):
    blocks = Decisions(zeroless_space)
    picked = np.zeros((3, blocks.decisions), np.int64)
    assert blocks.zero is None
    assert blocks.live(picked).all()
    assert np.array_equal(blocks.repaired(picked, np.zeros((blocks.decisions, 2))), picked)
