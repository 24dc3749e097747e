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

CONCENTRATION = 0.5
"""Dirichlet concentration of `spread`: below 1, most networks lean on a few operators."""


def sample(space: SearchSpace, seed: int) -> Architecture:
    """A random valid architecture of `space`, every operator equally likely on every edge."""
    rng = np.random.default_rng(seed)
    even = np.full(len(space.operators), 1 / len(space.operators))
    return _draw(space, rng, even, {"sampled": "even", "seed": seed})


def spread(space: SearchSpace, count: int, seed: int) -> Iterator[Architecture]:
    """`count` random architectures, operator probabilities drawn anew for each from a Dirichlet distribution.

    Networks with evenly drawn operators all weigh about the same; a fit or a rank correlation over them says little.
    """
    rng = np.random.default_rng(seed)
    for index in range(count):
        odds = rng.dirichlet(np.full(len(space.operators), CONCENTRATION))
        floored = (odds + 0.02) / (odds + 0.02).sum()
        yield _draw(space, rng, floored, {"sampled": "spread", "seed": seed, "index": index})


def _draw(
    space: SearchSpace, rng: np.random.Generator, odds: NDArray[np.float64], provenance: dict[str, object]
) -> Architecture:
    """Draw cell by cell; a cell with something dead in it is drawn again."""
    cells = [_draw_cell(cell, space.operators, rng, odds) for cell in space.plan.searched]
    return Architecture(space=space, cells=tuple(cells[:-1]), fusion=cells[-1], provenance=provenance)


def _draw_cell(
    cell: CellPlan, operators: tuple[str, ...], rng: np.random.Generator, odds: NDArray[np.float64]
) -> tuple[str, ...]:
    """Operators of one cell; edges are filled evenly among the others if the odds keep drawing `zero`."""
    for _ in range(200):
        choices = tuple(operators[i] for i in rng.choice(len(operators), size=len(cell.edges), p=odds))
        if cell.fault(choices) is None:
            return choices
    others = [name for name in operators if name != ZERO]
    return tuple(str(name) for name in rng.choice(others, size=len(cell.edges)))
