"""The graphs that measure an operator in context: a probe around it, and passages without it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Probe(nn.Module):
    """Carriers, copies of an operator one after another, a carrier.

    Args:
        before: one carrier for each input.
        operators: copies of the operator; a later one takes the result of the one before as its first input.
        behind: the carrier of the result; None where there is nothing to convolve.
    """

    def __init__(self, before: Sequence[nn.Module], operators: Sequence[nn.Module], behind: nn.Module | None) -> None:
        super().__init__()
        self.before = nn.ModuleList(before)
        self.operators = nn.ModuleList(operators)
        self.behind = nn.Identity() if behind is None else behind

    def forward(self, *xs: Tensor) -> Tensor:
        """Run the chain on one tensor for each input of the operator."""
        first, *others = (carrier(x) for carrier, x in zip(self.before, xs, strict=True))
        for operator in self.operators:
            first = operator(first, *others)
        out: Tensor = self.behind(first)
        return out


class Baseline(nn.Module):
    """Separate chains of carriers, one for each input tensor; the results are returned side by side."""

    def __init__(self, chains: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.chains = nn.ModuleList(nn.Sequential(*chain) for chain in chains)

    def forward(self, *xs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run each chain on its tensor."""
        outs = tuple(chain(x) for chain, x in zip(self.chains, xs, strict=True))
        return outs if len(outs) > 1 else outs[0]
