"""Settings of LGCNet's search space: the fields of its YAML file, validated on reading."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ...errors import FileFormatError, LgcError, MissingOperatorError, UnknownNameError, UnknownOperatorError
from ..geometry import Geometry
from ..recipe import Conv, Module, Residual, hash_text, iter_layers
from .operators import OPERATORS, ZERO, get_recipe, require_operators
from .opspec import OpSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
Count = Annotated[int, Field(ge=1, le=4096)]
PixelCount = Annotated[int, Field(ge=32, le=16384)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ADDED: ClassVar[tuple[str, ...]] = ()
    """Fields that files and fingerprints leave out at their default, as those from before the field have none."""

    @model_serializer(mode="wrap")
    def _omit_added_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in content.items()
            if name not in self.ADDED or getattr(self, name) != fields[name].default
        }


def _check_operators(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that operators are registered, searchable and different, and that one of them is not `zero`."""
    require_operators(names)
    for name in names:
        if not OPERATORS[name].searchable:
            raise UnknownNameError("searchable operator", name, (n for n, op in OPERATORS.items() if op.searchable))
    if len(set(names)) < len(names):
        raise ValueError(f"duplicate operator in {', '.join(names)}")
    if names and all(name == ZERO for name in names):
        raise ValueError(f"needs an operator besides {ZERO}")
    return names


