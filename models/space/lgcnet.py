"""LGCNet's search space and its architectures. They refer to each other, so they share a module."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ...errors import FileFormatError
from ...files import read_text, write_atomic
from .layout import plan_network
from .operators import ZERO, count_macs, count_parameters
from .opspec import OpSpec
from .plan import CORE, DENSE, CellPlan, NetworkPlan, Slot
from .settings import SpaceSettings, validate

ARCHITECTURE_FORMAT = "lgc-architecture"
ARCHITECTURE_SCHEMA_VERSION = 1
ARCHITECTURE_FILE = "architecture.json"
"""File name of the architecture in a run folder."""


class SearchSpace(SpaceSettings):
    """LGCNet's search space: its settings, its network plan, and random architectures."""

    @cached_property
    def plan(self) -> NetworkPlan:
        """Plan of the network: stem, cells, fusion, heads."""
        return plan_network(self)

    @cached_property
    def edges(self) -> int:
        """Number of searched edges of the whole network."""
        return sum(len(cell.edges) for cell in self.plan.searched_cells)

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot of the network in the order of computation."""
        return tuple(self.plan.slots())

    def specs(self) -> tuple[OpSpec, ...]:
        """Return the distinct OpSpecs of all slots in the order of first use: the entries of a latency table."""
        return tuple(dict.fromkeys(spec for slot in self.slots() for spec in slot.candidates))

    def sample(self, seed: int) -> Architecture:
        """Return a random architecture, operators drawn uniformly, with the default head."""
        from .sampling import draw_uniform

        cells = draw_uniform(self.plan.searched_cells, self.operators, seed)
        return Architecture(
            space=self, cells=cells[:-1], fusion=cells[-1], provenance={"sampled": "even", "seed": seed}
        )

    def spread(self, count: int, seed: int) -> Iterator[Architecture]:
        """Yield `count` random architectures, from light to heavy, with all head widths in turn."""
        from .sampling import draw_spread

        draws = draw_spread(self.plan.searched_cells, self.operators, self.heads, count, seed)
        for index, (cells, width) in enumerate(draws):
            provenance = {"sampled": "spread", "seed": seed, "index": index}
            yield Architecture(
                space=self, cells=cells[:-1], fusion=cells[-1], head_channels=width, provenance=provenance
            )


class Architecture(BaseModel):
    """One network of a search space: an operator per searched edge and the head's width.

    Attributes:
        space: Search space; stored whole, so that the file alone suffices to build the network.
        cells: Operator names of each cell's edges, in the order of the cell's plan.
        fusion: Operator names of the fusion cell's edges.
        head_channels: Width of the head: channels of its 3x3 convolution; None for the space's default.
        provenance: Origin, e.g. seed, table and prediction. Informative, except that `lgc-train` reads its default
            device from `devices`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: SearchSpace
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
    def _check_cells(self) -> Architecture:
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
        """Operator index of every searched edge of the network, the fusion cell's last, [E]."""
        index = {name: number for number, name in enumerate(self.space.operators)}
        return tuple(index[name] for _, names in self.iter_cells() for name in names)

    @cached_property
    def head(self) -> int:
        """Index of the head's width in the space's `heads`."""
        return self.space.default_head if self.head_channels is None else self.space.heads.index(self.head_channels)

    @classmethod
    def from_choices(
        cls, space: SearchSpace, choices: Sequence[int], head: int | None = None, **provenance: object
    ) -> Architecture:
        """Build an architecture from indices; the inverse of `choices` and `head`.

        Args:
            space: Search space.
            choices: Operator index of every searched edge, [E].
            head: Index of the head's width in the space's `heads`; None for the default.
            provenance: Origin of the architecture.
        """
        names = [space.operators[int(choice)] for choice in choices]
        cells, first = [], 0
        for cell in space.plan.searched_cells:
            cells.append(tuple(names[first : first + len(cell.edges)]))
            first += len(cell.edges)
        return cls(
            space=space,
            cells=tuple(cells[:-1]),
            fusion=cells[-1],
            head_channels=None if head is None else space.heads[int(head)],
            provenance=provenance,
        )

    def filled_slots(self) -> Iterator[tuple[Slot, OpSpec, int]]:
        """Yield every slot with its operator and the number of times that the network runs it, 0 on a `zero` edge."""
        live = [self.space.operators[choice] != ZERO for choice in self.choices]
        for slot in self.space.slots():
            if slot.edge is not None:
                yield slot, slot.candidates[self.choices[slot.edge]], int(live[slot.edge])
            elif slot.sums:
                yield slot, slot.candidates[0], sum(live[edge] for edge in slot.sums) - 1
            else:
                yield slot, slot.candidates[self.head if slot.head else 0], 1

    def specs(self, scope: str = DENSE) -> list[OpSpec]:
        """Return every operator that the network runs in `scope`, once per run; `zero` edges are omitted."""
        return [
            spec
            for slot, spec, count in self.filled_slots()
            if not (scope == CORE and slot.scope == DENSE)
            for _ in range(count)
        ]

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image, of convolutions only."""
        return sum(count_macs(spec) for spec in self.specs())

    @property
    def parameters(self) -> int:
        """Number of parameters with batch normalisation folded."""
        return sum(count_parameters(spec) for spec in self.specs())

    def to_json(self) -> str:
        """Return the content of the architecture's file."""
        header = {"format": ARCHITECTURE_FORMAT, "schema_version": ARCHITECTURE_SCHEMA_VERSION}
        return json.dumps(header | self.model_dump(mode="json"), indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the architecture to `path` atomically."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture file.

        Raises:
            FileFormatError: The file is missing, truncated or foreign, has another schema version, or does not fit
                its own space.
        """
        return cls.parse(read_text(Path(path), "architecture"), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Architecture:
        """Parse the JSON of an architecture.

        Args:
            text: Content of an architecture file.
            where: Origin of the text, for error messages.

        Raises:
            FileFormatError: The text is not a valid architecture of this schema version.
        """
        invalid = f"{where}: invalid architecture"
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileFormatError(f"{invalid}: not JSON, or truncated ({error})") from error
        except (RecursionError, ValueError) as error:
            raise FileFormatError(f"{invalid}: JSON nested too deeply, or with too long a number") from error
        if not isinstance(content, dict) or content.pop("format", None) != ARCHITECTURE_FORMAT:
            raise FileFormatError(f"{invalid}: JSON without format {ARCHITECTURE_FORMAT!r}")
        version = content.pop("schema_version", None)
        if version != ARCHITECTURE_SCHEMA_VERSION:
            newer = isinstance(version, int) and version > ARCHITECTURE_SCHEMA_VERSION
            fix = "update lgc" if newer else "run lgc-search again"
            reads = f"this lgc reads {ARCHITECTURE_SCHEMA_VERSION}"
            raise FileFormatError(f"{where} has architecture schema {version}, {reads}: {fix}")
        return validate(cls, content, invalid)
