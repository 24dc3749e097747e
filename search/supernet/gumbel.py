"""Sampling of single paths by the straight-through Gumbel-softmax (Jang et al., arXiv 1611.01144; as in GAS)."""

from __future__ import annotations

import torch
from torch import Tensor


def add_gumbel_noise(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return log-probabilities with Gumbel noise, [G, O]; the argmax of each row is a sample of its distribution.

    Args:
        logits: unnormalised log-probabilities, [G, O]; -inf for missing choices.
        generator: source of the noise; the same in every process, so all sample the same path.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-9, 1 - 1e-9)
    log_p = torch.log_softmax(logits, dim=-1)
    return log_p - torch.log(-torch.log(uniform))


def straight_through_gates(noisy: Tensor, choices: Tensor, temperature: float, value: float = 1.0) -> Tensor:
    """Return gates [G] of a sample, with the gradient of the softmax at one operator of each row.

    Args:
        noisy: log-probabilities with noise, [G, O].
        choices: index of the operator, [G].
        temperature: temperature of the softmax; the sample does not depend on it.
        value: value of all gates: 1 for chosen operators, 0 for others.
    """
    soft = torch.softmax(noisy / temperature, dim=-1).gather(-1, choices[:, None]).squeeze(-1)
    return value + soft - soft.detach()


def anneal_temperature(progress: float, first: float, last: float) -> float:
    """Return the temperature after a share of the search (0 to 1), decayed exponentially from `first` to `last`."""
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
