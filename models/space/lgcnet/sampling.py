"""Random operators and widths of a network: uniform, or from light to heavy networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..operators import ZERO
from ..protocol import Decision
from .plan import CellPlan

Cells = tuple[tuple[str, ...], ...]
"""Operator names of each edge, by cell."""

MAX_ZERO_PROBABILITY = 0.6
"""Largest probability of `zero` in `draw_spread`; above it, few draws leave every node and input alive."""
GOLDEN_STEP = (5**0.5 - 1) / 2
"""Step of the `zero` probability and of the widths' level, as a part of their range: the golden ratio spreads any
number of points evenly."""
CONCENTRATION = 0.5
"""Dirichlet concentration of `draw_spread`: below 1, most networks prefer a few operators."""


def draw_uniform(cells: Sequence[CellPlan], widths: Sequence[Decision], seed: int) -> tuple[Cells, list[str]]:
    """Return random valid operators, each equally likely on each edge, and widths; the default of those with one."""
    rng = np.random.default_rng(seed)
    names = _list_operators(cells)
    drawn = tuple(_draw_cell(cell, rng, dict.fromkeys(names, 1 / len(names))) for cell in cells)
    chosen = [int(rng.integers(len(each.choices))) if each.default is None else each.default for each in widths]
    return drawn, [each.choices[choice] for each, choice in zip(widths, chosen, strict=True)]


def draw_spread(
    cells: Sequence[CellPlan], widths: Sequence[Decision], count: int, seed: int
) -> Iterator[tuple[Cells, list[str]]]:
    """Yield `count` random networks, from light to heavy, as operators and widths.

    Networks with uniformly drawn operators have nearly equal costs, too narrow a range for a fit or a rank
    correlation. So each network draws operator probabilities of its own from a Dirichlet distribution, and the
    probability of `zero`, which affects the cost most, covers its range evenly. Widths have a binomial rank of a level
    that covers 0 to 1 evenly. Of a width with a default, each run of networks has every choice once. A larger `count`
    continues the same sequence; the operators do not depend on the widths.
    """
    rng = np.random.default_rng(seed)
    (width_rng,) = rng.spawn(1)
    start = rng.random()
    operators = _list_operators(cells)
    turns: dict[str, list[int]] = {}
    level_start = width_rng.random() if any(each.default is None for each in widths) else 0.0
    for index in range(count):
        zero = MAX_ZERO_PROBABILITY * ((start + index * GOLDEN_STEP) % 1)
        level = (level_start + index * GOLDEN_STEP) % 1
        probabilities = rng.dirichlet(np.full(len(operators), CONCENTRATION)) + 0.02
        if ZERO in operators:
            probabilities[operators.index(ZERO)] = 0.0
            probabilities *= (1 - zero) / probabilities.sum()
            probabilities[operators.index(ZERO)] = zero
        shares = dict(zip(operators, (probabilities / probabilities.sum()).tolist(), strict=True))
        chosen = []
        for each in widths:
            if each.default is None:
                chosen.append(int(width_rng.binomial(len(each.choices) - 1, level)))
                continue
            if not turns.get(each.name):
                turns[each.name] = width_rng.permutation(len(each.choices)).tolist()
            chosen.append(turns[each.name].pop())
        drawn = tuple(_draw_cell(cell, rng, shares) for cell in cells)
        yield drawn, [each.choices[choice] for each, choice in zip(widths, chosen, strict=True)]


def _list_operators(cells: Sequence[CellPlan]) -> list[str]:
    """Return the candidate operators of all cells."""
    return list(dict.fromkeys(spec.operator for cell in cells for spec in cell.edges[0].candidates))


def _draw_cell(cell: CellPlan, rng: np.random.Generator, shares: Mapping[str, float]) -> tuple[str, ...]:
    """Return valid operators of one cell; after 200 invalid draws, operators other than `zero` drawn uniformly."""
    operators = [spec.operator for spec in cell.edges[0].candidates]
    p = np.array([shares[name] for name in operators])
    if len(operators) < len(shares):
        p = p / p.sum()
    for _ in range(200):
        choices = tuple(operators[i] for i in rng.choice(len(operators), size=len(cell.edges), p=p))
        if cell.find_fault(choices) is None:
            return choices
    others = [name for name in operators if name != ZERO]
    return tuple(str(name) for name in rng.choice(others, size=len(cell.edges)))
