"""Small spaces of every registered kind, for the suites that any space must pass; and a toy whose widths interact."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from lgc.errors import FileFormatError
from lgc.models.space.lgcnet import LGCNetSpace
from lgc.models.space.operators import ZERO
from lgc.models.space.opspec import OpSpec
from lgc.models.space.protocol import (
    DENSE,
    Architecture,
    Decision,
    Requirement,
    SearchSpace,
    Slot,
    Space,
    iter_combinations,
    register_space,
)
from lgc.models.space.slots import SlotSpace

WIDTHS = (4, 8, 12)
OPERATORS = (ZERO, "skip", "sep_conv_3x3")
STEM, MIDDLE, LAST, LEFT, RIGHT, HEAD = range(6)


@dataclass(frozen=True)
class ToyArchitecture(Architecture):
    """Architecture of `ToySpace`."""

    space: ToySpace
    choices: tuple[int, ...]
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        sizes = [len(decision.choices) for decision in self.space.decisions]
        if len(self.choices) != len(sizes) or any(not 0 <= c < s for c, s in zip(self.choices, sizes, strict=True)):
            raise ValueError(f"invalid choices {self.choices}")
        if fault := self.space.find_fault(self.choices):
            raise ValueError(fault)

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        return replace(self, provenance=dict(provenance))

    def to_dict(self) -> dict[str, Any]:
        return {"space": self.space.to_dict(), "choices": list(self.choices), "provenance": self.provenance}

    @classmethod
    def from_dict(cls, content: dict[str, Any], problem: str) -> Self:
        try:
            return cls(ToySpace.check(content["space"], problem), tuple(content["choices"]), content["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{problem}: {error}") from error


@register_space("toy")
@dataclass(frozen=True)
class ToySpace(SearchSpace):
    """Two branches between convolutions of searched widths; every operator but the last depends on two decisions.

    stem 3 -> w0, convolution w0 -> w1, two branches with an operator each, of width w1, and their sum, convolution
    w1 -> w2, head w2 -> h with a default, classifier.
    """

    name: str = "toy"
    input: tuple[int, int] = (32, 48)
    classes: int = 3

    @cached_property
    def fingerprint(self) -> str:
        content = {name: value for name, value in self.to_dict().items() if name != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        widths = tuple(map(str, WIDTHS))
        searched = (*(Decision(name, widths) for name in ("stem", "middle", "last")),)
        branches = (Decision("left", OPERATORS), Decision("right", OPERATORS))
        return (*searched, *branches, Decision("head", widths, default=1))

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        return (Requirement((LEFT, RIGHT), "both branches are zero"),)

    def slots(self) -> tuple[Slot, ...]:
        (height, width), fine = self.input, tuple(-(-side // 2) for side in self.input)

        def convolve(
            operator: str, sources: Sequence[int], targets: Sequence[int], size: tuple[int, int], stride: int = 1
        ):
            return tuple(OpSpec(operator, c, d, *size, stride) for c, d in itertools.product(sources, targets))

        branch = [[OpSpec(name, w, w, *fine) for w in WIDTHS] for name in OPERATORS]
        return (
            Slot("stem", convolve("conv_3x3", [3], WIDTHS, (height, width), 2), (STEM,)),
            Slot("middle", convolve("conv_3x3", WIDTHS, WIDTHS, fine), (STEM, MIDDLE)),
            Slot("left", tuple(spec for row in branch for spec in row), (LEFT, MIDDLE)),
            Slot("right", tuple(spec for row in zip(*branch, strict=True) for spec in row), (MIDDLE, RIGHT)),
            Slot("add", tuple(OpSpec("add", w, w, *fine) for w in WIDTHS), (MIDDLE,), sums=(LEFT, RIGHT)),
            Slot("last", convolve("conv_3x3", WIDTHS, WIDTHS, fine), (MIDDLE, LAST)),
            Slot("head", convolve("conv_1x1", WIDTHS, WIDTHS, fine), (LAST, HEAD)),
            Slot("classifier", convolve("classifier", WIDTHS, [self.classes], fine), (HEAD,)),
            Slot("upsample", (OpSpec("upsample", self.classes, self.classes, height, width, 2),), scope=DENSE),
        )

    def build(self, choices: Sequence[int], **provenance: object) -> ToyArchitecture:
        return ToyArchitecture(self, tuple(int(choice) for choice in choices), provenance)

    def _draw(self, rng: np.random.Generator) -> list[int]:
        while True:
            choices = [int(rng.integers(len(decision.choices))) for decision in self.decisions]
            if self.find_fault(choices) is None:
                return choices

    def sample(self, seed: int) -> ToyArchitecture:
        return self.build([*self._draw(np.random.default_rng(seed))[:HEAD], 1], seed=seed)

    def spread(self, count: int, seed: int) -> Iterator[ToyArchitecture]:
        rng = np.random.default_rng(seed)
        for index in range(count):
            yield self.build(self._draw(rng), seed=seed, index=index)

    def with_input(self, height: int, width: int) -> Self:
        return self.from_dict({**self.to_dict(), "input": [height, width]}, self.name)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str) -> Self:
        content = {name: value for name, value in content.items() if name != "kind"}
        try:
            space = cls(**{**content, "input": tuple(content["input"])})
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{where}: invalid search space: {error}") from error
        if min(space.input) < 32:
            raise FileFormatError(f"{where}: input {space.input} is too small")
        return space


ToySpace.architecture_type = ToyArchitecture

LITTLE = {
    "name": "little",
    "input": [32, 32],
    "classes": 3,
    "operators": [ZERO, "skip", "sep_conv_3x3"],
    "cells": 1,
    "reductions": [],
    "channels": 4,
    "stem": {"channels": 4, "strides": [2, 2]},
    "fusion": {"nodes": 1, "channels": 4, "level": 2},
    "head_channels": 4,
    "head_widths": [2, 8],
}


SLIM = {
    "name": "slim",
    "input": [32, 48],
    "geometry": 2,
    "classes": 3,
    "operators": ["skip", "res_conv_3x3", "inv_res_3x3_e2"],
    "cells": 2,
    "reductions": [1],
    "reduction": "conv_3x3",
    "inputs": 1,
    "nodes": 1,
    "widths": [[8, 12], [8, 16]],
    "context": ["skip", "pool_pyramid"],
    "stem": {"strides": [2, 2], "widths": [[4], [6]]},
    "fusion": {"nodes": 1, "level": 2, "widths": [8, 16], "operators": ["skip", "sep_conv_3x3"]},
    "head_operator": "sep_conv_3x3",
    "head_channels": 12,
    "head_widths": [8],
}
"""Space whose widths are searched, with 2304 architectures."""


def make_toy_slots() -> SlotSpace:
    """Return the toy as a list of slots: equal decisions, slots and requirements."""
    toy = ToySpace()
    return SlotSpace.from_slots(toy.slots(), toy.decisions, toy.requirements, "toy slots")


EXAMPLES: dict[str, Callable[[], Space]] = {
    "lgcnet": lambda: LGCNetSpace.check(LITTLE, "the little space"),
    "slots": make_toy_slots,
    "toy": ToySpace,
    "lgcnet, widths": lambda: LGCNetSpace.check(SLIM, "the slim space"),
}
"""Kind of a space -> a small example, of at most some ten thousand architectures; and one with searched widths."""


def enumerate_choices(space: Space) -> np.ndarray:
    """Return the choices of every valid architecture, [N, D]."""
    return np.array([choices for choices in iter_combinations(space.decisions) if space.find_fault(choices) is None])


def list_heads(space):
    """Return the operators of the head for each of its widths, from narrow to wide."""
    others = [each.default or 0 for each in space.widths_searched[:-1]]
    return [space.plan_at([*others, head]).head for head in range(len(space.heads))]
