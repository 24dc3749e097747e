"""Objectives, by name: the term of the loss that penalises expected costs above their targets.

Each is a class with `multiplier`, its state, which checkpoints hold, `penalty` and `update`. A registered one passes
`tests/search/constraint/test_objectives.py`.
"""

from __future__ import annotations

import math
from typing import Protocol, Self

import torch
from torch import Tensor

from ..config import SearchConfig
from .constraint import CostConstraint


class Objective(Protocol):
    """Term of the loss.

    Attributes:
        multiplier: state that `update` changes.
    """

    multiplier: float

    @classmethod
    def from_config(cls, config: SearchConfig) -> Self:
        """Return a new objective with the settings of a search."""

    def penalty(self, ratio: Tensor) -> Tensor:
        """Return the term of the loss for an expected target ratio (scalar); see `constraint`."""

    def update(self, ratio: float) -> None:
        """Adapt the multiplier to the expected target ratio of a step."""


class FixedWeight:
    """Term without a target: beta * log(cost) is added to the loss, as in GAS."""

    def __init__(self, beta: float) -> None:
        self.multiplier = beta

    @classmethod
    def from_config(cls, config: SearchConfig) -> Self:
        """Return an objective of weight `beta`."""
        return cls(config.beta)

    def penalty(self, ratio: Tensor) -> Tensor:
        """Return the term of the loss for an expected cost (scalar)."""
        return self.multiplier * ratio.clamp_min(1e-6).log()

    def update(self, ratio: float) -> None:
        """Do nothing: beta is fixed."""


class DualAscent:
    """Term with targets: an augmented Lagrangian of g = log(target ratio).

    The term is multiplier * g + g**2 / 2. Dual ascent learns the multiplier; the square damps oscillation between the
    multiplier and the architecture. The multiplier grows above the target and shrinks below it; a negative one rewards
    choices that use up the remaining cost. With several costs the worst ratio counts, so all targets are met.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.multiplier = 0.0

    @classmethod
    def from_config(cls, config: SearchConfig) -> Self:
        """Return an objective of step size `multiplier_lr`."""
        return cls(config.multiplier_lr)

    def penalty(self, ratio: Tensor) -> Tensor:
        """Return the term of the loss for an expected target ratio (scalar)."""
        excess = ratio.clamp_min(1e-6).log()
        return self.multiplier * excess + excess.square() / 2

    def update(self, ratio: float) -> None:
        """Make one step of dual ascent."""
        self.multiplier += self.lr * math.log(max(ratio, 1e-6))


class NoTerm:
    """No cost in the loss; only the projection at the end of the search uses the target."""

    multiplier: float = 0.0

    @classmethod
    def from_config(cls, config: SearchConfig) -> Self:
        """Return the objective."""
        return cls()

    def penalty(self, ratio: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros(())

    def update(self, ratio: float) -> None:
        """Do nothing."""


OBJECTIVES: dict[str, type[Objective]] = {"fixed-weight": FixedWeight, "dual-ascent": DualAscent, "none": NoTerm}
"""Name -> objective."""


def make_objective(config: SearchConfig, constraint: CostConstraint) -> Objective:
    """Return the objective of a search: none without the latency term or with inactive targets, else by the targets."""
    if not config.latency_term or constraint.is_inactive:
        return OBJECTIVES["none"].from_config(config)
    return OBJECTIVES["fixed-weight" if constraint.targets is None else "dual-ascent"].from_config(config)
