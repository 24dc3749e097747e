"""Communication between cells: architecture parameters of a cell, informed by those of the cell before.

The graph-convolution-guided module (GGM):

    symbol   shape                    meaning
    alpha_k  [edges_k, operators]     own parameters of cell k
    adj      [edges_k, edges_{k-1}]   how much each edge of cell k listens to each of cell k-1, rows sum to 1
    gamma    scalar                   weight of what it hears

    adj      = softmax_rows(phi1(alpha_k) phi2(alpha_{k-1})^T)
    alpha'_k = alpha_k + gamma Phi2(relu(adj Phi1(alpha_{k-1}) W))

LGCNet (arXiv 2302.08481) and GAS (arXiv 1909.06793); the formula is an assumption, see docs/method.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GraphCommunication(nn.Module):
    """Guidance of one cell by the one before; exists only while searching.

    Args:
        operators: number of candidate operators.
        embedding: width of the hidden layer.
        gamma: weight of the guidance.
    """

    def __init__(self, operators: int, embedding: int = 64, gamma: float = 0.5) -> None:
        super().__init__()
        self.gamma = gamma
        self.phi1 = nn.Linear(operators, embedding, bias=False)
        self.phi2 = nn.Linear(operators, embedding, bias=False)
        self.embed = nn.Linear(operators, embedding, bias=False)
        self.mix = nn.Linear(embedding, embedding, bias=False)
        self.project = nn.Linear(embedding, operators, bias=False)

    def adjacency(self, alpha: Tensor, before: Tensor) -> Tensor:
        """Attention of the edges of a cell over those of the cell before: [edges, edges before]."""
        return torch.softmax(self.phi1(alpha) @ self.phi2(before).T, dim=-1)

    def forward(self, alpha: Tensor, before: Tensor) -> Tensor:
        """Guided parameters of a cell.

        Args:
            alpha: own parameters, [edges, operators].
            before: parameters of the cell before, [edges before, operators].

        Returns:
            [edges, operators].
        """
        heard: Tensor = self.mix(self.adjacency(alpha, before) @ self.embed(before))
        guided: Tensor = alpha + self.gamma * self.project(torch.relu(heard))
        return guided


class LinearCommunication(nn.Module):
    """The GGM's ablation: a linear map from all parameters of the cell before, without a graph and a non-linearity.

    alpha'_k = alpha_k + gamma (W alpha_{k-1}), alpha_{k-1} flattened and the product brought to alpha_k's shape.

    Args:
        edges: of the cell.
        edges_before: of the cell before.
        operators: number of candidate operators.
        gamma: weight of the guidance.
    """

    def __init__(self, edges: int, edges_before: int, operators: int, gamma: float = 0.5) -> None:
        super().__init__()
        self.gamma = gamma
        self.map = nn.Linear(edges_before * operators, edges * operators, bias=False)

    def forward(self, alpha: Tensor, before: Tensor) -> Tensor:
        """Guided parameters, [edges, operators]; arguments as in `GraphCommunication`."""
        guided: Tensor = alpha + self.gamma * self.map(before.flatten()).view_as(alpha)
        return guided
