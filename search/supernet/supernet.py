"""The supernet: the network's skeleton with every candidate on every edge; it computes one path at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ...models.nets.cell import CellPath, EdgePath
from ...models.nets.layers import build_module
from ...models.nets.network import LGCNet, Skeleton
from .alphas import SampledPath
from .blocks import BlockDecisions
from .slimming import SlimConv2d, SlimOperator, build_slim


class Supernet(Skeleton):
    """All networks of a space, with shared weights; widths that are not searched have their default.

    Args:
        decisions: decisions that its paths consist of.
    """

    def __init__(self, decisions: BlockDecisions) -> None:
        space = decisions.space
        if space.searches_widths:
            super().__init__(space, space.template, partial(build_slim, largest=space.widest))
        else:
            super().__init__(space, space.plan, build_module)
        self.decisions = decisions
        self._widths = space.widest

    def forward(self, x: Tensor, sample: SampledPath) -> Tensor:
        """Return logits of a path, [N, classes, h, w], for images [N, 3, H, W]."""
        self._choose_widths(sample)
        return self.compute(x, self.split_path(sample))

    def _choose_widths(self, sample: SampledPath) -> None:
        """Select the path's widths in every operator."""
        self.choose_widths(self.decisions.expand(sample.choices[None])[0, self.space.edges :].tolist())

    def choose_widths(self, choices: Sequence[int]) -> None:
        """Select the choices of all width decisions, [W], in every operator."""
        widths = tuple(choices)
        if widths != self._widths:
            self._widths = widths
            for module in self.modules():
                if isinstance(module, SlimOperator):
                    module.choose(widths)

    def split_path(self, sample: SampledPath) -> Sequence[CellPath]:
        """Return the path through each cell; the fusion cell is the last."""
        choices = self.decisions.expand(sample.choices[None])[0].tolist()
        edges = iter(self._list_edges(choices[: self.space.edges], sample))
        return [[next(edges) for _ in cell.edges] for cell in self.space.plan.searched_cells]

    def _list_edges(self, choices: Sequence[int], sample: SampledPath) -> list[EdgePath]:
        """Return the path through each edge, for the choices of all edges."""
        if sample.gates is None or sample.rivals is None:
            return [EdgePath(choice) for choice in choices]
        assert sample.rival_gates is not None
        gates = torch.stack([sample.gates, sample.rival_gates]).to(next(self.parameters()).device)
        rivals, constant, paths = sample.rivals.tolist(), gates.new_ones(()), []
        for choice, index in zip(choices, self.decisions.assignment.tolist(), strict=False):
            if index < 0:  # of a fixed fusion
                paths.append(EdgePath(choice, constant))
            elif rivals[index] < 0:
                paths.append(EdgePath(choice, gates[0, index]))
            else:
                paths.append(EdgePath(choice, gates[0, index], rivals[index], gates[1, index]))
        return paths


def inherit_weights(supernet: Supernet, network: LGCNet) -> dict[str, Tensor]:
    """Return the state dict of a network with the weights that it has in its space's supernet.

    Of searched widths, these are the first channels. Batch normalisations keep the network's statistics: slimmable ones
    have none.
    """
    supernet.choose_widths(network.architecture.choices[network.space.edges :])
    state = dict(network.state_dict())
    for name, own in network.named_modules():
        if not isinstance(own, nn.Conv2d | nn.BatchNorm2d):
            continue
        other = _find_module(supernet, name)
        weight, bias = other.select() if isinstance(other, SlimConv2d) else (other.weight, other.bias)
        for key, tensor in (("weight", weight), ("bias", bias)):
            if isinstance(tensor, Tensor):
                state[f"{name}.{key}"] = tensor[: len(state[f"{name}.{key}"])].detach()
    return state


def _find_module(supernet: Supernet, name: str) -> nn.Module:
    """Return the supernet's module of that name in a network: slimmable operators hold theirs as `module`."""
    module: nn.Module = supernet
    for part in name.split("."):
        module = getattr(module.module if isinstance(module, SlimOperator) else module, part)
    return module.module if isinstance(module, SlimOperator) else module


@contextmanager
def use_batch_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by the current batch inside the context, without gradients, and keep running statistics unchanged.

    A supernet's running statistics blend all sampled paths and fit none of them.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, training, momentum in before:
            norm.train(training)
            norm.momentum = momentum
