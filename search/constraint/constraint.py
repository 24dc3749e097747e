"""Costs of architectures and their targets: vectorised, and as a differentiable term of the loss.

    K  costs, e.g. the latencies on several devices      other symbols as in `decisions`

    margin [K]       factor from a predicted cost to the bound that is compared with the target
    target ratio     largest ratio of bound to target over the costs; 1 is on the target

Without targets, the target ratio is the first cost. Targets are aimed at from below, but those above every
architecture are inactive: neither the loss nor the projection draws architectures up to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...lut.predictor import Predictor
from ...models.space.cost import Array, Cost, sum_costs
from ..decisions import Decisions, Indices
from .expected import ExpectedCost

INACTIVE_RATIO = 1 - 1e-9
"""Target ratio of the costliest architecture below which the targets exclude nothing; nearer ones are rounding."""
NUM_WEIGHTINGS = 64
"""Number of random weightings of several costs that `CostConstraint.cheapest` tries."""


class CostConstraint:
    """Costs of every architecture, and their targets.

    Args:
        decisions: decisions of the search.
        costs: costs of the decisions' space.
        targets: one target per cost, in its unit; None to trade the first cost against the loss.
        margin: factor from each cost to its bound, [K]; None for 1.

    Attributes:
        costs: costs of the search's decisions, in the given order.
        targets: targets, [K]; None without.
        ratio_per_unit: target ratio of one unit of each cost, [K].
    """

    def __init__(
        self,
        decisions: Decisions,
        costs: Sequence[Cost],
        targets: Sequence[float] | None = None,
        margin: Sequence[float] | None = None,
    ) -> None:
        self.decisions = decisions
        self.costs = tuple(decisions.merge(cost) for cost in costs)
        self.margin: Array = np.ones(len(costs)) if margin is None else np.array(margin)
        self.targets: Array | None = None if targets is None else np.array(targets, float)
        first_only = np.array([1.0, *[0.0] * (len(costs) - 1)])
        self.ratio_per_unit: Array = self.margin * (first_only if self.targets is None else 1 / self.targets)

    @classmethod
    def from_predictors(
        cls,
        decisions: Decisions,
        predictors: Sequence[Predictor],
        targets_ms: Sequence[float] | None = None,
        quantile: float | None = None,
    ) -> CostConstraint:
        """Return the constraint on the latencies that predictors, all for the decisions' space, predict.

        Args:
            decisions: decisions of the search.
            predictors: one predictor per table.
            targets_ms: one target per table, milliseconds.
            quantile: probability that the measured latency stays below the target, from the calibrations' errors; None
                to compare the prediction itself.

        Raises:
            UsageError: a quantile is given, but a table was never calibrated.
        """
        margin = None if quantile is None else [predictor.margin(quantile) for predictor in predictors]
        return cls(decisions, [predictor.cost for predictor in predictors], targets_ms, margin)

    def evaluate(self, choices: Indices) -> Array:
        """Return all costs of architectures: choices [N, G] -> [N, K]."""
        return np.stack([cost.evaluate(choices) for cost in self.costs], axis=1)

    def target_ratio(self, choices: Indices) -> Array:
        """Return the target ratio of each architecture: choices [N, G] -> [N]."""
        ratios: Array = (self.evaluate(choices) * self.ratio_per_unit).max(axis=1)
        return ratios

    def target_ratio_after_swaps(self, choices: Indices) -> Array:
        """Return the target ratio after each swap of a searched decision: choices [N, G] -> [N, S, C]."""
        searched = self.decisions.num_searched
        ratios = [
            cost.evaluate_swaps(choices, searched) * ratio
            for cost, ratio in zip(self.costs, self.ratio_per_unit, strict=True)
        ]
        worst: Array = ratios[0] if len(ratios) == 1 else np.maximum.reduce(ratios)
        return worst

    def scale(self, factor: float) -> CostConstraint:
        """Return a copy in which every architecture has `factor` times its cost."""
        other = copy(self)
        for name in ("cheapest", "costliest", "is_inactive"):
            other.__dict__.pop(name, None)
        other.ratio_per_unit = self.ratio_per_unit * factor
        return other

    @cached_property
    def cheapest(self) -> Indices:
        """Choices [1, G] of smallest target ratio: exact for one cost, the best weighting for several."""
        ratios = [cost.scale(ratio) for cost, ratio in zip(self.costs, self.ratio_per_unit.tolist(), strict=True)]
        random = np.random.default_rng(0).dirichlet(np.ones(len(ratios)), NUM_WEIGHTINGS).round(9)
        weightings = np.unique(np.vstack([np.eye(len(ratios)), random]), axis=0) if len(ratios) > 1 else np.ones((1, 1))
        candidates = [
            self.decisions.find_cheapest(sum_costs([ratio.scale(w) for ratio, w in zip(ratios, row, strict=True)]))
            for row in weightings.tolist()
        ]
        return min(candidates, key=lambda choices: float(self.target_ratio(choices)[0]))

    @cached_property
    def costliest(self) -> Indices:
        """Choices [1, G] of largest target ratio, without `zero`."""
        candidates = [self.decisions.find_cheapest(cost.scale(-1), zero=False) for cost in self.costs]
        return max(candidates, key=lambda choices: float(self.target_ratio(choices)[0]))

    @cached_property
    def is_inactive(self) -> bool:
        """True if there are targets and every architecture is below them, so that they exclude nothing."""
        return self.targets is not None and float(self.target_ratio(self.costliest)[0]) < INACTIVE_RATIO

    @cached_property
    def _expected_costs(self) -> list[ExpectedCost]:
        """Expectation of each cost over the searched decisions, [S, C]; decisions with a default have it."""
        decisions = self.decisions
        searched = decisions.num_searched
        assignment = [*range(searched), *[-1] * (decisions.num_decisions - searched)]
        own = decisions.decisions[:searched]
        defaults = decisions.defaults.tolist()
        return [ExpectedCost.from_cost(cost.merge(assignment, defaults, own), own) for cost in self.costs]

    def expected(self, probabilities: Tensor) -> Tensor:
        """Return expected costs over independently drawn choices: probabilities [S, C] -> [K]; see `ExpectedCost`."""
        return torch.stack([expected(probabilities) for expected in self._expected_costs])

    def expected_target_ratio(self, expected: Tensor) -> Tensor:
        """Return the target ratio (scalar) of expected costs [K]."""
        return (expected * torch.from_numpy(self.ratio_per_unit).float()).max()
