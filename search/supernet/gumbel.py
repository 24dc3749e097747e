"""Sampling of single paths by the straight-through Gumbel-softmax (Jang et al., arXiv 1611.01144; as in GAS)."""

from __future__ import annotations

import torch
from torch import Tensor


def add_gumbel_noise(logits: Tensor, generator: torch.Generator, explore: float = 0.0) -> Tensor:
    """Return log-probabilities with Gumbel noise, [G, O]; the argmax of each row is a sample of its distribution.

    Args:
        logits: unnormalised log-probabilities, [G, O]; -inf for missing choices.
        generator: source of the noise; the same in every process, so all sample the same path.
        explore: share of the uniform distribution that is mixed in, so that every operator is trained.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-9)
    log_p = torch.log_softmax(logits, dim=-1)
    if explore > 0:
        exists = torch.isfinite(logits)
        log_p = torch.log((1 - explore) * log_p.exp() + explore * exists / exists.sum(-1, keepdim=True))
    return log_p - torch.log(-torch.log(uniform))


def straight_through_gates(noisy: Tensor, choices: Tensor, temperature: float) -> Tensor:
    """Return gates [G] of a sample: 1 in value, with the gradient of the softmax at the chosen operator.

    Args:
        noisy: log-probabilities with noise, [G, O].
        choices: index of the chosen operator, [G].
        temperature: temperature of the softmax; the sample does not depend on it.
    """
    soft = torch.softmax(noisy / temperature, dim=-1).gather(-1, choices[:, None]).squeeze(-1)
    return 1 + soft - soft.detach()


def anneal_temperature(progress: float, first: float, last: float) -> float:
    """Return the temperature after a share of the search (0 to 1), decayed exponentially from `first` to `last`."""
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
