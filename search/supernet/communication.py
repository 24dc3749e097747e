"""Communication between cells: each cell's architecture parameters receive those of the previous cell.

The graph-convolution-guided module (GGM):

    symbol   shape                    meaning
    alpha_k  [edges_k, operators]     own parameters of cell k
    adj      [edges_k, edges_{k-1}]   attention of each edge of cell k over those of cell k-1; rows sum to 1
    gamma    scalar                   weight of the message

    adj      = softmax_rows(phi1(alpha_k) phi2(alpha_{k-1})^T)
    alpha'_k = alpha_k + gamma Phi2(relu(adj Phi1(alpha_{k-1}) W))

LGCNet (arXiv 2302.08481) and GAS (arXiv 1909.06793); the formula is an assumption, see docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GraphCommunication(nn.Module):
    """Communication from one cell to the next by a graph convolution; it exists only during the search.

    Args:
        operators: number of candidate operators.
        embedding: width of the hidden layer.
        gamma: weight of the message.
        previous: number of candidate operators of the previous cell; None for as many.
    """

    def __init__(self, operators: int, embedding: int = 64, gamma: float = 0.5, previous: int | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.phi1 = nn.Linear(operators, embedding, bias=False)
        self.phi2 = nn.Linear(previous or operators, embedding, bias=False)
        self.embed = nn.Linear(previous or operators, embedding, bias=False)
        self.mix = nn.Linear(embedding, embedding, bias=False)
        self.project = nn.Linear(embedding, operators, bias=False)

    def adjacency(self, alpha: Tensor, previous: Tensor) -> Tensor:
        """Return the attention of a cell's edges over the previous cell's: [edges, previous edges]."""
        return torch.softmax(self.phi1(alpha) @ self.phi2(previous).T, dim=-1)

    def forward(self, alpha: Tensor, previous: Tensor) -> Tensor:
        """Add the message from the previous cell to a cell's parameters.

        Args:
            alpha: own parameters, [edges, operators].
            previous: parameters of the previous cell, [previous edges, operators].

        Returns:
            [edges, operators].
        """
        message: Tensor = self.mix(self.adjacency(alpha, previous) @ self.embed(previous))
        informed: Tensor = alpha + self.gamma * self.project(torch.relu(message))
        return informed


class LinearCommunication(nn.Module):
    """Ablation of the GGM: a linear map from all parameters of the previous cell, without graph or non-linearity.

    alpha'_k = alpha_k + gamma (W alpha_{k-1}), with alpha_{k-1} flattened and the product reshaped as alpha_k.

    Args:
        shape: edges and candidate operators of the cell.
        previous: edges and candidate operators of the previous cell.
        gamma: weight of the message.
    """

    def __init__(self, shape: Sequence[int], previous: Sequence[int], gamma: float = 0.5) -> None:
        super().__init__()
        self.gamma = gamma
        self.map = nn.Linear(math.prod(previous), math.prod(shape), bias=False)

    def forward(self, alpha: Tensor, previous: Tensor) -> Tensor:
        """Add the message, as in `GraphCommunication.forward`."""
        informed: Tensor = alpha + self.gamma * self.map(previous.flatten()).view_as(alpha)
        return informed
