"""The supernet: the network's skeleton with every candidate on every edge; it computes one path at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ...models.nets.cell import CellPath, EdgePath
from ...models.nets.layers import build_module
from ...models.nets.network import Skeleton
from .alphas import SampledPath
from .blocks import BlockDecisions
from .slimming import SlimOperator, build_slim


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
        widths = tuple(self.decisions.expand(sample.choices[None])[0, self.space.edges :].tolist())
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
