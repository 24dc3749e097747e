"""Costs of choices: their validation, sums over them, and the cheapest ones."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lgc.errors import UsageError
from lgc.models.space import cost
from lgc.models.space.cost import Cost, check_choices, find_cheapest, gather_sum
from lgc.models.space.protocol import Decision, iter_combinations


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (np.zeros((2, 3), int), r"space headed must be integers \[N, 16\], not int64 \[2, 3\]"),
        (np.zeros(16, int), r"not int64 \[16\]"),
        (np.zeros((2, 16)), r"not float64 \[2, 16\]"),
        (np.full((2, 16), 3), "choices of cell0/n0<in0 in space headed must be from 0 to 2, got 3 to 3"),
        (np.full((2, 16), -1), "must be from 0 to 2, got -1 to -1"),
        ([[0] * 15 + [0], [0] * 15 + [3]], "choices of head in space headed must be from 0 to 2, got 0 to 3"),
    ],
)
def test_invalid_choices_are_rejected(headed_space, choices, problem):
    with pytest.raises(UsageError, match=problem):
        check_choices(choices, headed_space)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_gather_sum_matches_loop(monkeypatch, chunk_rows):
    monkeypatch.setattr(cost, "CHUNK_ROWS", chunk_rows)
    rng = np.random.default_rng(0)
    table, choices = rng.integers(0, 100, (4, 5)), rng.integers(0, 5, (7, 4))
    expected = [sum(table[edge, choice] for edge, choice in enumerate(row)) for row in choices]
    assert gather_sum(table, choices).tolist() == expected
    assert gather_sum(table, choices[:0]).shape == (0,)


def switches(count: int) -> list[Decision]:
    return [Decision(f"edge{index}", ("zero", "skip")) for index in range(count)]


def test_cheapest_of_chained_requirements():
    """Each two neighbours share a requirement: 2**40 sets of met ones, most of which no longer lead anywhere."""
    single = np.tile([0.0, 1.0], (41, 1))
    requirements = [(index, index + 1) for index in range(40)]
    choices = find_cheapest(Cost("ms", "test", 0.0, single, {}), switches(41), requirements)
    assert choices == [0, 1] * 20 + [0]


def test_cheapest_skips_forbidden_combinations():
    """40 interacting decisions have 2**40 combinations, but only one without `zero`."""
    pairs = {(index, index + 1): np.ones((2, 2)) for index in range(0, 80, 2)}
    cost = Cost("ms", "test", 0.0, np.zeros((80, 2)), pairs)
    assert find_cheapest(cost, switches(80), [], zero=False) == [1] * 80


@given(seed=st.integers(0, 10_000))
def test_cheapest_of_ragged_decisions(seed):
    """Random pairs and requirements among decisions of 1 to 4 choices, `zero` at any place among them."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 5)
    dead = rng.integers(5, size=5)
    decisions = [
        Decision(f"d{index}", tuple("zero" if choice == dead[index] else str(choice) for choice in range(size)))
        for index, size in enumerate(sizes)
    ]
    requirements = [rng.choice(5, 2, replace=False).tolist() for _ in range(3)]
    single = np.array([[*rng.normal(size=size), *[0.0] * (4 - size)] for size in sizes])
    pairs = {pair: rng.normal(size=sizes[list(pair)]) for pair in [(0, 1), (1, 3), (2, 3)]}
    cost = Cost("ms", "test", 1.0, single, pairs)
    rows = np.array(list(iter_combinations(decisions)))
    live = rows != [-1 if decision.zero is None else decision.zero for decision in decisions]
    valid = rows[[all(row[members].any() for members in requirements) for row in live]]
    assume(len(valid))
    value = cost.evaluate(np.array([find_cheapest(cost, decisions, requirements)]))[0]
    assert value == pytest.approx(cost.evaluate(valid).min())
