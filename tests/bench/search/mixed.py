"""DARTS supernet for comparison: every edge computes all operators and their weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgc.models import SearchSpace
from lgc.models.nets.cell import Cell
from lgc.models.nets.layers import build_module
from lgc.models.nets.network import Skeleton
from lgc.models.space.operators import ZERO


class MixedNet(Skeleton):
    """DARTS (arXiv 1806.09055) over a space of lgc: [N, 3, H, W] -> logits [N, classes, h, w]."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, space.plan, build_module)
        self.alpha = nn.Parameter(1e-3 * torch.randn(space.edges, len(space.operators)))

    def weights(self) -> list[nn.Parameter]:
        """Return all parameters except the architecture's."""
        return [parameter for parameter in self.parameters() if parameter is not self.alpha]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        share, first = torch.softmax(self.alpha, dim=-1), 0
        features = [self.stem(x)]
        for cell in [*self.cells, self.fusion]:
            features.append(mixed_cell(cell, features, share[first : first + len(cell.edges)]))
            first += len(cell.edges)
        logits: Tensor = self.head(features[-1])
        return logits


def mixed_cell(cell: Cell, features: list[Tensor], share: Tensor) -> Tensor:
    """Return the output of a cell, with weights [edges, operators]."""
    states = cell.inputs(features)
    for node in range(cell.plan.nodes):
        total = None
        for index in cell.plan.edges_into(node):
            edge, source = cell.edges[index], states[cell.plan.edges[index].source]
            for number, name in enumerate(edge.names):
                if name != ZERO:
                    out = share[index, number] * edge.ops[name](source)
                    total = out if total is None else total + out
        states.append(total)
    out: Tensor = cell.concat(*states[len(cell.plan.inputs) :])
    return out
