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
from .layout import list_width_decisions, plan_network
from .plan import CellPlan, NetworkPlan, NetworkTemplate, find_stride, list_edge_decisions, list_slots


@register_space(DEFAULT_KIND)
class LGCNetSpace(SpaceSettings, SearchSpace):
    """LGCNet's search space: an operator for each edge of each cell, then widths, the head's last.

    Where only the head has several widths, the supernet has its default one. See `SpaceSettings` for the fields.
    """

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all fields except the name, and of the recipes that differ from lgc 0.1's; 12 hexadecimal digits."""
        return self.hash_fields(digest_recipes(self.specs()))

    @cached_property
    def template(self) -> NetworkTemplate:
        """Layout of the network with open widths: stem, cells, fusion, head."""
        return plan_network(self)

    @cached_property
    def widths_searched(self) -> tuple[Decision, ...]:
        """Decisions on widths, W of them; that on the head's is the last one."""
        return list_width_decisions(self)

    @cached_property
    def widest(self) -> tuple[int, ...]:
        """Choice of each width decision in the supernet, [W]: the largest, or the default of those with one."""
        return tuple(
            len(decision.choices) - 1 if decision.default is None else decision.default
            for decision in self.widths_searched
        )

    @property
    def searches_widths(self) -> bool:
        """True if the supernet has several widths; False if only the head's differ, and only in the projection."""
        return any(decision.default is None for decision in self.widths_searched)

    @cached_property
    def plan(self) -> NetworkPlan:
        """Plan of the network with the widths of `widest`."""
        return self.plan_at(self.widest)

    def plan_at(self, widths: Sequence[int]) -> NetworkPlan:
        """Return the plan of the network for the choices of all width decisions, [W]."""
        return self.template.map(lambda operator: operator.at(widths))

    @cached_property
    def stride(self) -> int:
        """Ratio of the input size to the coarsest feature's size."""
        return find_stride(self.plan)

    @cached_property
    def edges(self) -> int:
        """Number of searched edges of the whole network, E."""
        return sum(len(cell.edges) for cell in self.plan.searched_cells)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Operators of all edges, the fusion cell's last, then the widths, the head's last."""
        return (*list_edge_decisions(self.template), *self.widths_searched)

    @cached_property
    def requirements(self) -> tuple[Requirement, ...]:
        """A live edge at each node and input of each cell."""
        return tuple(self.template.requirements())

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot of the network in the order of computation."""
        return tuple(list_slots(self.template, self.widths_searched))

    def build(self, choices: Sequence[int], **provenance: object) -> LGCNetArchitecture:
        """Return the architecture of these choices, [D] or, where only the head's width is a choice, [E].

        Raises:
            UsageError: There are more or fewer choices, or one is out of range.
            ValueError: A node or input of a cell has no live edge.
        """
        choices, decisions = [*map(int, choices)], self.decisions
        if len(choices) == self.edges == len(decisions) - 1:
            choices.append(self.default_head)
        sizes = [len(decision.choices) for decision in decisions]
        if len(choices) != len(sizes) or not all(0 <= c < size for c, size in zip(choices, sizes, strict=True)):
            raise UsageError(f"invalid choices in space {self.name}: {choices}")
        names = [decision.choices[choice] for decision, choice in zip(decisions, choices, strict=True)]
        cells, first = [], 0
        for cell in self.plan.searched_cells:
            cells.append(tuple(names[first : first + len(cell.edges)]))
            first += len(cell.edges)
        return self._build(tuple(cells), names[self.edges :], provenance)

    def _build(
        self, cells: tuple[tuple[str, ...], ...], widths: Sequence[str], provenance: dict[str, Any]
    ) -> LGCNetArchitecture:
        """Return an architecture; the operators of the fusion cell are the last of `cells`, widths by their names."""
        *others, head = widths
        named = {decision.name: name for decision, name in zip(self.widths_searched, others, strict=False)}
        return LGCNetArchitecture(
            space=self, cells=cells[:-1], fusion=cells[-1], widths=named, head_channels=int(head), provenance=provenance
        )

    def sample(self, seed: int) -> LGCNetArchitecture:
        """Return a random architecture, choices drawn uniformly; the default head unless its width is searched."""
        from .sampling import draw_uniform  # numpy slows down every --help

        cells, widths = draw_uniform(self.plan.searched_cells, self.widths_searched, seed)
        return self._build(cells, widths, {"sampled": "even", "seed": seed})

    def spread(self, count: int, seed: int) -> Iterator[LGCNetArchitecture]:
        """Yield `count` random architectures, from light to heavy; see `sampling.draw_spread`."""
        from .sampling import draw_spread

        for index, (cells, widths) in enumerate(
            draw_spread(self.plan.searched_cells, self.widths_searched, count, seed)
        ):
            yield self._build(cells, widths, {"sampled": "spread", "seed": seed, "index": index})

    def accepts_size(self, size: Size) -> bool:
        """Return True if networks take images of this height and width, besides the space's own.

        With half-pixel centres, sides have to be multiples of the network's stride, so that resizes fit.
        """
        stride = self.stride
        return all(side >= 2 * stride and (self.is_strided or side % stride == 0) for side in size)

    def describe_sizes(self) -> str:
        """Return the condition on the sides of such images, as the end of a sentence."""
        stride = self.stride
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
    """One network of LGCNet's search space: an operator per searched edge, and widths.

    Attributes:
        space: Search space.
        cells: Operator names of each cell's edges, in the order of the cell's plan.
        fusion: Operator names of the fusion cell's edges.
        widths: Channels of each part whose width the space searches, but the head's, by name, as text.
        head_channels: Width of the head: channels of its 3x3 convolution; None for the space's default.
        provenance: Origin, e.g. seed, table and prediction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: LGCNetSpace
    cells: tuple[tuple[str, ...], ...]
    fusion: tuple[str, ...]
    widths: dict[str, str] = {}
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
        if len(self.cells) != len(self.space.plan.cells):
            raise ValueError(f"{len(self.cells)} cells, but the space has {len(self.space.plan.cells)}")
        for cell, choices in self.iter_cells():
            if len(choices) != len(cell.edges):
                raise ValueError(f"{cell.name}: {len(choices)} operators for {len(cell.edges)} edges")
            known = [spec.operator for spec in cell.edges[0].candidates]
            for name in choices:
                if name not in known:
                    raise ValueError(f"{cell.name}: {name!r} is not in the space ({', '.join(known)})")
            fault = cell.find_fault(choices)
            if fault is not None:
                raise ValueError(fault)
        return self

    @model_serializer(mode="wrap")
    def _omit_default_head(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        for name in ("widths", "head_channels"):
            if not content[name]:
                del content[name]
        return content

    @model_validator(mode="after")
    def _check_searched_widths(self) -> Self:
        decisions = self.space.widths_searched[:-1]
        known = {decision.name: decision.choices for decision in decisions}
        for name in self.widths:
            if name not in known:
                raise ValueError(f"widths: unknown {name}; the space searches {', '.join(known) or 'none'}")
        for name, choices in known.items():
            if name not in self.widths:
                raise ValueError(f"widths: {name} is missing; it is one of {', '.join(choices)}")
            if self.widths[name] not in choices:
                raise ValueError(f"widths.{name}: {self.widths[name]} is not in the space ({', '.join(choices)})")
        return self

    def iter_cells(self) -> Iterable[tuple[CellPlan, tuple[str, ...]]]:
        """Iterate over the cells' plans with their operators, the fusion cell last."""
        return zip(self.space.plan.searched_cells, (*self.cells, self.fusion), strict=True)

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """Operator of every searched edge of the network, the fusion cell's last, then the widths, [D]."""
        names = [*(name for _, names in self.iter_cells() for name in names)]
        names += [*(self.widths[each.name] for each in self.space.widths_searched[:-1]), str(self.head_width)]
        return tuple(decision.choices.index(name) for decision, name in zip(self.space.decisions, names, strict=True))

    @property
    def head_width(self) -> int:
        """Channels of the head."""
        return self.space.head_channels if self.head_channels is None else self.head_channels

    @cached_property
    def plan(self) -> NetworkPlan:
        """Plan of the network with its widths."""
        return self.space.plan_at(self.choices[self.space.edges :])

    @property
    def key(self) -> str:
        """Operator index of each edge, searched widths, and the head's width if not the default."""
        widths = "".join(f"/{name}={width}" for name, width in self.widths.items())
        head = "" if self.head_channels is None else f"/h{self.head_channels}"
        return "-".join(map(str, self.choices[: self.space.edges])) + widths + head

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
