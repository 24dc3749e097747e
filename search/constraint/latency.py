"""Latency of architectures from the tables: vectorised predictions, and a differentiable term of the loss.

    K  tables, one per device      H  widths of the head      other symbols as in `decisions`

    ms [K, G, O]     latency of an operator (milliseconds), summed over edges that share a decision
    fixed_ms [K]     latency of fixed parts, with the head of default width
    head_ms [K, H]   difference that another head width makes
    margin [K]       factor from a prediction to the bound that is compared with the target
    target ratio     largest ratio of bound to target over the tables; 1 is on the target

Without targets, the target ratio is the latency on the first device, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...lut.predictor import Predictor, find_cheapest_operators
from ..decisions import Array, Decisions, Indices

NUM_WEIGHTINGS = 64
"""Number of random weightings of several tables that `Latency.fastest` tries."""


class Latency:
    """Latency of every choice, on every device.

    Args:
        decisions: decisions of the search.
        predictors: one predictor per table, all for the decisions' space.
        targets_ms: one target per table, milliseconds; None to trade latency against the loss.
        quantile: probability that the measured latency stays below the target, from the calibrations' errors; None to
            compare the prediction itself.

    Raises:
        UsageError: a quantile is given, but a table was never calibrated.
    """

    def __init__(
        self,
        decisions: Decisions,
        predictors: Sequence[Predictor],
        targets_ms: Sequence[float] | None = None,
        quantile: float | None = None,
    ) -> None:
        self.decisions = decisions
        sums = [decisions.sum_edges(predictor.edge_ms) for predictor in predictors]
        self.ms: Array = np.stack([ms for ms, _ in sums])
        self.fixed_ms: Array = np.array([p.fixed_ms + fixed for p, (_, fixed) in zip(predictors, sums, strict=True)])
        self.head_ms: Array = np.stack([predictor.head_ms for predictor in predictors])
        self.default_head = decisions.space.default_head
        self.margin: Array = np.array([1.0 if quantile is None else p.margin(quantile) for p in predictors])
        self.targets_ms = None if targets_ms is None else np.array(targets_ms, float)
        scale = np.array([1.0, *[0.0] * (len(predictors) - 1)]) if self.targets_ms is None else 1 / self.targets_ms
        self.ratio_per_ms: Array = self.margin * scale
        """[K]; target ratio of one millisecond."""
        self._torch = (torch.from_numpy(self.ms).float(), torch.from_numpy(self.fixed_ms).float())

    def predicted_ms(self, choices: Indices, heads: Indices | None = None) -> Array:
        """Return predictions [N, K] in milliseconds for choices [N, G] and heads [N]; default width without heads."""
        head = np.full(len(choices), self.default_head) if heads is None else heads
        edges = self.ms[:, np.arange(choices.shape[1]), choices].sum(axis=2)
        predictions: Array = (self.fixed_ms[:, None] + edges + self.head_ms[:, head]).T
        return predictions

    def target_ratio(self, choices: Indices, heads: Indices | None = None) -> Array:
        """Return the target ratio of each architecture, [N]; arguments as in `predicted_ms`."""
        ratios: Array = (self.predicted_ms(choices, heads) * self.ratio_per_ms).max(axis=1)
        return ratios

    def target_ratio_after_swaps(self, choices: Indices, heads: Indices) -> Array:
        """Return the target ratio after each swap of a single operator: choices [N, G], heads [N] -> [N, G, O]."""
        now = self.predicted_ms(choices, heads)
        ratios: Array = np.full((*choices.shape, self.ms.shape[2]), -np.inf)
        for k, per_ms in enumerate(self.ratio_per_ms):
            chosen_ms = self.ms[k][np.arange(choices.shape[1]), choices]
            np.maximum(ratios, (now[:, k, None, None] + self.ms[k] - chosen_ms[:, :, None]) * per_ms, out=ratios)
        return ratios

    def scale(self, factor: float) -> Latency:
        """Return a copy in which every architecture takes `factor` times its prediction."""
        other = copy(self)
        other.__dict__.pop("fastest", None)
        other.ratio_per_ms = self.ratio_per_ms * factor
        return other

    @cached_property
    def fastest(self) -> tuple[Indices, Indices]:
        """Choices [1, G] and head [1] of smallest target ratio: exact for one table, the best weighting for several."""
        ratios, heads = self.ms * self.ratio_per_ms[:, None, None], self.head_ms * self.ratio_per_ms[:, None]
        random = np.random.default_rng(0).dirichlet(np.ones(len(ratios)), NUM_WEIGHTINGS)
        candidates = []
        for weights in np.unique(np.vstack([np.eye(len(ratios)), random.round(9)]), axis=0):
            costs: Array = np.tensordot(weights, ratios, 1)
            choices: list[int] = []
            for block in self.decisions.blocks:
                rows = costs[len(choices) : len(choices) + len(block.plan.edges)]
                choices += find_cheapest_operators(block.plan, rows, self.decisions.zero)
            candidates.append((np.array([choices]), np.array([int((weights @ heads).argmin())])))
        return min(candidates, key=lambda candidate: float(self.target_ratio(*candidate)[0]))

    @property
    def slowest(self) -> tuple[Indices, Indices]:
        """Choices [1, G] and head [1] of largest target ratio."""
        ratios = self.ms * self.ratio_per_ms[:, None, None]
        choices = [table.argmax(axis=1)[None] for table in ratios]
        heads = [np.array([int(row.argmax())]) for row in self.head_ms]
        return max(zip(choices, heads, strict=True), key=lambda candidate: float(self.target_ratio(*candidate)[0]))

    def expected_ms(self, probabilities: Tensor) -> Tensor:
        """Return expected latencies over independently drawn operators: probabilities [G, O] -> [K], milliseconds.

        LAT = fixed_ms + sum over g, o of p[g, o] * ms[g, o]: the predictor's sum with probabilities in place of a
        choice, so one-hot probabilities give the prediction itself.
        """
        ms, fixed_ms = self._torch
        return fixed_ms + (probabilities * ms).sum(dim=(1, 2))

    def expected_target_ratio(self, expected_ms: Tensor) -> Tensor:
        """Return the target ratio (scalar) of expected latencies [K]."""
        return (expected_ms * torch.from_numpy(self.ratio_per_ms).float()).max()


class FixedWeight:
    """Latency term without a target: beta * log(LAT) is added to the loss, as in GAS."""

    def __init__(self, beta: float) -> None:
        self.multiplier = beta

    def penalty(self, ms: Tensor) -> Tensor:
        """Return the term of the loss for an expected latency (scalar, ms)."""
        return self.multiplier * ms.clamp_min(1e-6).log()

    def update(self, ms: float) -> None:
        """Do nothing: beta is fixed."""


class DualAscent:
    """Latency term with targets: an augmented Lagrangian of g = log(target ratio).

    The term is multiplier * g + g**2 / 2. Dual ascent learns the multiplier; the square damps oscillation between the
    multiplier and the architecture. The multiplier grows above the target and shrinks below it; a negative one rewards
    operators that use up the remaining latency. With several tables the worst ratio counts, so all targets are met.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.multiplier = 0.0

    def penalty(self, ratio: Tensor) -> Tensor:
        """Return the term of the loss for an expected target ratio (scalar)."""
        excess = ratio.clamp_min(1e-6).log()
        return self.multiplier * excess + excess.square() / 2

    def update(self, ratio: float) -> None:
        """Make one step of dual ascent."""
        self.multiplier += self.lr * math.log(max(ratio, 1e-6))


class NoLatencyTerm:
    """No latency in the loss; only the projection at the end of the search uses the target."""

    multiplier = 0.0

    def penalty(self, ratio: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros(())

    def update(self, ratio: float) -> None:
        """Do nothing."""


def require_target_in_range(predictor: Predictor, target_ms: float, quantile: float | None = None) -> None:
    """Check that the space has an architecture at the target.

    Raises:
        UsageError: the target is below the fastest or above the slowest architecture; the message gives both.
    """
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    fastest, slowest = (margin * predictor.predict(end) for end in (predictor.fastest, predictor.slowest))
    if not fastest <= target_ms <= slowest:
        side = "below the fastest" if target_ms < fastest else "above the slowest"
        bound = "" if quantile is None else f", with the margin of --quantile {quantile:g}"
        raise UsageError(
            f"a target of {target_ms:.4g} ms is {side} architecture of {predictor.space.name}: {predictor.table_path} "
            f"predicts {fastest:.3f} to {slowest:.3f} ms ({predictor.scope}{bound})"
        )
