"""The table's latency as a differentiable term of the search's loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..lut.predictor import Predictor


class ExpectedLatency(nn.Module):
    """Expected latency over independently drawn operators, in milliseconds.

    LAT = fixed_ms + sum over e, o of p[e, o] * edge_ms[e, o]: the predictor's sum with probabilities in place of a
    choice, so that one-hot probabilities give the prediction itself.
    """

    edge_ms: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.register_buffer("edge_ms", torch.from_numpy(predictor.edge_ms).float())
        self.fixed_ms = predictor.fixed_ms

    def forward(self, probabilities: Tensor) -> Tensor:
        """Expected latency (scalar, ms) of operator probabilities [E, O]."""
        return self.fixed_ms + (probabilities * self.edge_ms).sum()


class TradeOff:
    """Latency without a target: the loss gains beta * log(LAT), as in GAS."""

    def __init__(self, beta: float) -> None:
        self.multiplier = beta

    def penalty(self, expected_ms: Tensor) -> Tensor:
        """What the loss gains for an expected latency (scalar, ms)."""
        return self.multiplier * expected_ms.clamp_min(1e-6).log()

    def update(self, expected_ms: float) -> None:
        """Do nothing: beta is fixed."""


class Target:
    """Latency with a target, as an augmented Lagrangian of g = log(LAT / target).

    The loss gains multiplier * g + g**2 / 2; the multiplier is learned by dual ascent, the square keeps the two from
    chasing each other. Above the target the multiplier grows, below it shrinks; negative, it asks for the operators
    that the target leaves room for.
    """

    def __init__(self, target_ms: float, lr: float) -> None:
        self.target_ms = target_ms
        self.lr = lr
        self.multiplier = 0.0

    def penalty(self, expected_ms: Tensor) -> Tensor:
        """What the loss gains for an expected latency (scalar, ms)."""
        excess = (expected_ms.clamp_min(1e-6) / self.target_ms).log()
        return self.multiplier * excess + excess.square() / 2

    def update(self, expected_ms: float) -> None:
        """One step of dual ascent."""
        self.multiplier += self.lr * math.log(max(expected_ms, 1e-6) / self.target_ms)


def require_reachable(predictor: Predictor, target_ms: float) -> None:
    """Show that the space has an architecture at the target.

    Raises:
        UsageError: the target is below the fastest or above the slowest architecture; the message gives both.
    """
    fastest, slowest = (predictor.predict(end) for end in (predictor.fastest, predictor.slowest))
    if not fastest <= target_ms <= slowest:
        side = "below the fastest" if target_ms < fastest else "above the slowest"
        raise UsageError(
            f"a target of {target_ms:.3f} ms is {side} architecture of {predictor.space.name}: by "
            f"{predictor.table_path} they reach from {fastest:.3f} to {slowest:.3f} ms ({predictor.scope})"
        )
