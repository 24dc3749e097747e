"""Random operators for the cells of a network: uniform, or from light to heavy networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..operators import ZERO
from .plan import CellPlan

Cells = tuple[tuple[str, ...], ...]
"""Operator names of each edge, by cell."""

MAX_ZERO_PROBABILITY = 0.6
"""Largest probability of `zero` in `draw_spread`; above it, few draws leave every node and input alive."""
ZERO_STEP = (5**0.5 - 1) / 2
"""Step of the `zero` probability, as a part of its range: the golden ratio spreads any number of points evenly."""
CONCENTRATION = 0.5
"""Dirichlet concentration of `draw_spread`: below 1, most networks prefer a few operators."""


def draw_uniform(cells: Sequence[CellPlan], operators: Sequence[str], seed: int) -> Cells:
    """Return random valid operators, each equally likely on each edge."""
    probabilities = np.full(len(operators), 1 / len(operators))
    return _draw(cells, operators, np.random.default_rng(seed), probabilities)


def draw_spread(
    cells: Sequence[CellPlan], operators: Sequence[str], heads: Sequence[int], count: int, seed: int
) -> Iterator[tuple[Cells, int]]:
    """Yield `count` random networks, from light to heavy, as operators and head width.

    Networks with uniformly drawn operators have nearly equal costs, too narrow a range for a fit or a rank
    correlation. So each network draws operator probabilities of its own from a Dirichlet distribution, and the
    probability of `zero`, which affects the cost most, covers its range evenly. Each run of `len(heads)` networks has
    every head width once. A larger `count` continues the same sequence; the operators do not depend on `heads`.
    """
    rng = np.random.default_rng(seed)
    (head_rng,) = rng.spawn(1)
    start = rng.random()
    widths: list[int] = []
    for index in range(count):
        zero = MAX_ZERO_PROBABILITY * ((start + index * ZERO_STEP) % 1)
        probabilities = rng.dirichlet(np.full(len(operators), CONCENTRATION)) + 0.02
        if ZERO in operators:
            probabilities[operators.index(ZERO)] = 0.0
            probabilities *= (1 - zero) / probabilities.sum()
            probabilities[operators.index(ZERO)] = zero
        widths = widths or head_rng.permutation(heads).tolist()
        yield _draw(cells, operators, rng, probabilities / probabilities.sum()), widths.pop()


def _draw(
    cells: Sequence[CellPlan],
    operators: Sequence[str],
    rng: np.random.Generator,
    probabilities: NDArray[np.float64],
) -> Cells:
    return tuple(_draw_cell(cell, operators, rng, probabilities) for cell in cells)


def _draw_cell(
    cell: CellPlan, operators: Sequence[str], rng: np.random.Generator, probabilities: NDArray[np.float64]
) -> tuple[str, ...]:
    """Return valid operators of one cell; after 200 invalid draws, operators other than `zero` drawn uniformly."""
    for _ in range(200):
        choices = tuple(operators[i] for i in rng.choice(len(operators), size=len(cell.edges), p=probabilities))
        if cell.find_fault(choices) is None:
            return choices
    others = [name for name in operators if name != ZERO]
    return tuple(str(name) for name in rng.choice(others, size=len(cell.edges)))
