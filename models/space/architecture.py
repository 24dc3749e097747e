"""Architecture: one network of a search space, and the JSON file that holds it."""

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
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ...errors import FileFormatError, LgcError
from ...files import describe, read_text, write_atomic
from .operators import ZERO, count_macs, count_parameters
from .opspec import OpSpec
from .plan import CORE, DENSE, CellPlan, Slot
from .space import SearchSpace, format_validation_error

ARCHITECTURE_FORMAT = "lgc-architecture"
ARCHITECTURE_SCHEMA_VERSION = 1
ARCHITECTURE_FILE = "architecture.json"
"""Name of an architecture's file in a run folder."""


class Architecture(BaseModel):
    """The operator of every searched edge and the head's width, with the space that gives the choices their meaning.

    Attributes:
        space: the search space, whole, so that the file alone is enough to build the network.
        cells: operator names of each cell's edges, in the order of its plan.
        fusion: operator names of the fusion cell's edges.
        head_channels: channels of the head's 3x3 convolution; None where they are the space's own.
        provenance: where it came from (seed, table, prediction); for people; `lgc-train`
            takes its default device from `devices`, nothing else is read back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: SearchSpace
    cells: tuple[tuple[str, ...], ...]
    fusion: tuple[str, ...]
    head_channels: int | None = None
    provenance: dict[str, Any] = {}

    @field_validator("head_channels")
    @classmethod
    def _other_than_own(cls, width: int | None, info: ValidationInfo) -> int | None:
        """Show that the space has the width; its own is None, so that equal networks are equal."""
        space = info.data.get("space")
        if space is None or width is None:  # without a space it is the space that is refused
            return None
        if width not in space.heads:
            raise ValueError(f"{width} is not among the space's {', '.join(map(str, space.heads))}")
        return None if width == space.head_channels else width

    @model_validator(mode="after")
    def _fits_space(self) -> Architecture:
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
    def _without_own_head(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        if self.head_channels is None:
            content.pop("head_channels", None)
        return content

    def iter_cells(self) -> Iterable[tuple[CellPlan, tuple[str, ...]]]:
        """Each cell's plan with its operators, the fusion cell last."""
        return zip(self.space.plan.searched_cells, (*self.cells, self.fusion), strict=True)

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """Index into the space's operators for every searched edge of the network, the fusion cell's last."""
        index = {name: number for number, name in enumerate(self.space.operators)}
        return tuple(index[name] for _, names in self.iter_cells() for name in names)

    @cached_property
    def head(self) -> int:
        """Index of the head's width into the space's `heads`."""
        return self.space.default_head if self.head_channels is None else self.space.heads.index(self.head_channels)

    @classmethod
    def from_choices(
        cls, space: SearchSpace, choices: Sequence[int], head: int | None = None, **provenance: object
    ) -> Architecture:
        """The architecture with operator `choices[e]` (an index) on edge e; the inverse of `choices` and `head`.

        Args:
            space: the search space.
            choices: operator indices, [E].
            head: index of the head's width into the space's `heads`; None takes the space's own.
            provenance: where it came from.
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

    def specs(self, scope: str = DENSE) -> list[OpSpec]:
        """Every operator that the network computes, repeated as often as it is computed; `zero` edges are left out."""
        return [
            spec
            for slot, spec, count in self.filled_slots()
            if not (scope == CORE and slot.scope == DENSE)
            for _ in range(count)
        ]

    def filled_slots(self) -> Iterator[tuple[Slot, OpSpec, int]]:
        """Every slot of the network with the operator in it, and how often that is computed: 0 for a `zero` edge."""
        live = [self.space.operators[choice] != ZERO for choice in self.choices]
        for slot in self.space.slots():
            if slot.edge is not None:
                yield slot, slot.candidates[self.choices[slot.edge]], int(live[slot.edge])
            elif slot.sums:
                yield slot, slot.candidates[0], sum(live[edge] for edge in slot.sums) - 1
            else:
                yield slot, slot.candidates[self.head if slot.head else 0], 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, convolutions only."""
        return sum(count_macs(spec) for spec in self.specs())

    @property
    def parameters(self) -> int:
        """Parameters of the deployed network, batch normalisation folded."""
        return sum(count_parameters(spec) for spec in self.specs())

    def to_json(self) -> str:
        """The file's content."""
        body = {
            "format": ARCHITECTURE_FORMAT,
            "schema_version": ARCHITECTURE_SCHEMA_VERSION,
            **self.model_dump(mode="json"),
        }
        return json.dumps(body, indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the architecture to `path`, whole or not at all."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture file.

        Raises:
            FileFormatError: it is truncated, foreign, of a newer schema, or does not fit its own space.
        """
        path = Path(path)
        return cls.parse(read_text(path, "architecture"), str(path), describe(path))

    @classmethod
    def parse(cls, text: str, where: str, kind: str = "text") -> Architecture:
        """Read an architecture's JSON; `where` names it, and `kind` says what it seems to be, in errors.

        Raises:
            FileFormatError: as `load`.
        """
        wrong = f"{where} is no architecture"
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileFormatError(f"{wrong} but {kind} (JSON breaks off: {error})") from error
        except (RecursionError, ValueError) as error:
            raise FileFormatError(f"{wrong}: its JSON is nested too deeply or holds too long a number") from error
        if not isinstance(content, dict) or content.pop("format", None) != ARCHITECTURE_FORMAT:
            raise FileFormatError(f"{wrong}: JSON without format {ARCHITECTURE_FORMAT!r}")
        version = content.pop("schema_version", None)
        if version != ARCHITECTURE_SCHEMA_VERSION:
            newer = isinstance(version, int) and version > ARCHITECTURE_SCHEMA_VERSION
            mend = "update lgc" if newer else "write it anew with lgc-search"
            raise FileFormatError(
                f"{where} has architecture schema {version}, this lgc reads {ARCHITECTURE_SCHEMA_VERSION}: {mend}"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise FileFormatError(f"{wrong}: {format_validation_error(error)}") from error
        except LgcError as error:
            raise FileFormatError(f"{wrong}: {error}") from error
