"""Protocol of search spaces: what tables, predictors, costs, calibration and projection rely on.

A space is a list of decisions, each with its own choices, e.g. operators of an edge or widths of a layer. A slot is a
position in the network whose operator depends on at most two decisions. So a network's cost is a constant, plus terms
of one decision, plus terms of two; see `cost`. LGCNet's space, `lgcnet`, is the first implementation.

    D  decisions of the space      C  largest number of choices      N  architectures
    choices [N, D]  index of the choice at each decision, one architecture per row
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from ...errors import FileFormatError, MismatchError, UnknownNameError, UsageError
from ...files import describe, read_text, write_atomic
from ...yaml_text import parse_yaml
from ..geometry import Geometry
from .operators import ZERO, count_macs, count_parameters
from .opspec import OpSpec
from .presets import PRESETS, VARIANTS

CORE, DENSE = "core", "dense"
SCOPES = (CORE, DENSE)
"""core: from the image tensor to logits at the head's stride. dense: core, upsampling to the input size, argmax."""
END_TO_END = "end-to-end"
EXPORT_SCOPES = (*SCOPES, END_TO_END)
"""end-to-end: from image bytes on the host to class bytes on the host; latency tables cover only its `dense` part."""

DEFAULT_KIND = "lgcnet"
"""Kind of a space whose file names none."""

ARCHITECTURE_FORMAT = "lgc-architecture"
ARCHITECTURE_SCHEMA_VERSION = 1
ARCHITECTURE_FILE = "architecture.json"
"""File name of the architecture in a run folder."""

Kind = TypeVar("Kind", bound="type[Space]")


@dataclass(frozen=True)
class Decision:
    """A free choice in a network.

    Attributes:
        name: Path in the network, e.g. `cell3/n1<in0`.
        choices: Names of the choices, e.g. of operators, or of widths.
        default: Index of the choice in a supernet that has no alternative; only the projection onto a target then
            chooses another. None if the supernet has all choices.
    """

    name: str
    choices: tuple[str, ...]
    default: int | None = None

    @property
    def zero(self) -> int | None:
        """Index of the operator `zero`, which makes the decision dead; None without it."""
        return self.choices.index(ZERO) if ZERO in self.choices else None


@dataclass(frozen=True)
class Requirement:
    """Condition of a valid architecture: at least one of these decisions is live, i.e. its choice is not `zero`."""

    decisions: tuple[int, ...]
    fault: str
    """Message for an architecture that breaks it."""


@dataclass(frozen=True)
class Slot:
    """Position in the network and its candidate operators.

    Attributes:
        name: Path in the network, e.g. `cell3/n1<in0`.
        candidates: OpSpec for each choice of `decisions`, the last decision's varying fastest; a single one without.
        decisions: Indices of the decisions that the operator depends on, at most two different ones.
        sums: Decisions whose outputs an addition slot sums up: it runs once per live one, less one. A requirement keeps
            at least one live. The operator itself depends on at most one decision, which is not among them.
        scope: `core`, or `dense` for slots outside the core.

    Raises:
        UnknownNameError: No such scope.

    Two decisions suffice where inputs are projected to the width of their cell before an operator: an edge then depends
    on the operator and that width, the projection on both widths.
    """

    name: str
    candidates: tuple[OpSpec, ...]
    decisions: tuple[int, ...] = ()
    sums: tuple[int, ...] = ()
    scope: str = CORE

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise UnknownNameError("scope", self.scope, SCOPES)