def _check_increasing(widths: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(set(widths)) != list(widths):
        raise ValueError(f"must be strictly increasing: {list(widths)}")
    return widths


def _check_converter(field: str, name: str, stride: int) -> None:
    """Check that an operator between two parts of a network can change the number of channels."""
    require_operators([name])
    try:
        layers, reason = get_recipe(OpSpec(name, 64, 128, 64, 64, stride)), ""
    except LgcError as error:
        layers, reason = (), f" ({error})"
    if not layers or any(isinstance(layer, Conv) and layer.plain for layer in layers):
        at_stride = f" at stride {stride}" if stride > 1 else ""
        raise ValueError(
            f"{field}: {name} does not change the number of channels{at_stride}{reason}: use a convolution, e.g. "
            "conv_3x3"
        )


def _check_slimmable(name: str) -> None:
    """Check that narrow widths of an operator can use the first channels of its widest one.

    Raises:
        ValueError: It has a torch module of the user's, or a grouped convolution other than a depthwise one.
    """
    try:
        layers = [*iter_layers(get_recipe(OpSpec(name, 64, 64, 64, 64)))]
    except LgcError:
        return  # another check reports it
    if any(isinstance(layer, Module) for layer in layers):
        raise ValueError(f"{name} is a torch module, whose widths cannot be searched: use channels instead of widths")
    grouped = [layer for layer in layers if isinstance(layer, Conv) and layer.groups > 1]
    if any(layer.groups != layer.c_in or layer.c_in != layer.c_out for layer in grouped):
        raise ValueError(
            f"{name} has a grouped convolution, whose widths cannot be searched: use a plain or a depthwise one, or "
            "channels instead of widths"
        )


OperatorNames = Annotated[tuple[str, ...], AfterValidator(_check_operators)]
Widths = Annotated[tuple[Count, ...], AfterValidator(_check_increasing)]


class Stem(_Section):
    """3x3 convolutions before the first cell."""

    ADDED = ("widths",)

    channels: Count = 16
    """Output channels of each stem convolution. Assumption: the paper names the convolutions, not their channels."""
    strides: tuple[Annotated[int, Field(ge=1, le=2)], ...] = Field(default=(2, 2, 1), min_length=1, max_length=8)
    """Stride of each stem convolution. Assumption: the backbone starts at 1/4 of the input size."""
    widths: tuple[tuple[Count, ...], ...] = ()
    """Searched channels: for each choice, those of every convolution but the last, whose width is the first level's.
    Ours."""


class Fusion(_Section):
    """Densely connected fusion cell."""

    ADDED = ("widths", "operators")

    nodes: Annotated[int, Field(ge=1, le=8)] = 2
    """Number of intermediate nodes. Assumption."""
    channels: Count = 32
    """Channels that each input is projected to. Assumption."""
    level: Annotated[int, Field(ge=0, le=7)] = 3
    """log2 of the cell's stride: 3 for 1/8 of the input size. Assumption."""
    widths: Widths = ()
    """Searched channels, instead of `channels`. Ours."""
    operators: OperatorNames = ()
    """Candidate operators of each edge, instead of the space's. Ours."""


class SpaceSettings(_Section):
    """Fields of a cell-independent search space (LGCNet, arXiv 2302.08481; GAS, arXiv 1909.06793).

    The papers' abstracts do not give the fields marked "assumption"; docs/method.md lists them.
    """

    ADDED = ("geometry", "channels", "widths", "inputs", "reduction", "context", "head_operator")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """Display name, excluded from the fingerprint."""
    input: tuple[PixelCount, PixelCount]
    """Height and width of the input image in pixels."""
    geometry: Geometry = Geometry.HALF_PIXEL
    """Positions of features in the image: 2, at multiples of their stride; 1, as in lgc 0.1, by half-pixel centres,
    which resizes shift by up to half a stride. New spaces take 2. Ours."""
    classes: Annotated[int, Field(ge=2, le=255)]
    """Number of semantic classes."""
    operators: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_check_operators)]
    """Candidate operators of each edge. Assumption: recalled from GAS."""
    cells: Annotated[int, Field(ge=1, le=64)]
    """Number of backbone cells. Assumption: 14."""
    reductions: tuple[Annotated[int, Field(ge=0)], ...]
    """Indices of the cells that halve the resolution. Assumption: unknown, chosen."""
    channels: Count | None = None
    """Channels per node in the first cells, doubled at each reduction. Assumption: 8."""
    widths: tuple[Annotated[Widths, Field(min_length=1)], ...] = ()
    """Searched channels per node at each level of the backbone, from fine to coarse, instead of `channels`. Ours."""
    inputs: Annotated[int, Field(ge=1, le=2)] = 2
    """Number of inputs of each cell: the last features. Assumption: 2."""
    reduction: str | None = None
    """Operator of stride 2 before the operators of a cell that halves the resolution, e.g. `conv_3x3`; without it,
    those have stride 2 themselves. Ours."""
    context: OperatorNames = ()
    """Candidates of one more cell behind the last one, e.g. of global context. Ours."""
    nodes: Annotated[int, Field(ge=1, le=8)] = 2
    """Number of intermediate nodes per cell. Assumption: 2."""
    stem: Stem = Stem()
    fusion: Fusion = Fusion()
    head_operator: str = "conv_3x3"
    """Operator of the head before its classifier. Assumption."""
    head_channels: Count = 64
    """Default width of the head: channels of its 3x3 convolution. Assumption."""
    head_widths: Widths = ()
    """Other widths of the head. Refinement, the last step of a search, picks the width that fits the target best; with
    `widths`, the head's is searched like the others. Ours."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if sorted(set(self.reductions)) != list(self.reductions):
            raise ValueError(f"reductions must be strictly increasing: {self.reductions}")
        if self.reductions and self.reductions[-1] >= self.cells:
            raise ValueError(f"reduction at cell {self.reductions[-1]}, but the cells are 0 to {self.cells - 1}")
        self._check_widths()
        if self.head_channels in self.head_widths:
            raise ValueError(f"head_widths must not repeat head_channels, {self.head_channels}: {self.head_widths}")
        stem = sum(stride - 1 for stride in self.stem.strides)
        if self.is_strided and self.fusion.level < stem:
            raise ValueError(
                f"fusion.level must be at least the stem's level in geometry {self.geometry}: set it to {stem} or "
                "more, or give the stem fewer strides of 2"
            )
        coarsest = max(len(self.reductions) + stem, self.fusion.level)
        if 2**coarsest > min(self.input):
            height, width = self.input
            raise ValueError(f"input {height}x{width} is too small for features at 1/{2**coarsest} of its size")
        return self

    def _check_widths(self) -> None:
        """Check the fields of searched widths against each other."""
        levels, stem = len(self.reductions) + 1, self.stem
        if self.channels is not None and self.widths:
            raise ValueError("channels and widths exclude each other: remove one")
        if self.channels is None and not self.widths:
            raise ValueError("channels or widths is required")
        if self.widths and len(self.widths) != levels:
            raise ValueError(f"widths needs {levels} lists, one for each level of the backbone, got {len(self.widths)}")
        for name, widths in (("stem.widths", stem.widths), ("fusion.widths", self.fusion.widths)):
            if widths and not self.widths:
                raise ValueError(f"{name} needs widths, the searched channels of the levels")
        inner = len(stem.strides) - 1
        if stem.widths and not inner:
            raise ValueError("stem.widths needs at least two stem.strides")
        for index, channels in enumerate(stem.widths):
            if len(channels) != inner:
                raise ValueError(
                    f"stem.widths.{index} has {len(channels)} numbers, needs {inner}: one for each convolution but the "
                    "last, whose width is that of the first level"
                )
            if channels in stem.widths[:index]:
                raise ValueError(f"stem.widths.{index} is repeated: {list(channels)}")
        _check_converter("head_operator", self.head_operator, 1)
        if self.reduction is not None:
            _check_converter("reduction", self.reduction, 2)
        if not self.widths:
            return
        if (self.nodes, self.fusion.nodes) != (1, 1):
            raise ValueError("widths need nodes: 1 and fusion.nodes: 1")
        names = (*self.operators, *self.context, *self.fusion.operators, self.head_operator, self.reduction)
        for name in dict.fromkeys(filter(None, names)):
            _check_slimmable(name)
        if any(isinstance(layer, Residual) for layer in get_recipe(OpSpec(self.head_operator, 64, 64, 64, 64))):
            raise ValueError(
                f"head_operator: {self.head_operator} adds its input where widths are equal, which searched widths do "
                "not allow: use conv_3x3 or sep_conv_3x3"
            )

    def hash_fields(self, recipes: Mapping[str, str]) -> str:
        """Return the hash of all fields except the name, and of `recipes`, if any: 12 hexadecimal digits."""
        # Spaces with a single head, or of first recipes, keep the fingerprint that tables from before them hold.
        excluded = {"name"} if self.head_widths else {"name", "head_widths"}
        content = self.model_dump(mode="json", exclude=excluded) | ({"recipes": dict(recipes)} if recipes else {})
        return hash_text(json.dumps(content, sort_keys=True))

    @property
    def is_strided(self) -> bool:
        """True if features are at multiples of their stride."""
        return self.geometry == Geometry.STRIDED

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """All widths of the head, in increasing order."""
        return tuple(sorted((self.head_channels, *self.head_widths)))

    @cached_property
    def default_head(self) -> int:
        """Index of `head_channels` in `heads`."""
        return self.heads.index(self.head_channels)


def validate(model: type[Model], content: dict[str, Any], problem: str) -> Model:
    """Validate `content` as a `model`.

    Raises:
        FileFormatError: The content is invalid; the message is `problem`, a colon and the reasons.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise FileFormatError(f"{problem}: {format_validation_error(error)}") from error
    except UnknownOperatorError as error:
        raise MissingOperatorError(f"{problem}: {error}") from error
    except LgcError as error:
        raise FileFormatError(f"{problem}: {error}") from error


