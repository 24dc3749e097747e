"""Moving average of a network's weights, which is more accurate than the weights of any single step."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...models.nets.state.weights import copy_infinite_tensors

_Slot = tuple[dict[str, Tensor], str]
"""Dictionary of a module's parameters or buffers, and a name in it."""


class WeightAverage:
    """Exponential moving average (EMA) of a network's weights and of its batch normalisations' statistics.

    Args:
        network: network to average.
        decay: share of the average that each step keeps, at least 0 and below 1.

    Attributes:
        source: the network.
        network: copy of it with average weights, in evaluation mode.
        decay: decay after the first 1 / (1 - decay) steps or so.

    Integers, and tensors that begin with infinite values, e.g. a mask of -inf, are copied instead of averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.source, self.decay = network, decay
        infinite, seen = copy_infinite_tensors(network), set[int]()
        self._averaged: list[tuple[_Slot, _Slot]] = []
        self._copied: list[tuple[_Slot, _Slot]] = []
        for (name, own), (_, source) in zip(_list_tensors(self.network), _list_tensors(network), strict=True):
            tensor = own[0][own[1]]
            if tensor.data_ptr() in seen:  # a tied tensor, which one update changes under all of its names
                continue
            seen.add(tensor.data_ptr())
            is_averaged = (tensor.is_floating_point() or tensor.is_complex()) and name not in infinite
            (self._averaged if is_averaged else self._copied).append((own, source))

    def decay_at(self, step: int) -> float:
        """Return the decay at a step counted from 0; it starts lower, so that the initial weights fade."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the network's weights after a step to the average."""
        if self._averaged:
            torch._foreach_lerp_(*_read(self._averaged), 1 - self.decay_at(step))
        if self._copied:
            torch._foreach_copy_(*_read(self._copied))


def _list_tensors(network: nn.Module) -> Iterator[tuple[str, _Slot]]:
    """Yield each tensor of a network's state by name, and its slot.

    A module may assign a new tensor to a buffer at any step: the slot stays.
    """
    for prefix, module in network.named_modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and name not in module._non_persistent_buffers_set:
                    yield f"{prefix}.{name}" if prefix else name, (tensors, name)


def _read(pairs: list[tuple[_Slot, _Slot]]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the present tensors of the average and of the network."""
    return [own[0][own[1]] for own, _ in pairs], [source[0][source[1]] for _, source in pairs]
