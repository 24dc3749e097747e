"""Paths on which a supernet trains its weights while no architecture is preferred: random ones near the targets.

Uniformly sampled paths of a space with a large range of latencies cost several times a target, and train weights that
no architecture on it has. Sampling near the constraint follows AttentiveNAS (arXiv 2011.09011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decisions import Indices
from .constraint import CostConstraint
from .projection import draw_on_target

NUM_PATHS = 1024
"""Number of paths, over all points of a front. Ours."""
LOWEST_SHARE = 0.5
"""Smallest target of a path, as a share of the search's. Ours."""
NUM_SHARES = 8
"""Number of different targets, evenly spaced from `LOWEST_SHARE` to 1."""


def draw_paths(constraints: Sequence[CostConstraint], seed: int) -> Indices:
    """Return random valid choices of the searched decisions, [P, S]: near the targets, or any where these are inactive.

    A head whose width is not searched has its default in the supernet, with which a path may exceed its target.

    Args:
        constraints: one constraint for each point of a front, of the same decisions.
        seed: random seed.
    """
    rng, parts = np.random.default_rng(seed), []
    for constraint in constraints:
        lowest = max(LOWEST_SHARE, min(float(constraint.target_ratio(constraint.cheapest)[0]), 1.0))
        for share in np.linspace(lowest, 1, NUM_SHARES):
            # Without active targets the projection only makes paths valid.
            own = constraint if constraint.targets is None or constraint.is_inactive else constraint.scale(1 / share)
            drawn = draw_on_target(own, -(-NUM_PATHS // (NUM_SHARES * len(constraints))), rng)
            parts.append(drawn.choices[:, : constraint.decisions.num_searched])
    return np.concatenate(parts)
