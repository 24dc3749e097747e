"""Moving average of a network's weights, which is more accurate than the weights of any single step."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average (EMA) of a network's weights and of its batch normalisations' statistics.

    Args:
        network: network to average.
        decay: share of the average that each step keeps, at least 0 and below 1.

    Attributes:
        network: copy of the network with average weights, in evaluation mode.
        decay: decay after the first 1 / (1 - decay) steps or so.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, step: int) -> float:
        """Return the decay at a step counted from 0; it starts lower, so that the initial weights fade."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after a step to the average."""
        states = self.network.state_dict().values(), network.state_dict().values()
        pairs = list({average.data_ptr(): (average, value) for average, value in zip(*states, strict=True)}.values())
        averages = [average for average, _ in pairs if average.is_floating_point()]
        values = [value for _, value in pairs if value.is_floating_point()]
        torch._foreach_lerp_(averages, values, 1 - self.decay_at(step))
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
