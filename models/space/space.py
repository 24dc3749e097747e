"""SearchSpace: what the search may choose from, read from a YAML file and checked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...errors import FileFormatError, LgcError, UnknownNameError
from ...files import describe, read_text
from .operators import OPERATORS, ZERO, get_operator
from .opspec import OpSpec
from .plan import NetworkPlan, Slot, plan_network

if TYPE_CHECKING:
    from .architecture import Architecture

PRESETS = ("tiny", "lgcnet-camvid", "lgcnet-cityscapes")
"""Names of the search spaces that come with lgc."""

_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""PyYAML's own errors, and those that its constructors let through for scalars such as `2001-14-45` or `!!int ''`."""

Count = Annotated[int, Field(ge=1, le=4096)]
PixelCount = Annotated[int, Field(ge=32, le=16384)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stem(_Section):
    """Three 3x3 convolutions before the first cell."""

    channels: Count = 16
    """Channels of each stem convolution. Assumption: the paper names the three convolutions, not their channels."""
    strides: tuple[Annotated[int, Field(ge=1, le=2)], ...] = Field(default=(2, 2, 1), min_length=1, max_length=8)
    """Stride of each. Assumption: the backbone starts at 1/4 of the input."""


class Fusion(_Section):
    """The dense-connected fusion cell."""

    nodes: Annotated[int, Field(ge=1, le=8)] = 2
    """Intermediate nodes. Assumption."""
    channels: Count = 32
    """Channels that every input is projected to. Assumption."""
    level: Annotated[int, Field(ge=0, le=7)] = 3
    """log2 of the stride it works at, 3 for 1/8 of the input. Assumption."""


class SearchSpace(_Section):
    """A cell-independent search space (LGCNet, arXiv 2302.08481; GAS, arXiv 1909.06793).

    Fields whose docstring says "assumption" are not given by the abstracts; docs/method.md lists them.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """Name for people; it is not part of the fingerprint."""
    input: tuple[PixelCount, PixelCount]
    """Height and width of the input image, in pixels."""
    classes: Annotated[int, Field(ge=2, le=255)]
    """Classes that the network tells apart."""
    operators: Annotated[tuple[str, ...], Field(min_length=2)]
    """Candidate operators of every edge. Assumption: recalled of GAS."""
    cells: Annotated[int, Field(ge=1, le=64)]
    """Cells of the backbone. Assumption: 14."""
    reductions: tuple[Annotated[int, Field(ge=0)], ...]
    """Positions of the cells that halve the resolution. Assumption: unknown, chosen."""
    channels: Count
    """Channels of a node in the first cells, doubled at every reduction. Assumption: 8."""
    nodes: Annotated[int, Field(ge=1, le=8)] = 2
    """Intermediate nodes of a cell. Assumption: 2."""
    stem: Stem = Stem()
    fusion: Fusion = Fusion()
    head_channels: Count = 64
    """Channels of the 3x3 convolution before the classifier. Assumption."""
    head_widths: tuple[Count, ...] = ()
    """Channels that the 3x3 convolution may have besides `head_channels`; the search's last step takes the one that
    lands nearest to the target. Ours."""

    @field_validator("operators")
    @classmethod
    def _known_operators(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not get_operator(name).searchable:
                raise UnknownNameError("searchable operator", name, (n for n, op in OPERATORS.items() if op.searchable))
        if len(set(names)) < len(names):
            raise ValueError(f"an operator is listed twice: {', '.join(names)}")
        if all(name == ZERO for name in names):
            raise ValueError(f"{ZERO} alone makes no network")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> SearchSpace:
        if sorted(set(self.reductions)) != list(self.reductions):
            raise ValueError(f"reductions must rise: {self.reductions}")
        if self.reductions and self.reductions[-1] >= self.cells:
            raise ValueError(f"reduction at cell {self.reductions[-1]}, but the cells are 0 to {self.cells - 1}")
        if sorted(set(self.head_widths)) != list(self.head_widths):
            raise ValueError(f"head_widths must rise: {self.head_widths}")
        if self.head_channels in self.head_widths:
            raise ValueError(f"head_widths are those besides head_channels, {self.head_channels}: {self.head_widths}")
        coarsest = max(len(self.reductions) + sum(stride - 1 for stride in self.stem.strides), self.fusion.level)
        if 2**coarsest > min(self.input):
            height, width = self.input
            raise ValueError(f"{height}x{width} is too small for a resolution of 1/{2**coarsest} of the input")
        return self

    @classmethod
    def load(cls, source: str | Path) -> SearchSpace:
        """Read a preset by its name, or a YAML file by its path.

        Raises:
            UnknownNameError: neither a preset nor a file.
            FileFormatError: a file that holds no search space.
        """
        if str(source) in PRESETS:
            text = resources.files(f"{__package__}.presets").joinpath(f"{source}.yaml").read_text("utf-8")
            return cls.parse(text, f"preset {source}")
        path = Path(source)
        if not path.is_file():
            if path.suffix or path.is_dir() or len(path.parts) > 1:
                raise FileFormatError(f"{path} is no search space but {describe(path)}")
            raise UnknownNameError("search space", str(source), PRESETS)
        return cls.parse(read_text(path, "search space"), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> SearchSpace:
        """Read YAML or JSON text; `where` names it in errors.

        Raises:
            FileFormatError: it is no search space.
        """
        try:
            content = yaml.safe_load(text)
        except _UNREADABLE as error:
            reason = str(error).splitlines()[0]
            raise FileFormatError(f"{where} is no search space: not readable as YAML ({reason})") from error
        if not isinstance(content, dict):
            raise FileFormatError(f"{where} is no search space: it holds {type(content).__name__}, not a mapping")
        return cls.check(content, where)

    @classmethod
    def check(cls, content: dict[str, Any], where: str) -> SearchSpace:
        """Validate a mapping as it stands in a file.

        Raises:
            FileFormatError: a field is missing, unknown or out of range; the message names the first ones.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise FileFormatError(f"{where} is no search space: {format_validation_error(error)}") from error
        except LgcError as error:
            raise FileFormatError(f"{where} is no search space: {error}") from error

    @cached_property
    def plan(self) -> NetworkPlan:
        """The network laid out: stem, cells, fusion, head."""
        return plan_network(self)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with anything but the name."""
        left_out = {"name"} if self.head_widths else {"name", "head_widths"}  # fingerprints of old tables hold
        content = self.model_dump(mode="json", exclude=left_out)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def edges(self) -> int:
        """Searched edges of the whole network."""
        return sum(len(cell.edges) for cell in self.plan.searched_cells)

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """Channels that the head's 3x3 convolution may have, `head_channels` among them, rising."""
        return tuple(sorted((self.head_channels, *self.head_widths)))

    @cached_property
    def default_head(self) -> int:
        """Index of `head_channels` into `heads`."""
        return self.heads.index(self.head_channels)

    def slots(self) -> tuple[Slot, ...]:
        """Every slot of the whole network, in the order of computation."""
        return tuple(self.plan.slots())

    def specs(self) -> tuple[OpSpec, ...]:
        """The distinct OpSpecs of all slots, in the order of first use: what a latency table has to cover."""
        return tuple(dict.fromkeys(spec for slot in self.slots() for spec in slot.candidates))

    def with_input(self, height: int, width: int) -> SearchSpace:
        """The same space at another input size (pixels)."""
        content = {**self.model_dump(mode="json"), "input": (height, width)}
        return self.check(content, f"{self.name} at {height}x{width}")

    def sample(self, seed: int) -> Architecture:
        """A random architecture, operators drawn evenly; the same for the same seed."""
        from .sampling import sample

        return sample(self, seed)

    def spread(self, count: int, seed: int) -> Iterator[Architecture]:
        """Random architectures from light to heavy, each with operator probabilities of its own."""
        from .sampling import spread

        return spread(self, count, seed)


def format_validation_error(error: ValidationError, spelled: Callable[[str], str] = str) -> str:
    """The first three faults of a validation in one line: `field: what is wrong`, fields as `spelled` spells them."""
    faults = []
    for fault in error.errors()[:3]:
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{spelled(place)}: {message}" if place else message)
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more > 0 else "")
