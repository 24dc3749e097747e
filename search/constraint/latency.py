"""The tables' latencies: of architectures by the thousand, and as a differentiable term of the search's loss.

    K  tables, one a device      H  widths of the head      other symbols as in `blocks`

    ms [K, G, O]     what an operator adds (milliseconds); shared edges are summed
    fixed_ms [K]     what is not searched, with the head of the space's own width
    head_ms [K, H]   what another width of the head adds to that
    margin [K]       factor from a prediction to the bound that is held against the target
    load             the largest share of its target that a bound takes over the tables: 1 is on the target

A space without targets has no loads; `Latency.load` then is the latency on the first device.
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

WEIGHINGS = 64
"""Weights of several tables against each other that `Latency.fastest` tries."""


class Latency:
    """Latencies of what can be decided, on every device.

    Args:
        blocks: the decisions.
        predictors: one for each table; all of the blocks' space.
        targets_ms: one for each table, milliseconds; None where latency is traded against the loss.
        quantile: probability with which the measured latency is to stay below the target, by the calibrations' errors;
            None holds the prediction itself against it.

    Raises:
        UsageError: a quantile, but a table that was never calibrated.
    """

    def __init__(
        self,
        blocks: Decisions,
        predictors: Sequence[Predictor],
        targets_ms: Sequence[float] | None = None,
        quantile: float | None = None,
    ) -> None:
        self.blocks = blocks
        gathered = [blocks.gather(predictor.edge_ms) for predictor in predictors]
        self.ms: Array = np.stack([ms for ms, _ in gathered])
        self.fixed_ms: Array = np.array([p.fixed_ms + rest for p, (_, rest) in zip(predictors, gathered, strict=True)])
        self.head_ms: Array = np.stack([predictor.head_ms for predictor in predictors])
        self.own_head = blocks.space.own_head
        self.margin: Array = np.array([1.0 if quantile is None else p.margin(quantile) for p in predictors])
        self.targets_ms = None if targets_ms is None else np.array(targets_ms, float)
        scale = np.array([1.0, *[0.0] * (len(predictors) - 1)]) if self.targets_ms is None else 1 / self.targets_ms
        self.per_ms: Array = self.margin * scale
        """[K]; load that a millisecond makes."""
        self._torch = (torch.from_numpy(self.ms).float(), torch.from_numpy(self.fixed_ms).float())

    def predicted_ms(self, picked: Indices, heads: Indices | None = None) -> Array:
        """Predictions: picked [N, G] and heads [N] (the own width if left out) -> [N, K], milliseconds."""
        head = np.full(len(picked), self.own_head) if heads is None else heads
        edges = self.ms[:, np.arange(picked.shape[1]), picked].sum(axis=2)
        found: Array = (self.fixed_ms[:, None] + edges + self.head_ms[:, head]).T
        return found

    def load(self, picked: Indices, heads: Indices | None = None) -> Array:
        """Loads of architectures: [N]."""
        found: Array = (self.predicted_ms(picked, heads) * self.per_ms).max(axis=1)
        return found

    def load_after_swaps(self, picked: Indices, heads: Indices) -> Array:
        """Loads after each single swap: picked [N, G], heads [N] -> [N, G, O]."""
        now = self.predicted_ms(picked, heads)
        most: Array = np.full((*picked.shape, self.ms.shape[2]), -np.inf)
        for k, share in enumerate(self.per_ms):
            own = self.ms[k][np.arange(picked.shape[1]), picked]
            np.maximum(most, (now[:, k, None, None] + self.ms[k] - own[:, :, None]) * share, out=most)
        return most

    def slower(self, factor: float) -> Latency:
        """The same where every architecture takes `factor` times its prediction."""
        other = copy(self)
        other.__dict__.pop("fastest", None)
        other.per_ms = self.per_ms * factor
        return other

    @cached_property
    def fastest(self) -> tuple[Indices, Indices]:
        """Picks [1, G] and head [1] of least load: exact for one table, for several the best of many weighings."""
        shares, heads = self.ms * self.per_ms[:, None, None], self.head_ms * self.per_ms[:, None]
        even = np.random.default_rng(0).dirichlet(np.ones(len(shares)), WEIGHINGS)
        found = []
        for weights in np.unique(np.vstack([np.eye(len(shares)), even.round(9)]), axis=0):
            costs: Array = np.tensordot(weights, shares, 1)
            picked: list[int] = []
            for block in self.blocks.blocks:
                rows = costs[len(picked) : len(picked) + len(block.plan.edges)]
                picked += find_cheapest_operators(block.plan, rows, self.blocks.zero)
            found.append((np.array([picked]), np.array([int((weights @ heads).argmin())])))
        return min(found, key=lambda one: float(self.load(*one)[0]))

    @property
    def slowest(self) -> tuple[Indices, Indices]:
        """Picks [1, G] and head [1] of the largest load of all."""
        shares = self.ms * self.per_ms[:, None, None]
        picked = [table.argmax(axis=1)[None] for table in shares]
        heads = [np.array([int(row.argmax())]) for row in self.head_ms]
        return max(zip(picked, heads, strict=True), key=lambda one: float(self.load(*one)[0]))

    def expected_ms(self, probabilities: Tensor) -> Tensor:
        """Expected latencies over independently drawn operators: probabilities [G, O] -> [K], milliseconds.

        LAT = fixed_ms + sum over g, o of p[g, o] * ms[g, o]: the predictor's sum with probabilities in place of a
        choice, so that one-hot probabilities give the prediction itself.
        """
        ms, fixed_ms = self._torch
        return fixed_ms + (probabilities * ms).sum(dim=(1, 2))

    def expected_load(self, expected_ms: Tensor) -> Tensor:
        """The largest share of a target that expected latencies [K] take: scalar."""
        return (expected_ms * torch.from_numpy(self.per_ms).float()).max()


class TradeOff:
    """Latency without a target: the loss gains beta * log(LAT), as in GAS."""

    def __init__(self, beta: float) -> None:
        self.multiplier = beta

    def penalty(self, load: Tensor) -> Tensor:
        """What the loss gains for an expected latency (scalar, ms)."""
        return self.multiplier * load.clamp_min(1e-6).log()

    def update(self, load: float) -> None:
        """Do nothing: beta is fixed."""


class Constraint:
    """Latency with targets, as an augmented Lagrangian of g = log(load).

    The loss gains multiplier * g + g**2 / 2; the multiplier is learned by dual ascent, the square keeps the two from
    chasing each other. Above the target the multiplier grows, below it shrinks; negative, it asks for the operators
    that the target leaves room for. With several tables the load is that of the worst one, so all targets are met.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.multiplier = 0.0

    def penalty(self, load: Tensor) -> Tensor:
        """What the loss gains for an expected load (scalar)."""
        excess = load.clamp_min(1e-6).log()
        return self.multiplier * excess + excess.square() / 2

    def update(self, load: float) -> None:
        """One step of dual ascent."""
        self.multiplier += self.lr * math.log(max(load, 1e-6))


class NoTerm:
    """No latency in the search at all; only the last step lands on a target."""

    multiplier = 0.0

    def penalty(self, load: Tensor) -> Tensor:
        """Nothing."""
        return torch.zeros(())

    def update(self, load: float) -> None:
        """Do nothing."""


def require_reachable(predictor: Predictor, target_ms: float, quantile: float | None = None) -> None:
    """Show that the space has an architecture at the target.

    Raises:
        UsageError: the target is below the fastest or above the slowest architecture; the message gives both.
    """
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    fastest, slowest = (margin * predictor.predict(end) for end in (predictor.fastest, predictor.slowest))
    if not fastest <= target_ms <= slowest:
        side = "below the fastest" if target_ms < fastest else "above the slowest"
        bound = "" if quantile is None else f", with the margin of --quantile {quantile:g}"
        raise UsageError(
            f"a target of {target_ms:.4g} ms is {side} architecture of {predictor.space.name}: by "
            f"{predictor.table_path} they reach from {fastest:.3f} to {slowest:.3f} ms ({predictor.scope}{bound})"
        )
