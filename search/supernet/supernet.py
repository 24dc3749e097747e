"""The supernet: the network's skeleton with every candidate on every edge; it computes one path at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...models.nets.cell import CellPath
from ...models.nets.network import Skeleton
from ..decisions import Decisions
from .alphas import SampledPath


class Supernet(Skeleton):
    """All networks of a space at once, weights shared; its head has the space's own width.

    Args:
        blocks: the decisions that its paths are made of.
    """

    def __init__(self, blocks: Decisions) -> None:
        super().__init__(blocks.space)
        self.blocks = blocks

    def forward(self, x: Tensor, draw: SampledPath) -> Tensor:
        """Logits of one path, [N, classes, h, w], for images [N, 3, H, W]."""
        return self.compute(x, self.paths(draw))

    def paths(self, draw: SampledPath) -> Sequence[CellPath]:
        """The path through every cell, the fusion's last."""
        choices = self.blocks.expand(draw.picked[None])[0].tolist()
        gates = None
        if draw.gates is not None:
            # Edges of a fixed fusion have decision -1; they take a constant appended at the end.
            padded = torch.cat([draw.gates, draw.gates.new_ones(1)])
            gates = padded[torch.from_numpy(self.blocks.decision_of_edge)]
            gates = gates.to(next(self.parameters()).device)
        paths, first = [], 0
        for cell in self.space.plan.searched_cells:
            last = first + len(cell.edges)
            paths.append(CellPath(choices[first:last], None if gates is None else gates[first:last]))
            first = last
        return paths


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Context in which batch normalisations use the batch at hand and leave their running statistics alone.

    A supernet's running statistics are a blend of all sampled paths and fit no single one.
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
