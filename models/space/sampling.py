"""Random architectures: even ones, and sets that spread over the range of a space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture
from .operators import ZERO

if TYPE_CHECKING:
    from .plan import CellPlan
    from .space import SearchSpace

MAX_ZERO_PROBABILITY = 0.6
"""Largest probability of `zero` in `spread`; above it, few draws leave every node and input alive."""
ZERO_STEP = (5**0.5 - 1) / 2
"""Step that spreads any number of points evenly over a circle of length 1."""
CONCENTRATION = 0.5
"""Dirichlet concentration of `spread`: below 1, most networks lean on a few operators."""


def sample(space: SearchSpace, seed: int) -> Architecture:
    """A random valid architecture of `space`, every operator equally likely on every edge; the head is its own."""
    rng = np.random.default_rng(seed)
    even = np.full(len(space.operators), 1 / len(space.operators))
    return _draw(space, rng, even, {"sampled": "even", "seed": seed})


def spread(space: SearchSpace, count: int, seed: int) -> Iterator[Architecture]:
    """`count` random architectures, from light to heavy.

    Networks with evenly drawn operators all weigh about the same; a fit or a rank correlation over them says little. So
    operator probabilities are drawn anew for each from a Dirichlet distribution, and the probability of `zero`, which
    weighs most, goes evenly through its range. Of as many networks as the head has widths, each has another one. The
    first networks are the same whatever the count, and their operators whatever the widths.
    """
    rng = np.random.default_rng(seed)
    (head_rng,) = rng.spawn(1)
    start = rng.random()
    heads: list[int] = []
    for index in range(count):
        zero = MAX_ZERO_PROBABILITY * ((start + index * ZERO_STEP) % 1)
        odds = rng.dirichlet(np.full(len(space.operators), CONCENTRATION)) + 0.02
        if ZERO in space.operators:
            odds[space.operators.index(ZERO)] = 0.0
            odds *= (1 - zero) / odds.sum()
            odds[space.operators.index(ZERO)] = zero
        heads = heads or head_rng.permutation(space.heads).tolist()
        provenance = {"sampled": "spread", "seed": seed, "index": index}
        yield _draw(space, rng, odds / odds.sum(), provenance, heads.pop())


def _draw(
    space: SearchSpace,
    rng: np.random.Generator,
    odds: NDArray[np.float64],
    provenance: dict[str, object],
    head_channels: int | None = None,
) -> Architecture:
    """Draw cell by cell; a cell with something dead in it is drawn again."""
    cells = [_draw_cell(cell, space.operators, rng, odds) for cell in space.plan.searched_cells]
    return Architecture(
        space=space, cells=tuple(cells[:-1]), fusion=cells[-1], head_channels=head_channels, provenance=provenance
    )


def _draw_cell(
    cell: CellPlan, operators: tuple[str, ...], rng: np.random.Generator, odds: NDArray[np.float64]
) -> tuple[str, ...]:
    """Operators of one cell; edges are filled evenly among the others if the odds keep drawing `zero`."""
    for _ in range(200):
        choices = tuple(operators[i] for i in rng.choice(len(operators), size=len(cell.edges), p=odds))
        if cell.find_fault(choices) is None:
            return choices
    others = [name for name in operators if name != ZERO]
    return tuple(str(name) for name in rng.choice(others, size=len(cell.edges)))