_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be an integer, not {given}"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number, not {given}"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false, not {given}"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list, not {given}"),
    **dict.fromkeys(("dict_type", "model_type"), "must have fields, not be {given}"),
    **dict.fromkeys(("literal_error", "enum"), "must be {expected}, not {given}"),
    "string_type": "must be text, not {given}",
    "greater_than_equal": "must be at least {ge}, not {given}",
    "greater_than": "must be above {gt}, not {given}",
    "less_than_equal": "must be at most {le}, not {given}",
    "less_than": "must be below {lt}, not {given}",
    "finite_number": "must be finite, not {given}",
}
"""Type of a problem, by pydantic -> message."""


def _describe_problem(detail: ErrorDetails) -> str:
    """Return what is wrong with a field, by `_PROBLEMS` if it has the type, else by pydantic."""
    template = _PROBLEMS.get(detail["type"])
    if template is None:
        return detail["msg"].removeprefix("Value error, ")
    given = reprlib.repr(detail["input"]) if "{given}" in template else ""
    return template.format(given=given, **detail.get("ctx", {}))


def format_validation_error(error: ValidationError, format_field: Callable[[str], str] = str) -> str:
    """Return the first three problems of a validation on one line, as `field: problem; field: problem`.

    Args:
        error: pydantic's error.
        format_field: Converts a dotted field name to the caller's notation, e.g. a command-line option.
    """
    problems = []
    # Defaults that depend on an invalid field are not reported.
    details = [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]
    for detail in details[:3]:
        field = ".".join(str(part) for part in detail["loc"])
        message = _describe_problem(detail)
        problems.append(f"{format_field(field)}: {message}" if field else message)
    more = len(details) - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")