class Architecture(ABC):
    """Network of a space: one choice for each decision.

    Attributes:
        space: Search space; stored whole in the file, so that the file alone suffices to build the network.
        choices: Index of the choice at each decision, [D].
        provenance: Origin, e.g. seed, table and prediction. Informative, except that `lgc-train` reads its default
            device from `devices`.
    """

    if TYPE_CHECKING:

        @property
        def space(self) -> Space: ...  # noqa: D102
        @property
        def choices(self) -> tuple[int, ...]: ...  # noqa: D102
        @property
        def provenance(self) -> dict[str, Any]: ...  # noqa: D102

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the content of the architecture's file, without the header that names format and version."""

    @classmethod
    @abstractmethod
    def from_dict(cls, content: dict[str, Any], problem: str) -> Self:
        """Build an architecture from such content; `Architecture.from_dict` itself serves any space.

        Raises:
            FileFormatError: The content is invalid; the message is `problem`, a colon and the reasons.
        """
        settings = content.get("space")
        kind = settings.get("kind", DEFAULT_KIND) if isinstance(settings, dict) else DEFAULT_KIND
        if str(kind) not in SPACES or not issubclass(architecture := SPACES[str(kind)].architecture_type, cls):
            raise FileFormatError(f"{problem}: space of kind {str(kind)[:40]!r}; known: {', '.join(SPACES)}")
        return architecture.from_dict(content, problem)

    @abstractmethod
    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """Return the same architecture with another origin."""

    @classmethod
    def require(cls, architecture: Architecture) -> Self:
        """Return the architecture as one of this class.

        Raises:
            MismatchError: It belongs to a space of another kind.
        """
        if not isinstance(architecture, cls):
            space = f"space {architecture.space.name} ({type(architecture.space).__name__})"
            raise MismatchError(f"the architecture belongs to {space}: only {cls.__name__} is supported")
        return architecture

    @property
    def search_space(self) -> SearchSpace:
        """Space of a segmentation network.

        Raises:
            MismatchError: The space has no images; see `Space`.
        """
        return SearchSpace.require(self.space)

    @property
    def key(self) -> str:
        """Text that identifies the architecture in its space."""
        return "-".join(map(str, self.choices))

    def filled_slots(self) -> Iterator[tuple[Slot, OpSpec, int]]:
        """Yield every slot with its operator and the number of times that the network runs it, 0 for `zero`."""
        decisions = self.space.decisions
        live = [choice != decision.zero for decision, choice in zip(decisions, self.choices, strict=True)]
        for slot in self.space.slots():
            index = 0
            for decision in slot.decisions:
                index = index * len(decisions[decision].choices) + self.choices[decision]
            spec = slot.candidates[index]
            yield slot, spec, sum(live[term] for term in slot.sums) - 1 if slot.sums else int(spec.operator != ZERO)

    def specs(self, scope: str = DENSE) -> list[OpSpec]:
        """Return every operator that the network runs in `scope`, once per run; `zero` is omitted."""
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
        return json.dumps(header | self.to_dict(), indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the architecture to `path` atomically."""
        write_atomic(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an architecture file.

        Raises:
            FileFormatError: The file is missing, truncated or foreign, has another schema version, or does not fit
                its own space.
        """
        path = Path(path)
        if path.name == ARCHITECTURE_FILE and path.parent.is_dir() and not path.exists():
            raise FileFormatError(f"{path.parent} is not a run folder (no {ARCHITECTURE_FILE})")
        return cls.parse(read_text(path, "architecture"), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
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
        return cls.from_dict(content, invalid)


class Space(ABC):
    """Decisions and slots: the parts of a network that tables, predictors, costs and projections need.

    An implementation is registered by `register_space`, and passes `tests/models/space/test_conformance.py`.

    Attributes:
        name: Display name.
    """

    kind: ClassVar[str]
    """Name of the implementation, set by `register_space`."""
    architecture_type: ClassVar[type[Architecture]]
    """Class of the space's architectures."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...  # noqa: D102

    @property
    def title(self) -> str:
        """Name in tables and messages."""
        return self.name

    @property
    def description(self) -> str:
        """Title and distinguishing properties, for messages on a mismatch."""
        return f"{self.title} ({self.fingerprint})"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that distinguishes the space, except its name: 12 hexadecimal digits.

        This includes `operators.digest_recipes(self.specs())` if that is not empty.
        """

    @property
    @abstractmethod
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions; those with a default come last."""

    @property
    @abstractmethod
    def requirements(self) -> tuple[Requirement, ...]:
        """All conditions of a valid architecture."""

    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """Return every slot of the network in the order of computation."""

    @abstractmethod
    def build(self, choices: Sequence[int], **provenance: object) -> Architecture:
        """Return the architecture of these choices, [D].

        Raises:
            ValueError: The choices break a requirement, or are not the space's.
        """

    @abstractmethod
    def sample(self, seed: int) -> Architecture:
        """Return a random valid architecture, with the defaults of decisions that have one."""

    @abstractmethod
    def spread(self, count: int, seed: int) -> Iterator[Architecture]:
        """Yield `count` random architectures, from cheap to expensive; a larger `count` continues the sequence."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the content of the space's file, with `kind` if not the default; `check` is the inverse."""

    @classmethod
    @abstractmethod
    def from_dict(cls, content: dict[str, Any], where: str) -> Self:
        """Build a space from the content of its file.

        Raises:
            FileFormatError: A field is missing, unknown or out of range; the message names the first three.
        """

    @classmethod
    def require(cls, space: Space) -> Self:
        """Return the space as one of this class.

        Raises:
            MismatchError: It is a space of another kind.
        """
        if not isinstance(space, cls):
            raise MismatchError(f"space {space.name} is a {type(space).__name__}: only {cls.__name__} is supported")
        return space

    def specs(self) -> tuple[OpSpec, ...]:
        """Return the distinct OpSpecs of all slots in the order of first use: the entries of a latency table."""
        return tuple(dict.fromkeys(spec for slot in self.slots() for spec in slot.candidates))

    @cached_property
    def num_choices(self) -> int:
        """Largest number of choices of a decision, C."""
        return max((len(decision.choices) for decision in self.decisions), default=0)

    def find_fault(self, choices: Sequence[int]) -> str | None:
        """Return why an architecture, choices [D], is invalid; None if it is valid."""
        zeros = [decision.zero for decision in self.decisions]
        broken = (
            requirement.fault
            for requirement in self.requirements
            if all(choices[decision] == zeros[decision] for decision in requirement.decisions)
        )
        return next(broken, None)

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Read a preset by name or a YAML file by path.

        Raises:
            UnknownNameError: `source` is neither a preset nor a file.
            FileFormatError: The file is missing or invalid.
        """
        if str(source) in PRESETS:
            text = resources.files(f"{__package__}.presets").joinpath(f"{source}.yaml").read_text("utf-8")
            return cls.parse(text, f"preset {source}")
        if str(source) in VARIANTS:
            preset, size, classes = VARIANTS[str(source)]
            own = {"name": str(source), "input": size, "classes": classes}
            return cls.check({**cls.load(preset).to_dict(), **own}, f"preset {source}")
        path = Path(source)
        if not path.is_file():
            if path.exists():
                raise FileFormatError(f"cannot read search space {path}: it is {describe(path)}")
            if path.suffix or len(path.parts) > 1:
                raise FileFormatError(f"no such file: {path}")
            raise UnknownNameError("search space", str(source), (*PRESETS, *VARIANTS))
        return cls.parse(read_text(path, "search space"), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Parse YAML or JSON text.

        Args:
            text: Content of a search space file.
            where: Origin of the text, for error messages.

        Raises:
            FileFormatError: The text is not a valid search space.
        """
        try:
            content = parse_yaml(text)
        except ValueError as error:
            raise FileFormatError(f"{where}: invalid search space: {error}") from error
        return cls.check(content, where)

    @classmethod
    def check(cls, content: object, where: str) -> Self:
        """Validate the mapping of a search space file. Its field `kind` names the implementation, `lgcnet` without it.

        Raises:
            FileFormatError: There is no mapping, the kind is unknown, or not this class's; or see `from_dict`.
        """
        if not isinstance(content, dict):
            got = type(content).__name__
            raise FileFormatError(f"{where}: invalid search space: expected a mapping of fields, got {got}")
        kind = content.get("kind", DEFAULT_KIND)
        implementation = SPACES.get(str(kind))
        if implementation is None or not issubclass(implementation, cls):
            known = ", ".join(name for name, space in SPACES.items() if issubclass(space, cls))
            raise FileFormatError(f"{where}: invalid search space: kind {str(kind)[:40]!r}; known: {known}")
        return implementation.from_dict({name: value for name, value in content.items() if name != "kind"}, where)


class SearchSpace(Space):
    """Space of segmentation networks, from an image to a label map.

    Attributes:
        input: Height and width of the input image in pixels.
        classes: Number of semantic classes.
        geometry: Positions of features and logits in the image.
    """

    geometry: Geometry = Geometry.HALF_PIXEL

    if TYPE_CHECKING:

        @property
        def input(self) -> tuple[int, int]: ...  # noqa: D102
        @property
        def classes(self) -> int: ...  # noqa: D102

    @property
    def title(self) -> str:
        """Name and input size, e.g. `tiny 192x256`."""
        return f"{self.name} {self.input[0]}x{self.input[1]}"

    @property
    def description(self) -> str:
        """Title, number of classes, geometry and fingerprint."""
        return f"{self.title}, {self.classes} classes, geometry {self.geometry} ({self.fingerprint})"

    @abstractmethod
    def with_input(self, height: int, width: int) -> Self:
        """Return the same space for images of `height` x `width` pixels.

        Raises:
            FileFormatError: The size is out of range.
        """

    def with_classes(self, classes: int) -> Self:
        """Return the same space for another number of classes.

        Raises:
            FileFormatError: The number is out of range.
        """
        return self.check({**self.to_dict(), "classes": classes}, f"{self.name} with {classes} classes")


SPACES: dict[str, type[Space]] = {}
"""Kind -> implementation, filled by `register_space`."""


def register_space(kind: str) -> Callable[[Kind], Kind]:
    """Return a decorator that registers an implementation under its kind.

    Raises:
        UsageError: The kind is taken.
    """

    def register(space: Kind) -> Kind:
        if kind in SPACES:
            raise UsageError(f"search space kind {kind!r} is already registered")
        SPACES[kind] = space
        space.kind = kind
        return space

    return register


def iter_combinations(decisions: Sequence[Decision]) -> Iterator[tuple[int, ...]]:
    """Yield every combination of choices of some decisions, the last varying fastest."""
    return itertools.product(*(range(len(decision.choices)) for decision in decisions))
