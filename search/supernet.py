"""The supernet: the network's skeleton with every candidate on every edge, and the architecture parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..models.architecture import Architecture
from ..models.network import Skeleton
from ..models.space import SearchSpace
from .guide import GraphGuide
from .gumbel import sample_gates


class Supernet(Skeleton):
    """All networks of a space at once, weights shared.

    Every cell has architecture parameters of its own (cell-independent); those of a backbone cell are guided by the
    cell before. The fusion cell is guided by none.

    Args:
        space: the search space.
        gamma: weight of the guidance; 0 leaves it out.
        embedding: width of the guidance's hidden layer.
    """

    def __init__(self, space: SearchSpace, gamma: float = 0.5, embedding: int = 64) -> None:
        super().__init__(space)
        operators = len(space.operators)
        self.alpha = nn.ParameterList(1e-3 * torch.randn(len(cell.edges), operators) for cell in space.plan.searched)
        guided = space.cells - 1 if gamma > 0 else 0
        self.guides = nn.ModuleList(GraphGuide(operators, embedding, gamma) for _ in range(guided))

    def logits(self) -> list[Tensor]:
        """Guided architecture parameters of every cell, [edges, operators] each, the fusion's last."""
        alphas = list(self.alpha)
        guided = [guide(alphas[index + 1], alphas[index]) for index, guide in enumerate(self.guides)]
        return [alphas[0], *guided, *alphas[1 + len(guided) :]]

    def probabilities(self) -> Tensor:
        """Probability of every operator on every edge of the network: [E, O]."""
        return torch.softmax(torch.cat(self.logits()), dim=-1)

    def sample(self, temperature: float, generator: torch.Generator) -> list[Tensor]:
        """Draw a path: one-hot gates for every cell, with straight-through gradients; see `sample_gates`."""
        return [sample_gates(logits, temperature, generator) for logits in self.logits()]

    def one_hot(self, architecture: Architecture) -> list[Tensor]:
        """Gates that pick `architecture`, without gradient."""
        device = self.alpha[0].device
        index = torch.tensor(architecture.choices, device=device)
        gates = nn.functional.one_hot(index, len(self.space.operators)).float()
        return list(torch.split(gates, [len(cell.edges) for cell in self.space.plan.searched]))

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Logits of the sampled path, [N, classes, h, w], for images [N, 3, H, W]."""
        return self.compute(x, gates)

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Parameters of the architecture: all alphas and their guidance."""
        return [*self.alpha.parameters(), *self.guides.parameters()]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Parameters of the operators: all others."""
        own = {id(parameter) for parameter in self.architecture_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Context in which batch normalisations use the batch at hand and leave their running statistics alone.

    A supernet's running statistics are a blend of all sampled paths and fit no single one.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
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
