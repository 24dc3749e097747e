"""The cheapest architecture, compared with brute force for random decisions, pairs and requirements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.models.space.cost import Cost
from lgc.models.space.extremes import find_cheapest
from lgc.models.space.operators import ZERO
from lgc.models.space.protocol import Decision


@st.composite
def problems(draw):
    """Draw up to six decisions of one to four choices, some with `zero`, and pairs and requirements among them."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    decisions = []
    for number, size in enumerate(sizes):
        dead = draw(st.integers(0, 5)) if size > 1 else size  # at any place, or nowhere
        names = [ZERO if choice == dead else str(choice) for choice in range(size)]
        decisions.append(Decision(f"d{number}", tuple(names)))
    numbers = st.integers(0, len(sizes) - 1)
    every_pair = list(itertools.combinations(range(len(sizes)), 2))
    pairs = draw(st.lists(st.sampled_from(every_pair), unique=True)) if every_pair else []
    requirements = draw(st.lists(st.lists(numbers, min_size=1, max_size=3, unique=True), max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    single = np.zeros((len(sizes), max(sizes)))
    for row, size in zip(single, sizes, strict=True):
        row[:size] = rng.normal(size=size)
    tables = {pair: 2 * rng.normal(size=(sizes[pair[0]], sizes[pair[1]])) for pair in pairs}
    return Cost("ms", "random", 0.5, single, tables), decisions, requirements


@pytest.mark.parametrize("zero", [True, False])
@given(problem=problems())
@settings(max_examples=150)
def test_result_matches_brute_force(zero, problem):
    cost, decisions, requirements = problem
    every = itertools.product(*(range(len(decision.choices)) for decision in decisions))

    def is_live(choices: tuple[int, ...], decision: int) -> bool:
        return choices[decision] != decisions[decision].zero

    valid = [
        choices
        for choices in every
        if all(any(is_live(choices, decision) for decision in requirement) for requirement in requirements)
        and (zero or all(is_live(choices, decision) for decision in range(len(choices))))
    ]
    found = find_cheapest(cost, decisions, requirements, zero=zero)
    assert tuple(found) in valid
    assert cost.evaluate(np.array([found]))[0] == pytest.approx(cost.evaluate(np.array(valid)).min(), abs=1e-12)


def test_long_chain_of_widths_is_solved():
    """Forty interacting widths have 4^40 combinations; a chain needs tables of two."""
    rng = np.random.default_rng(0)
    decisions = [Decision(f"w{number}", ("8", "16", "32", "64")) for number in range(40)]
    pairs = {(number, number + 1): rng.uniform(size=(4, 4)) for number in range(39)}
    cost = Cost("ms", "random", 0.0, rng.uniform(size=(40, 4)), pairs)
    best = cost.single[0]
    for number in range(39):
        best = (best[:, None] + pairs[number, number + 1]).min(axis=0) + cost.single[number + 1]
    found = find_cheapest(cost, decisions, [])
    assert cost.evaluate(np.array([found]))[0] == pytest.approx(best.min())


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
