"""BlockDecisions and edges, compared with a brute-force expansion of the plan's cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.models import SearchSpace
from lgc.models.space.operators import ZERO
from lgc.search.supernet.blocks import BlockDecisions, make_fixed_fusion

KINDS = [(shared, fixed) for shared in (False, True) for fixed in (False, True)]


@pytest.fixture(params=KINDS, ids=["independent", "independent, fixed fusion", "shared", "shared, fixed fusion"])
def decisions(request, deep_space) -> BlockDecisions:
    return BlockDecisions(deep_space, shared=request.param[0], fixed_fusion=request.param[1])


def random_choices(decisions: BlockDecisions, seed: int, zeros: float, count: int = 8) -> np.ndarray:
    """Return uniformly drawn operators, with `zero` at a share of the decisions, and the default head, [count, G]."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(len(decisions.space.operators), size=(count, decisions.num_searched))
    return decisions.with_defaults(np.where(rng.random(choices.shape) < zeros, 0, choices))


def find_fixed_fusion(decisions: BlockDecisions) -> list[int] | None:
    """Return the fixed operators of the fusion cell; None if it is searched."""
    edges = len(decisions.space.plan.fusion.edges)
    return None if (decisions.assignment >= 0).all() else decisions.fixed[-1 - edges : -1].tolist()


def list_operators(decisions: BlockDecisions, choices: np.ndarray) -> list[list[str]]:
    """Return the operators of every cell's edges, derived from the decisions."""
    operators = decisions.space.operators
    names: dict[int, list[str]] = {}
    start = 0
    for block in decisions.blocks:
        end = start + len(block.names)
        for cell in block.cells:
            names[cell] = [operators[choice] for choice in choices[start:end]]
        start = end
    if (fusion := find_fixed_fusion(decisions)) is not None:
        names[decisions.space.cells] = [operators[choice] for choice in fusion]
    return [names[index] for index in range(len(decisions.space.plan.searched_cells))]


def find_dead_endpoints(cell, names) -> set[tuple[str, int]]:
    live = [edge for edge, name in zip(cell.edges, names, strict=True) if name != ZERO]
    dead = {("node", node) for node in range(cell.nodes)} - {("node", edge.node) for edge in live}
    return dead | ({("input", i) for i in range(len(cell.inputs))} - {("input", edge.source) for edge in live})


def count_dead(decisions: BlockDecisions, choices: np.ndarray) -> int:
    """Return the number of dead endpoints of all decisions, and check that the plan finds the same faulty cells."""
    cells = list_operators(decisions, choices)
    plans = decisions.space.plan.searched_cells
    dead = [find_dead_endpoints(plan, names) for plan, names in zip(plans, cells, strict=True)]
    assert [bool(endpoints) for endpoints in dead] == [
        plan.find_fault(names) is not None for plan, names in zip(plans, cells, strict=True)
    ]
    return sum(len(dead[block.cells[0]]) for block in decisions.blocks)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 0.9))
@settings(max_examples=25)
def test_expanded_choices_match_every_cell(decisions, seed, zeros):
    choices = random_choices(decisions, seed, zeros)
    edges = decisions.expand(choices)
    assert edges.shape == (len(choices), len(decisions.space.decisions))
    assert (edges[:, -1] == decisions.space.default_head).all()
    for row, operators in zip(choices, edges[:, :-1], strict=True):
        names = [decisions.space.operators[operator] for operator in operators]
        assert names == [name for cell in list_operators(decisions, row) for name in cell]


def test_shared_decisions_are_counted_once(deep_space):
    fusion = len(deep_space.plan.fusion.edges)
    counts = {kind: BlockDecisions(deep_space, shared=kind[0], fixed_fusion=kind[1]).num_searched for kind in KINDS}
    assert counts == {
        (False, False): deep_space.edges,
        (False, True): deep_space.edges - fusion,
        (True, False): 2 * 5 + fusion,  # the cells of a kind have 2 inputs and 2 nodes
        (True, True): 2 * 5,
    }
    names = [block.name for block in BlockDecisions(deep_space, shared=True).blocks]
    assert names == ["normal cells", "reduction cells", "fusion"]
    assert [block.cells for block in BlockDecisions(deep_space, shared=True).blocks] == [(0, 1), (2, 3), (4,)]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_only_shared_cells_have_equal_operators(deep_space, seed):
    shared, independent = BlockDecisions(deep_space, shared=True), BlockDecisions(deep_space)
    choices = shared.repair(
        random_choices(shared, seed, 0.2, 1), shared.complete_preferences(np.zeros((shared.num_searched, 4)))
    )
    cells = deep_space.build(shared.expand(choices)[0].tolist()).cells
    assert (cells[0], cells[2]) == (cells[1], cells[3])
    choices = random_choices(independent, seed, 0.2)
    assert np.array_equal(independent.expand(choices), choices)


