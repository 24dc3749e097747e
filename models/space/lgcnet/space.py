"""LGCNet's search space and its architectures. They refer to each other, so they share a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ....errors import UsageError
from ...geometry import Size
from ..operators import digest_recipes
from ..protocol import DEFAULT_KIND, Architecture, Decision, Requirement, SearchSpace, Slot, register_space
from ..settings import SpaceSettings, validate
from .layout import plan_network
from .plan import CellPlan, NetworkPlan


@register_space(DEFAULT_KIND)
class LGCNetSpace(SpaceSettings, SearchSpace):
    """LGCNet's search space: an operator for each edge of each cell, and the head's width, which is the last decision.

    The supernet has the head's default width only. See `SpaceSettings` for the fields.
    """

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all fields except the name, and of the recipes that differ from lgc 0.1's; 12 hexadecimal digits."""
        return self.hash_fields(digest_recipes(self.specs()))

    @cached_property
    def plan(self) -> NetworkPlan:
        """Plan of the network: stem, cells, fusion, heads."""
        return plan_network(self)

    @cached_property
    def edges(self) -> int:
        """Number of searched edges of the whole network, E."""
        return sum(len(cell.edges) for cell in self.plan.searched_cells)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Operators of all edges, the fusion cell's last, then the head's width."""
        return (*self.plan.decisions(), Decision("head", tuple(map(str, self.heads)), default=self.default_head))

    @cached_property
    def requirements(self) -> tuple[Requirement, ...]:
        """A live edge at each node and input of each cell."""
        return tuple(self.plan.requirements())

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot of the network in the order of computation."""
        return tuple(self.plan.slots())

    def build(self, choices: Sequence[int], **provenance: object) -> LGCNetArchitecture:
        """Return the architecture of these choices, [D] or, with the head's default width, [E].

        Raises:
            UsageError: There are more or fewer choices, or one is out of range.
            ValueError: A node or input of a cell has no live edge.
        """
        choices = [*map(int, choices)]
        if len(choices) == self.edges:
            choices.append(self.default_head)
        limits = [*[len(self.operators)] * self.edges, len(self.heads)]
        if len(choices) != len(limits) or not all(0 <= c < limit for c, limit in zip(choices, limits, strict=True)):
            raise UsageError(f"invalid choices in space {self.name}: {choices}")
        names = [self.operators[choice] for choice in choices[:-1]]
        cells, first = [], 0
        for cell in self.plan.searched_cells:
            cells.append(tuple(names[first : first + len(cell.edges)]))
            first += len(cell.edges)
        return self._build(tuple(cells), self.heads[choices[-1]], provenance)

    def _build(
        self, cells: tuple[tuple[str, ...], ...], width: int | None, provenance: dict[str, Any]
    ) -> LGCNetArchitecture:
        """Return an architecture; the operators of the fusion cell are the last of `cells`."""
        return LGCNetArchitecture(
            space=self, cells=cells[:-1], fusion=cells[-1], head_channels=width, provenance=provenance
        )

    def sample(self, seed: int) -> LGCNetArchitecture:
        """Return a random architecture, operators drawn uniformly, with the default head."""
        from .sampling import draw_uniform  # numpy slows down every --help

        cells = draw_uniform(self.plan.searched_cells, self.operators, seed)
        return self._build(cells, None, {"sampled": "even", "seed": seed})

    def spread(self, count: int, seed: int) -> Iterator[LGCNetArchitecture]:
        """Yield `count` random architectures, from light to heavy, with all head widths in turn."""
        from .sampling import draw_spread

        draws = draw_spread(self.plan.searched_cells, self.operators, self.heads, count, seed)
        for index, (cells, width) in enumerate(draws):
            yield self._build(cells, width, {"sampled": "spread", "seed": seed, "index": index})

    def accepts_size(self, size: Size) -> bool:
        """Return True if networks take images of this height and width, besides the space's own.

        With half-pixel centres, sides have to be multiples of the network's stride, so that resizes fit.
        """
        stride = self.plan.stride
        return all(side >= 2 * stride and (self.is_strided or side % stride == 0) for side in size)

    def describe_sizes(self) -> str:
        """Return the condition on the sides of such images, as the end of a sentence."""
        stride = self.plan.stride
        if self.is_strided:
            return f"at least {2 * stride}, twice the network's stride"
        return f"multiples of the network's stride, {stride}, and at least {2 * stride}"

    def with_input(self, height: int, width: int) -> Self:
        """Return the same space for images of `height` x `width` pixels.

        Raises:
            FileFormatError: The size is out of range.
        """
        content = {**self.to_dict(), "input": (height, width)}
        return validate(type(self), content, f"{self.name} at {height}x{width}")

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the space's file."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str) -> Self:
        """Validate the content of a space's file.

        Raises:
            FileFormatError: A field is missing, unknown or out of range; the message names the first three.
        """
        return validate(cls, content, f"{where}: invalid search space")


