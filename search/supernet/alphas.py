"""Architecture parameters, and paths sampled from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..decisions import Indices
from .blocks import BlockDecisions
from .communication import GraphCommunication, LinearCommunication
from .gumbel import add_gumbel_noise, straight_through_gates

COMMUNICATIONS = ("gcn", "linear", "none")
"""Kinds of communication between cells; see `communication`."""


@dataclass(frozen=True)
class SampledPath:
    """A path of the supernet.

    Attributes:
        choices: operator of each searched decision, [S].
        gates: values of 1 with the gradient of the choice, [S]; None without gradients.
    """

    choices: Indices
    gates: Tensor | None = None


class ArchitectureParameters(nn.Module):
    """Architecture parameters of every block, and the communication between cells.

    These are a few hundred numbers. They stay on the CPU for any device of the weights, so that sampling waits for no
    GPU and gives the same path in every process.

    Args:
        decisions: decisions of the search; block k has parameters alpha_k, [edges_k, O].
        communication: a name of `COMMUNICATIONS`; shared cells need `none`.
        gamma: weight of the communication.
        embedding: width of the graph convolution's hidden layer.
    """

    def __init__(
        self, decisions: BlockDecisions, communication: str = "gcn", gamma: float = 0.5, embedding: int = 64
    ) -> None:
        super().__init__()
        self.decisions = decisions
        operators = len(decisions.space.operators)
        self.alpha = nn.ParameterList(1e-3 * torch.randn(size, operators) for size in decisions.block_sizes)
        cells = [block for block in decisions.blocks if block.name != decisions.space.plan.fusion.name]
        if communication != "none" and any(len(block.cells) > 1 for block in cells):
            raise UsageError("shared cells cannot communicate: use communication none, or independent cells")
        sizes = decisions.block_sizes[: len(cells)]
        pairs = list(zip(sizes[1:], sizes, strict=False)) if communication != "none" else []
        # Checkpoints hold these modules by the name `guides`.
        self.guides = nn.ModuleList(
            GraphCommunication(operators, embedding, gamma)
            if communication == "gcn"
            else LinearCommunication(edges, previous, operators, gamma)
            for edges, previous in pairs
        )

    def logits(self) -> Tensor:
        """Return the parameters of all searched decisions after communication, [S, O].

        Each backbone cell after the first receives the previous cell's own parameters; the fusion cell receives none.
        """
        alphas = list(self.alpha)
        informed = [module(alphas[index + 1], alphas[index]) for index, module in enumerate(self.guides)]
        return torch.cat([alphas[0], *informed, *alphas[1 + len(informed) :]])

    def probabilities(self) -> Tensor:
        """Return the probability of every operator at every searched decision, [S, O]."""
        return torch.softmax(self.logits(), dim=-1)

    def sample_path(self, temperature: float, generator: torch.Generator, explore: float = 0.0) -> SampledPath:
        """Sample a valid path: dead endpoints get the live operator of highest log-probability plus noise.

        Args:
            temperature: temperature of the straight-through gradient.
            generator: source of the noise.
            explore: share of the uniform distribution in the sampled one.
        """
        noisy = add_gumbel_noise(self.logits(), generator, explore)
        values = noisy.detach().double().numpy()
        choices = self.decisions.repair_searched(values.argmax(axis=1)[None], values)[0]
        if not torch.is_grad_enabled():
            return SampledPath(choices)
        return SampledPath(choices, straight_through_gates(noisy, torch.from_numpy(choices), temperature))

    def entropies(self) -> list[float]:
        """Return the mean entropy of each block's decisions, in nats."""
        with torch.no_grad():
            p = self.probabilities()
            rows = -(p * p.clamp_min(1e-12).log()).sum(-1)
            return [float(part.mean()) for part in torch.split(rows, self.decisions.block_sizes)]
