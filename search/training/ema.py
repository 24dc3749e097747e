"""A running mean of a network's weights, which scores better than the weights of any one step."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average (EMA) of a network's weights and of its batch normalisations' statistics.

    Attributes:
        network: a copy of the network, in evaluation mode, that has the mean weights.
        decay: what is kept of the mean at each step, once the run is long against 1 / (1 - decay).

    Args:
        network: what to take the mean of.
        decay: at least 0 and below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, step: int) -> float:
        """The decay at a step counted from 0: smaller at first, so that the first weights do not stay in the mean."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step."""
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        means = [mean for mean, _ in pairs if mean.is_floating_point()]
        torch._foreach_lerp_(means, [now for _, now in pairs if now.is_floating_point()], 1 - self.decay_at(step))
        for mean, now in pairs:
            if not mean.is_floating_point():
                mean.copy_(now)
