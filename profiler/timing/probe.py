"""Graphs that measure an operator in context: the probe around it and the baseline without it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Probe(nn.Module):
    """A chain of carriers, copies of an operator, and a carrier.

    Args:
        before: one carrier per input; an identity where the input is an image.
        operators: copies of the operator in sequence; each takes the previous output as its first input.
        behind: carrier of the output; None if the output cannot be convolved.
    """

    def __init__(self, before: Sequence[nn.Module], operators: Sequence[nn.Module], behind: nn.Module | None) -> None:
        super().__init__()
        self.before = nn.ModuleList(before)
        self.operators = nn.ModuleList(operators)
        self.behind = nn.Identity() if behind is None else behind

    def forward(self, *xs: Tensor) -> Tensor:
        """Run the chain on one tensor per operator input."""
        first, *others = (carrier(x) for carrier, x in zip(self.before, xs, strict=True))
        for operator in self.operators:
            first = operator(first, *others)
        out: Tensor = self.behind(first)
        return out


class Baseline(nn.Module):
    """Separate chains of carriers, one per input tensor."""

    def __init__(self, chains: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.chains = nn.ModuleList(nn.Sequential(*chain) for chain in chains)

    def forward(self, *xs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run each chain on its tensor; several chains give a tuple."""
        outs = tuple(chain(x) for chain, x in zip(self.chains, xs, strict=True))
        return outs if len(outs) > 1 else outs[0]
