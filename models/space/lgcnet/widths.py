"""Numbers of channels that depend on width decisions, and operators between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..opspec import OpSpec
from ..protocol import Decision


@dataclass(frozen=True)
class Width:
    """Number of channels: a fixed one, or one for each choice of a decision.

    Attributes:
        values: Channels of each choice; a single one if fixed.
        decision: Index of the decision among the space's width decisions; None if fixed.
    """

    values: tuple[int, ...]
    decision: int | None = None

    @classmethod
    def fixed(cls, channels: int) -> Width:
        """Return a width that depends on no decision."""
        return cls((channels,))

    def times(self, factor: int) -> Width:
        """Return the width of `factor` concatenated tensors."""
        return Width(tuple(value * factor for value in self.values), self.decision)

    def at(self, choices: Sequence[int]) -> int:
        """Return the channels for the choices of all width decisions, [W]."""
        return self.values[0 if self.decision is None else choices[self.decision]]


@dataclass(frozen=True)
class OpTemplate:
    """Operator between two widths; an `OpSpec` once their decisions are made.

    Attributes:
        operator: Name of the operator.
        c_in: Width of each input.
        c_out: Width of the output.
        height: Height of the finer side in pixels.
        width: Width of the finer side in pixels.
        stride: Ratio of the finer to the coarser side.
        optional: Pass the input through where channels and size stay the same.
    """

    operator: str
    c_in: Width
    c_out: Width
    height: int
    width: int
    stride: int = 1
    optional: bool = False

    def at(self, choices: Sequence[int]) -> OpSpec:
        """Return the operator for the choices of all width decisions, [W]."""
        c_in, c_out = self.c_in.at(choices), self.c_out.at(choices)
        operator = "skip" if self.optional and c_in == c_out and self.stride == 1 else self.operator
        return OpSpec(operator, c_in, c_out, self.height, self.width, self.stride)

    @property
    def decisions(self) -> tuple[int, ...]:
        """Indices of the width decisions that the operator depends on, at most two."""
        both = (self.c_in.decision, self.c_out.decision)
        return tuple(dict.fromkeys(index for index in both if index is not None))

    def list_specs(self, decisions: Sequence[Decision]) -> tuple[OpSpec, ...]:
        """Return the operator for every choice of its decisions, the last one's varying fastest."""
        choices = [0] * len(decisions)
        specs = []
        for values in itertools.product(*(range(len(decisions[index].choices)) for index in self.decisions)):
            for index, value in zip(self.decisions, values, strict=True):
                choices[index] = value
            specs.append(self.at(choices))
        return tuple(specs)
