"""Single-path sampling by straight-through Gumbel-softmax (Jang et al., arXiv 1611.01144; as in GAS)."""

from __future__ import annotations

import torch
from torch import Tensor


def add_gumbel_noise(logits: Tensor, generator: torch.Generator, explore: float = 0.0) -> Tensor:
    """Log-probabilities with Gumbel noise, [G, O]: the largest of each row is a draw from its distribution.

    Args:
        logits: unnormalised log-probabilities, [G, O].
        generator: source of the noise; every process has the same, so that all draw the same path.
        explore: share of the even distribution that is mixed in, so that no operator is left untrained.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-9)
    log_p = torch.log_softmax(logits, dim=-1)
    if explore > 0:
        log_p = torch.log((1 - explore) * log_p.exp() + explore / logits.shape[-1])
    return log_p - torch.log(-torch.log(uniform))


def straight_through_gates(noisy: Tensor, picked: Tensor, temperature: float) -> Tensor:
    """Gates of a draw: 1 in value, with the gradient of the softmax at the drawn operator.

    Args:
        noisy: log-probabilities with noise, [G, O].
        picked: index of the drawn operator, [G].
        temperature: of the softmax; the draw itself does not depend on it.

    Returns:
        [G].
    """
    soft = torch.softmax(noisy / temperature, dim=-1).gather(-1, picked[:, None]).squeeze(-1)
    return 1 + soft - soft.detach()


def anneal_temperature(progress: float, first: float, last: float) -> float:
    """Temperature after a share of the search (0 to 1), decayed exponentially from `first` to `last`."""
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
