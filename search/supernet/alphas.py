"""Architecture parameters: what a search learns of the operators, and the paths that are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..decisions import Decisions, Indices
from .communication import GraphCommunication, LinearCommunication
from .gumbel import add_gumbel_noise, straight_through_gates

COMMUNICATIONS = ("gcn", "linear", "none")
"""How cells inform each other; see `guide`."""


@dataclass(frozen=True)
class SampledPath:
    """One path of the supernet.

    Attributes:
        picked: operators of the decisions, [G].
        gates: 1 in value, with the gradient of the choice, [G]; None where no gradient is wanted.
    """

    picked: Indices
    gates: Tensor | None = None


class ArchitectureParameters(nn.Module):
    """What the search learns of the architecture: parameters of every block, and their guidance.

    They are some hundred numbers and stay on the CPU, whatever the device of the weights: there a draw waits for no
    GPU, and is the same in every process.

    Args:
        blocks: the decisions; block k has parameters alpha_k, [edges_k, O].
        communication: a name of `COMMUNICATIONS`; cells that share parameters cannot inform each other.
        gamma: weight of the guidance.
        embedding: width of the graph convolution's hidden layer.
    """

    def __init__(self, blocks: Decisions, communication: str = "gcn", gamma: float = 0.5, embedding: int = 64) -> None:
        super().__init__()
        self.blocks = blocks
        operators = len(blocks.space.operators)
        self.alpha = nn.ParameterList(1e-3 * torch.randn(size, operators) for size in blocks.sizes)
        cells = [block for block in blocks.blocks if block.name != blocks.space.plan.fusion.name]
        if communication != "none" and any(len(block.cells) > 1 for block in cells):
            raise UsageError("cells that share their parameters cannot inform each other: take communication none")
        sizes = blocks.sizes[: len(cells)]
        pairs = list(zip(sizes[1:], sizes, strict=False)) if communication != "none" else []
        self.guides = nn.ModuleList(
            GraphCommunication(operators, embedding, gamma)
            if communication == "gcn"
            else LinearCommunication(edges, before, operators, gamma)
            for edges, before in pairs
        )

    def logits(self) -> Tensor:
        """Guided parameters of all decisions: [G, O].

        Every backbone cell is guided by the own parameters of the one before; the fusion cell is guided by none.
        """
        alphas = list(self.alpha)
        guided = [guide(alphas[index + 1], alphas[index]) for index, guide in enumerate(self.guides)]
        return torch.cat([alphas[0], *guided, *alphas[1 + len(guided) :]])

    def probabilities(self) -> Tensor:
        """Probability of every operator at every decision: [G, O]."""
        return torch.softmax(self.logits(), dim=-1)

    def draw(self, temperature: float, generator: torch.Generator, explore: float = 0.0) -> SampledPath:
        """Draw a valid path: dead nodes and inputs get the operator that the same noise likes best there.

        Args:
            temperature: of the straight-through gradient.
            generator: source of the noise.
            explore: share of the even distribution in what is drawn from.
        """
        noisy = add_gumbel_noise(self.logits(), generator, explore)
        values = noisy.detach().double().numpy()
        picked = self.blocks.repaired(values.argmax(axis=1)[None], values)[0]
        gates = (
            straight_through_gates(noisy, torch.from_numpy(picked), temperature) if torch.is_grad_enabled() else None
        )
        return SampledPath(picked, gates)

    def entropies(self) -> list[float]:
        """Mean entropy of each block's decisions, in nats."""
        with torch.no_grad():
            p = self.probabilities()
            rows = -(p * p.clamp_min(1e-12).log()).sum(-1)
            return [float(part.mean()) for part in torch.split(rows, self.blocks.sizes)]