class LGCNetArchitecture(BaseModel, Architecture):
    """One network of LGCNet's search space: an operator per searched edge and the head's width.

    Attributes:
        space: Search space.
        cells: Operator names of each cell's edges, in the order of the cell's plan.
        fusion: Operator names of the fusion cell's edges.
        head_channels: Width of the head: channels of its 3x3 convolution; None for the space's default.
        provenance: Origin, e.g. seed, table and prediction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: LGCNetSpace
    cells: tuple[tuple[str, ...], ...]
    fusion: tuple[str, ...]
    head_channels: int | None = None
    provenance: dict[str, Any] = {}

    @field_validator("head_channels")
    @classmethod
    def _check_head(cls, width: int | None, info: ValidationInfo) -> int | None:
        """Check that the space has the width; its default becomes None, so that equal networks compare equal."""
        space = info.data.get("space")
        if space is None or width is None:  # an invalid space is reported by itself
            return None
        if width not in space.heads:
            raise ValueError(f"{width} is not a head width of the space ({', '.join(map(str, space.heads))})")
        return None if width == space.head_channels else width

    @model_validator(mode="after")
    def _check_cells(self) -> Self:
        if len(self.cells) != self.space.cells:
            raise ValueError(f"{len(self.cells)} cells, but the space has {self.space.cells}")
        for cell, choices in self.iter_cells():
            if len(choices) != len(cell.edges):
                raise ValueError(f"{cell.name}: {len(choices)} operators for {len(cell.edges)} edges")
            for name in choices:
                if name not in self.space.operators:
                    raise ValueError(f"{cell.name}: {name!r} is not in the space ({', '.join(self.space.operators)})")
            fault = cell.find_fault(choices)
            if fault is not None:
                raise ValueError(fault)
        return self

    @model_serializer(mode="wrap")
    def _omit_default_head(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        if self.head_channels is None:
            content.pop("head_channels", None)
        return content

    def iter_cells(self) -> Iterable[tuple[CellPlan, tuple[str, ...]]]:
        """Iterate over the cells' plans with their operators, the fusion cell last."""
        return zip(self.space.plan.searched_cells, (*self.cells, self.fusion), strict=True)

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """Operator index of every searched edge of the network, the fusion cell's last, then the head's width, [D]."""
        index = {name: number for number, name in enumerate(self.space.operators)}
        return (*(index[name] for _, names in self.iter_cells() for name in names), self.head)

    @cached_property
    def head(self) -> int:
        """Index of the head's width in the space's `heads`."""
        return self.space.default_head if self.head_channels is None else self.space.heads.index(self.head_channels)

    @property
    def key(self) -> str:
        """Operator index of each edge, and the head's width if not the default."""
        width = "" if self.head_channels is None else f"/h{self.head_channels}"
        return "-".join(map(str, self.choices[:-1])) + width

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """Return the same architecture with another origin."""
        return self.model_copy(update={"provenance": dict(provenance)})

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the architecture's file, without its header."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, content: dict[str, Any], problem: str) -> Self:
        """Validate the content of an architecture's file.

        Raises:
            FileFormatError: The content is invalid; the message is `problem`, a colon and the reasons.
        """
        if isinstance(content.get("space"), dict):
            content = {**content, "space": {name: value for name, value in content["space"].items() if name != "kind"}}
        return validate(cls, content, problem)


LGCNetSpace.architecture_type = LGCNetArchitecture
