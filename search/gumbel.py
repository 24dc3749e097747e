"""Single-path sampling by straight-through Gumbel-softmax (Jang et al., arXiv 1611.01144; as in GAS)."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_gates(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one operator for every edge.

    Args:
        logits: unnormalised log-probabilities, [edges, operators].
        temperature: of the softmax whose gradient stands in for the draw's; the draw itself does not depend on it.
        generator: source of the noise, on the CPU, so that every rank and device draws the same path.

    Returns:
        [edges, operators], one-hot rows in value, gradient of the softmax.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-9).to(logits.device)
    noisy = torch.log_softmax(logits, dim=-1) - torch.log(-torch.log(uniform))
    soft = torch.softmax(noisy / temperature, dim=-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def temperature_at(progress: float, first: float, last: float) -> float:
    """Temperature after a share of the search (0 to 1), decayed exponentially from `first` to `last`."""
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
