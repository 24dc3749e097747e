"""Moving average of a network's weights, which is more accurate than the weights of any single step."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...models.nets.weights import copy_infinite_tensors


class WeightAverage:
    """Exponential moving average (EMA) of a network's weights and of its batch normalisations' statistics.

    Args:
        network: network to average.
        decay: share of the average that each step keeps, at least 0 and below 1.

    Attributes:
        network: copy of the network with average weights, in evaluation mode.
        decay: decay after the first 1 / (1 - decay) steps or so.

    Integers, and tensors that begin with infinite values, e.g. a mask of -inf, are copied instead of averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._copied = {*copy_infinite_tensors(network)}
        self._copied |= {name for name, value in network.state_dict().items() if not value.is_floating_point()}

    def decay_at(self, step: int) -> float:
        """Return the decay at a step counted from 0; it starts lower, so that the initial weights fade."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after a step to the average."""
        state = network.state_dict()
        pairs = {average.data_ptr(): (name, average) for name, average in self.network.state_dict().items()}
        averaged = {name: average for name, average in pairs.values() if name not in self._copied}
        torch._foreach_lerp_([*averaged.values()], [state[name] for name in averaged], 1 - self.decay_at(step))
        for name, average in pairs.values():
            if name in self._copied:
                average.copy_(state[name])
