"""Architecture parameters, and paths sampled from them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...models.space.cost import Array
from ..decisions import Indices
from .blocks import BlockDecisions
from .communication import GraphCommunication, LinearCommunication
from .gumbel import add_gumbel_noise, straight_through_gates

MAX_FLATTENING, BISECTIONS = 1e4, 24
"""Largest temperature that raises an entropy, and steps that find it."""
COMMUNICATIONS = ("gcn", "linear", "none")
"""Kinds of communication between cells; see `communication`."""


@dataclass(frozen=True)
class SampledPath:
    """A path of the supernet.

    Attributes:
        choices: operator of each searched decision, [S].
        gates: values of 1 with the gradient of the choice, [S]; None without gradients.
        rivals: a second choice of each contested decision, [S], -1 for the others; None without gradients.
        rival_gates: values of 0 with the gradient of the rival, [S].
    """

    choices: Indices
    gates: Tensor | None = None
    rivals: Indices | None = None
    rival_gates: Tensor | None = None


class ArchitectureParameters(nn.Module):
    """Architecture parameters of every block, and the communication between cells.

    These are a few hundred numbers. They stay on the CPU for any device of the weights, so that sampling waits for no
    GPU and gives the same path in every process.

    Args:
        decisions: decisions of the search; block k has parameters alpha_k, [edges_k, O_k].
        communication: a name of `COMMUNICATIONS`; shared cells need `none`.
        gamma: weight of the communication.
        embedding: width of the graph convolution's hidden layer.
    """

    missing: Tensor

    def __init__(
        self, decisions: BlockDecisions, communication: str = "gcn", gamma: float = 0.5, embedding: int = 64
    ) -> None:
        super().__init__()
        self.decisions = decisions
        blocks = decisions.blocks
        self.alpha = nn.ParameterList(1e-3 * torch.randn(len(block.names), len(block.choices)) for block in blocks)
        cells = blocks[: decisions.num_cells]
        if communication != "none" and any(len(block.cells) > 1 for block in cells):
            raise UsageError("shared cells cannot communicate: use communication none, or independent cells")
        widths = [index for index, block in enumerate(blocks) if not block.cells]
        chains = (range(len(cells)), widths) if communication != "none" else ()
        self._receivers = {index: source for chain in chains for source, index in pairwise(chain)}
        # Checkpoints hold these modules by the name `guides`.
        self.guides = nn.ModuleList(
            _make_communication(communication, self.alpha[index], self.alpha[source], gamma, embedding)
            for index, source in self._receivers.items()
        )
        self.register_buffer("missing", self._mark_missing(), persistent=False)

    def _mark_missing(self) -> Tensor:
        """Return True for the choices that a decision lacks, [S, C]."""
        sizes = [len(block.choices) for block in self.decisions.blocks for _ in block.names]
        return torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]

    def logits(self) -> Tensor:
        """Return the parameters of all searched decisions after communication, [S, C]; -inf for missing choices.

        Each backbone cell after the first receives the previous cell's own parameters, and each searched width those of
        the previous one, from the stem to the head; the fusion cell receives none.
        """
        own = list(self.alpha)
        informed: list[Tensor] = list(own)
        for module, (index, source) in zip(self.guides, self._receivers.items(), strict=True):
            informed[index] = module(own[index], own[source])
        choices = int(self.missing.shape[1])
        padded = [F.pad(rows, (0, choices - rows.shape[1])) for rows in informed]
        return torch.cat(padded).masked_fill(self.missing, -torch.inf)

    def probabilities(self) -> Tensor:
        """Return the probability of every choice at every searched decision, [S, C]."""
        return torch.softmax(self.logits(), dim=-1)

    def add_log_frequencies(self, choices: Indices) -> None:
        """Add to the parameters the log-frequency of each choice in some architectures, [N, S], smoothed by one count.

        The mean of a decision's parameters stays the same, which no probability depends on.
        """
        start = 0
        with torch.no_grad():
            for rows in self.alpha:
                for row in rows:
                    counts = np.bincount(choices[:, start], minlength=len(row)) + 1.0
                    logs = torch.from_numpy(np.log(counts)).to(row)
                    row += logs - logs.mean()
                    start += 1

    def sample_path(self, temperature: float, generator: torch.Generator) -> SampledPath:
        """Sample a valid path: dead endpoints get the live operator of highest log-probability plus noise.

        With gradients, a contested decision (see `BlockDecisions`) gets a rival too: the next choice by the noisy
        log-probabilities, so the two are a sample without replacement. ProxylessNAS (arXiv 1812.00332) does so for
        operators.

        Args:
            temperature: temperature of the straight-through gradient.
            generator: source of the noise.
        """
        noisy = add_gumbel_noise(self.logits(), generator)
        values = noisy.detach().double().numpy()
        choices = self.decisions.repair_searched(values.argmax(axis=1)[None], values)[0]
        if not torch.is_grad_enabled():
            return SampledPath(choices)
        rivals = self._find_rivals(choices, values)
        chosen, others = torch.from_numpy(choices), torch.from_numpy(np.maximum(rivals, 0))
        return SampledPath(
            choices,
            straight_through_gates(noisy, chosen, temperature),
            rivals,
            straight_through_gates(noisy, others, temperature, 0.0),
        )

    def _find_rivals(self, choices: Indices, values: Array) -> Indices:
        """Return the best other choice of each contested decision by noisy log-probabilities [S, C], [S]; else -1."""
        others = values.copy()
        np.put_along_axis(others, choices[:, None], -np.inf, axis=1)
        exists = np.isfinite(others).any(axis=1)
        return np.where(self.decisions.contested & exists, others.argmax(axis=1), -1)

    def entropies(self) -> list[float]:
        """Return the mean entropy of each block's decisions, in nats."""
        with torch.no_grad():
            return [float(part.mean()) for part in torch.split(self.list_entropies(), self.decisions.block_sizes)]

    def list_entropies(self) -> Tensor:
        """Return the entropy of each decision, [S], in nats."""
        return _list_entropies(self.logits())

    @torch.no_grad()
    def raise_entropies(self, smallest: Tensor) -> None:
        """Flatten the distributions whose entropy is below the smallest one, [S], in nats: their ranking stays.

        A decision that settles early does so by weights that are hardly trained, and its other choices are no longer
        sampled. Logits after communication are divided by a temperature; the difference is added to the parameters.
        """
        logits = self.logits()
        settled = (_list_entropies(logits) < smallest)[:, None]
        if not bool(settled.any()):
            return
        low, high = torch.ones(len(logits), 1), torch.full((len(logits), 1), MAX_FLATTENING)
        for _ in range(BISECTIONS):
            middle = (low * high).sqrt()
            is_low = (_list_entropies(logits / middle) < smallest)[:, None]
            low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
        change = torch.where(settled & ~self.missing, logits / high - logits, 0.0)
        for rows, part in zip(self.alpha, torch.split(change, self.decisions.block_sizes), strict=True):
            rows += part[:, : rows.shape[1]]


def _list_entropies(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax of each row, [S], in nats."""
    p = torch.softmax(logits, dim=-1)
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


def _make_communication(kind: str, alpha: Tensor, previous: Tensor, gamma: float, embedding: int) -> nn.Module:
    """Return the communication to a block's parameters from the previous block's."""
    if kind == "gcn":
        return GraphCommunication(alpha.shape[1], embedding, gamma, previous.shape[1])
    return LinearCommunication(alpha.shape, previous.shape, gamma)