def test_fixed_fusion_ignores_choices(deep_space):
    decisions = BlockDecisions(deep_space, fixed_fusion=True)
    edges = decisions.expand(random_choices(decisions, 0, 0.5))
    assert (edges[:, -1 - len(deep_space.plan.fusion.edges) : -1] == make_fixed_fusion(deep_space)).all()


@pytest.mark.parametrize(
    ("operators", "light", "heavy"),
    [
        (["zero", "skip", "max_pool_3x3", "sep_conv_3x3_d2", "conv_3x3"], "skip", "sep_conv_3x3_d2"),
        (["conv_3x3", "zero", "sep_conv_3x3"], "conv_3x3", "conv_3x3"),
        (["zero", "max_pool_3x3", "skip"], "skip", "max_pool_3x3"),
    ],
)
def test_fixed_fusion_skips_inputs_convolves_nodes(mini_space, operators, light, heavy):
    space = SearchSpace.check({**mini_space.model_dump(mode="json"), "operators": operators}, "the changed space")
    cell = space.plan.fusion
    names = [operators[choice] for choice in make_fixed_fusion(space)]
    assert names == [light if edge.source < len(cell.inputs) else heavy for edge in cell.edges]
    assert cell.find_fault(names) is None


def test_merged_cost_matches_the_predictor(decisions, predict):
    predictor = predict(decisions.space)
    merged = decisions.merge(predictor.cost)
    choices = random_choices(decisions, 0, 0.3, 50)
    np.testing.assert_allclose(merged.evaluate(choices), predictor.predict_many(decisions.expand(choices)), rtol=1e-12)
    assert (merged.constant > predictor.cost.constant) == (find_fixed_fusion(decisions) is not None)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 0.9))
@settings(max_examples=25)
def test_dead_endpoints_match_brute_force(decisions, seed, zeros):
    for choices in random_choices(decisions, seed, zeros, 4):
        alive = (decisions.requirements & decisions.find_live(choices[None])).any(axis=1)
        assert (~alive).sum() == count_dead(decisions, choices)


@given(seed=st.integers(0, 10_000), zeros=st.floats(0, 0.7))
@settings(max_examples=25)
def test_required_decisions_match_brute_force(decisions, seed, zeros):
    for choices in random_choices(decisions, seed, zeros, 2):
        before, expected = count_dead(decisions, choices), []
        for decision in range(decisions.num_searched):
            without = choices.copy()
            without[decision] = 0
            expected.append(count_dead(decisions, without) > before)
        assert decisions.find_required(choices[None])[0].tolist() == [*expected, False]


@given(
    seed=st.integers(0, 10_000), zeros=st.floats(0, 1), scale=st.sampled_from([0.1, 5.0, 1e6]), per_row=st.booleans()
)
@settings(max_examples=25)
def test_repair_replaces_only_zeros(decisions, seed, zeros, scale, per_row):
    choices = random_choices(decisions, seed, zeros)
    rng, shape = np.random.default_rng(seed + 1), decisions.searched_shape
    preference = decisions.complete_preferences(scale * rng.normal(size=(len(choices), *shape) if per_row else shape))
    repaired = decisions.repair(choices, preference)
    rows = np.broadcast_to(preference, (len(choices), *preference.shape[-2:]))
    for before, after, row in zip(choices, repaired, rows, strict=True):
        assert count_dead(decisions, after) == 0
        if count_dead(decisions, before) == 0:
            assert np.array_equal(before, after)
        changed = np.flatnonzero(before != after)
        assert (before[changed] == 0).all()
        alive = row.copy()
        alive[:, 0] = -np.inf
        assert (after[changed] == alive[changed].argmax(axis=1)).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50)
def test_repair_costs_the_smallest_preference(deep_space, seed):
    decisions = BlockDecisions(deep_space)
    rng = np.random.default_rng(seed)
    endpoint = decisions.requirements[rng.integers(len(decisions.requirements))]
    choices = decisions.with_defaults(rng.integers(1, len(deep_space.operators), size=(1, decisions.num_searched)))[0]
    choices[endpoint] = 0
    preference = decisions.complete_preferences(rng.normal(size=decisions.searched_shape))
    if count_dead(decisions, choices) > 1:
        return  # a costlier swap may repair several dead endpoints
    repaired = decisions.repair(choices[None], preference)[0]
    (decision,) = np.flatnonzero(repaired != choices)
    lost = [preference[g, 0] - preference[g, 1:].max() for g in np.flatnonzero(endpoint)]
    assert preference[decision, 0] - preference[decision, repaired[decision]] == pytest.approx(min(lost))


def test_space_without_zero_needs_no_repair(zeroless_space):
    decisions = BlockDecisions(zeroless_space)
    choices = np.zeros((3, decisions.num_decisions), np.int64)
    assert (decisions.zeros == -1).all()
    assert decisions.find_live(choices).all()
    assert np.array_equal(
        decisions.repair(choices, decisions.complete_preferences(np.zeros(decisions.searched_shape))), choices
    )
