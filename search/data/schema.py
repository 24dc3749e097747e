"""Content of a `dataset.yaml`, validated; docs/datasets.md explains the fields by example."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from ...errors import LgcError, UnknownNameError
from ...models.images import Normalisation, list_pixel_scales
from ...models.space.settings import format_validation_error

Colour = tuple[int, int, int]
"""RGB colour, 0 to 255."""

IGNORED = "ignore"
"""Name in `map` of pixels that are neither trained nor evaluated."""
MAX_VALUE = 65535
"""Largest value of a label file, which has at most 16 bits."""
MIN_CLASSES, MAX_CLASSES = 2, 255
"""Numbers of classes; labels have 8 bits, and 255 is ignored."""
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_TRIPLE = re.compile(r"(\d+)[ ,]+(\d+)[ ,]+(\d+)")
_HEX = re.compile(r"#([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class ValueRange:
    """Label values from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"

    @property
    def values(self) -> range:
        """All values of the range."""
        return range(self.low, self.high + 1)


LabelKey = ValueRange | Colour
"""Content of a pixel of a label file."""


def format_key(key: LabelKey) -> str:
    """Return a value, range or colour as it is written in YAML."""
    return str(key) if isinstance(key, ValueRange) else " ".join(map(str, key))


def format_values(values: Iterable[int]) -> str:
    """Return label values with neighbours as ranges, e.g. `0-3, 7`."""
    ranges = list[ValueRange]()
    for value in sorted(values):
        if ranges and ranges[-1].high == value - 1:
            ranges[-1] = ValueRange(ranges[-1].low, value)
        else:
            ranges.append(ValueRange(value, value))
    return ", ".join(map(str, ranges))


def _parse_colour(content: object) -> Colour:
    """Return a colour from `[128, 64, 128]`, `128 64 128` or `#804080`."""
    numbers: Sequence[object] = content if isinstance(content, list | tuple) else ()
    if isinstance(content, str):
        if match := _HEX.fullmatch(content):
            numbers = tuple(bytes.fromhex(match[1]))
        elif match := _TRIPLE.fullmatch(content):
            numbers = tuple(map(int, match.groups()))
    if len(numbers) != 3 or not all(type(number) is int and 0 <= number <= 255 for number in numbers):
        raise ValueError(f"{content!r} is not a colour: write [128, 64, 128], with numbers from 0 to 255")
    red, green, blue = (int(str(number)) for number in numbers)
    return red, green, blue


def _parse_key(content: object) -> LabelKey:
    """Parse `7`, `7-11`, `128 64 128`, `#804080` or `[128, 64, 128]`."""
    if type(content) is int:
        content = str(content)
    if isinstance(content, str) and (match := _RANGE.fullmatch(content)):
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high or high > MAX_VALUE:
            raise ValueError(f"{content} is not a range of label values from 0 to {MAX_VALUE}")
        return ValueRange(low, high)
    if isinstance(content, str | list) and (_TRIPLE.fullmatch(str(content)) or str(content).startswith(("#", "["))):
        return _parse_colour(content)
    raise ValueError(f"{content!r} is not a label value (7), a range (7-11) or a colour (128 64 128)")


def _parse_keys(content: object) -> tuple[LabelKey, ...]:
    """Return the keys of a list; a single one needs no list."""
    return tuple(_parse_key(key) for key in (content if isinstance(content, list | tuple) else [content]))


def _parse_map(content: object) -> tuple[tuple[LabelKey, str], ...]:
    """Return pairs of a key and a class name."""
    if not isinstance(content, dict):
        raise ValueError("must map label values or colours to class names, e.g. `7: road`")
    for name in content.values():
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is not a class name: write it in quotes if it is one")
    return tuple((_parse_key(key), name) for key, name in content.items())


def _parse_classes(content: object) -> dict[str, Colour | None]:
    """Return name -> colour from a list of names or a mapping with colours."""
    if not isinstance(content, dict | list):
        raise ValueError("must be a list of names, or names with colours, e.g. `road: [128, 64, 128]`")
    names = list(content)
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{name!r} is not a class name: write text, in quotes if needed")
    _require_unique("classes", [name.strip().casefold() for name in names])
    if IGNORED in names:
        raise ValueError(f"a class cannot be called {IGNORED!r}: list its values under `ignore`")
    if not MIN_CLASSES <= len(names) <= MAX_CLASSES:
        raise ValueError(f"a data set needs {MIN_CLASSES} to {MAX_CLASSES} classes, got {len(names)}")
    colours = dict.fromkeys(names) if isinstance(content, list) else content
    parsed = {name: None if colour is None else _parse_colour(colour) for name, colour in colours.items()}
    bare = [name for name, colour in parsed.items() if colour is None]
    if 0 < len(bare) < len(parsed):
        raise ValueError(f"class {bare[0]!r} has no colour: give every class a colour, or none")
    given = {colour: name for name, colour in reversed(parsed.items()) if colour is not None}
    for name, colour in parsed.items():
        if colour is not None and given[colour] != name:
            raise ValueError(f"classes {given[colour]!r} and {name!r} have the same colour {list(colour)}")
    return parsed


def _require_unique(kind: str, names: Iterable[str]) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ValueError(f"two {kind} are called {name!r}")
        seen.add(name)


def _require_distinct(keys: Iterable[LabelKey], fields: str) -> None:
    """Check that no label value or colour is in several keys, which are those of `fields`.

    Raises:
        ValueError: One is.
    """
    keys = list(keys)
    ranges = sorted((key for key in keys if isinstance(key, ValueRange)), key=lambda key: key.low)
    for first, second in pairwise(ranges):
        if second.low <= first.high:
            where = f"{first} and {second}" if first != second else fields
            raise ValueError(f"label value {second.low} has two meanings, in {where}")
    _require_unique("colours of map and ignore", [format_key(key) for key in keys if isinstance(key, tuple)])


def subtract_keys(ignore: object, *others: object) -> object:
    """Return the content of `ignore` without the values and colours of the keys in `others`; as it is if it has none.

    Raises:
        ValueError: A key is invalid.
    """
    keys, taken = _parse_keys(ignore), [key for content in others for key in _parse_keys(content)]
    values = {value for key in taken if isinstance(key, ValueRange) for value in key.values}
    rest = [
        *(value for key in keys if isinstance(key, ValueRange) for value in key.values if value not in values),
        *(list(key) for key in keys if isinstance(key, tuple) and key not in taken),
    ]
    whole = sum(len(key.values) if isinstance(key, ValueRange) else 1 for key in keys)
    return ignore if len(rest) == whole else rest


def _as_tuple(content: object) -> object:
    """Return a single item as a tuple."""
    return tuple(content) if isinstance(content, list | tuple) else (content,)


def _as_files(content: object) -> object:
    """Return label files as a tuple of objects; a pattern alone is one."""
    items = content if isinstance(content, list | tuple) else [content]
    return tuple({"files": item} if isinstance(item, str) else item for item in items)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    handled_before: ClassVar[tuple[str, ...]] = ()
    """Fields that are resolved before the model is validated."""

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, content: Any) -> Any:
        for name in content if isinstance(content, dict) else ():
            if name not in cls.model_fields:
                raise UnknownNameError("field", str(name), [*cls.model_fields, *cls.handled_before])
        return content


Keys = Annotated[tuple[Any, ...], PlainValidator(_parse_keys)]
Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]


class LabelSettings(_Model):
    """Label files of a split, and the meaning of their values where it differs from the data set's."""

    files: str = Field(min_length=1)
    """Folder or pattern; its wildcards are filled with those of the image, the last with the last."""
    images: str | None = None
    """Pattern of the images that have such labels; None for all."""
    values: Keys | None = None
    """See `DatasetSettings.values`."""
    ignore: Keys | None = None
    """See `DatasetSettings.ignore`."""
    meaning: str | None = None
    """Name of the values in messages."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        _require_distinct([*(self.values or ()), *(self.ignore or ())], "`values` or `ignore`")
        return self


Labels = Annotated[tuple[LabelSettings, ...], BeforeValidator(_as_files)]


class SplitSettings(_Model):
    """Files of a split; a field that is not given is the data set's."""

    images: str | None = None
    """Folder or pattern of the images, relative to the root."""
    labels: Labels | None = None
    """Label files; the first that exists is an image's label."""
    list: Patterns | None = None
    """List file with an image per line, perhaps with its label; the first that exists is read."""
    share: float | None = Field(None, gt=0, lt=1)
    """Share of the images, drawn by the data set's `seed`."""


class NormalisationSettings(_Model):
    """Normalisation of the network's input."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    range: Literal["0..1", "0..255"]
    """Range of the pixel values that mean and std refer to."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        self.build()
        scale, other = (1.0, "0..255") if self.range == "0..1" else (255.0, "0..1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            for value in values:
                if not list_pixel_scales([value], ()) <= {scale}:
                    raise ValueError(
                        f"{name} {value:g} is not of the range {self.range}: write mean and std of one range, perhaps "
                        f"{other}"
                    )
        return self

    def build(self) -> Normalisation:
        """Return the normalisation with mean and std in 0..1."""
        scale = 255 if self.range == "0..255" else 1
        mean, std = (tuple(value / scale for value in values) for values in (self.mean, self.std))
        return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


class PredictionSettings(_Model):
    """Files of predictions."""

    name: Annotated[str, Field(pattern=r"^[^/]*\{stem\}[^/]*\.png$")] | None = None
    """Their name, `{stem}` being the image's without suffix; None for the label's name."""
    kind: Literal["indices", "colours"] | None = None
    """Kind of their pixels; None for that of the labels."""


class DatasetSettings(_Model):
    """Content of a `dataset.yaml`."""

    handled_before = ("extends",)
    name: str = Field(min_length=1, pattern=r"^[\w.+ -]+$")
    """Name in results and messages."""
    root: str | None = None
    """Folder of the files, relative to the YAML file; None for the YAML file's folder."""
    images: str | None = None
    """Folder or pattern of the images; `{split}` is the name of the split."""
    labels: Labels | None = None
    """Label files; the first that exists is an image's label."""
    list: Patterns | None = None
    """List file of each split."""
    splits: Any
    """Names of the splits, or a mapping from each to its files."""
    seed: int = Field(0, ge=0)
    """Seed of the shares."""
    classes: Annotated[dict[str, Any], PlainValidator(_parse_classes)]
    """Names of the classes in order, with their colours."""
    kind: Literal["indices", "colours", "palette"] | None = None
    """Kind of the label files; None for what each file says by its mode."""
    values: Keys | None = None
    """Label value of each class, in the order of the classes; None for 0, 1, 2, ..."""
    map: Annotated[tuple[tuple[Any, str], ...], PlainValidator(_parse_map)] = ()
    """Label value, range or colour -> class name, or `ignore`."""
    ignore: Keys | None = None
    """Label values and colours that are neither trained nor evaluated; None for 255."""
    meaning: str | None = None
    """Name of the label values in messages."""
    normalisation: NormalisationSettings | None = None
    """Normalisation of the network's input; None for ImageNet's."""
    predictions: PredictionSettings = PredictionSettings()
    """Files of predictions."""
    frames: Literal["camvid"] | None = None
    """Rule that gives an image's split by its name, where there are no lists."""

    @model_validator(mode="before")
    @classmethod
    def _expand_splits(cls, content: Any) -> Any:
        """Bring the splits into their long form, name -> object."""
        if not isinstance(content, dict):
            return content
        splits = content.get("splits")
        if isinstance(splits, list):
            _require_unique("splits", map(str, splits))
            splits = dict.fromkeys(splits)
        if not isinstance(splits, dict) or not splits:
            raise ValueError("splits: must be a list of names, or names with their files, e.g. `train: images/train`")
        long: dict[str, SplitSettings] = {}
        for name, files in splits.items():
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"splits: {name!r} is not a name of letters, digits, '-', '.' and '_'")
            try:
                long[name] = SplitSettings.model_validate({"images": files} if isinstance(files, str) else files or {})
            except (LgcError, ValidationError) as error:
                problem = format_validation_error(error) if isinstance(error, ValidationError) else str(error)
                raise ValueError(f"split {name}: {problem}") from error
        return {**content, "splits": long}

    @model_validator(mode="after")
    def _check_splits(self) -> Self:
        shares = {name: split.share for name, split in self.splits.items() if split.share is not None}
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"the shares of {', '.join(shares)} are more than 1 together")
        sources: dict[tuple[object, ...], str] = {}
        for name, split in self.splits.items():
            images, lists = split.images or self.images, split.list or self.list or ()
            if images is None and not lists:
                raise ValueError(f"split {name} has neither images nor a list")
            if name in shares and (lists or split.images is not None):
                raise ValueError(f"split {name}: a share is of the data set's `images`, without lists")
            if split.labels is None and self.labels is None:
                raise ValueError(f"split {name} has no labels: write a folder or a pattern under `labels`")
            source = ((images or "").replace("{split}", name), tuple(item.replace("{split}", name) for item in lists))
            if name not in shares and self.frames is None and (other := sources.setdefault(source, name)) != name:
                raise ValueError(f"splits {other} and {name} have the same images: use {{split}}, a list or a share")
        return self

    @model_validator(mode="after")
    def _check_map(self) -> Self:
        for key, name in self.map:
            if name != IGNORED and name not in self.classes:
                raise ValueError(f"map: {format_key(key)} is of the unknown class {name!r}: add it to `classes`")
        for label in [self, *(labels for split in [self, *self.splits.values()] for labels in split.labels or ())]:
            if label.values is not None:
                _check_values(label.values, len(self.classes))
        keys = [*(key for key, _ in self.map), *(self.values or ()), *(self.ignore or ())]
        _require_distinct(keys, "`values`, `map` or `ignore`")
        for key, name in [*self.map, *((key, IGNORED) for key in self.ignore or ())]:
            owner = next((own for own, colour in self.classes.items() if colour == key), name)
            if owner != name:
                raise ValueError(f"{format_key(key)} is the colour of class {owner!r}, and {name!r} in map or ignore")
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        """Every class needs a label value or a colour."""
        if self.values is not None or self.kind in ("colours", "palette"):
            return self
        mapped = {name for key, name in self.map if isinstance(key, ValueRange)} - {IGNORED}
        for name, colour in self.classes.items():
            if mapped and name not in mapped and (colour is None or self.kind == "indices"):
                raise ValueError(f"map: class {name!r} has no label value")
        for key in self.ignore or ():
            if not mapped and isinstance(key, ValueRange) and key.low < len(self.classes):
                name = list(self.classes)[key.low]
                raise ValueError(
                    f"ignore: label value {key.low} is class {name!r}, since classes have the values 0, 1, 2, ...: "
                    f"write e.g. `values: 1-{len(self.classes)}`"
                )
        return self


def _check_values(keys: tuple[LabelKey, ...], classes: int) -> None:
    count = 0
    for key in keys:
        if not isinstance(key, ValueRange):
            raise ValueError(f"values: {format_key(key)} is a colour: give it to its class")
        count += len(key.values)
    if count != classes:
        raise ValueError(f"values: {count} label values for {classes} classes")


class LayoutSettings(DatasetSettings):
    """A known layout: a `dataset.yaml` without a root, and how its folder is recognised."""

    needs: str
    """Files that the folder must have, for messages."""
    detect: tuple[tuple[str, ...], ...] = Field(min_length=1)
    """Alternatives of files that must all exist; `/` at the end stands for a folder."""
    folders: tuple[str, ...] = (".",)
    """Sub-folders in which the files may be."""
    frame_names: bool = False
    """The layout is only recognised if all images are called like CamVid's frames."""
    source: str | None = None
    """Files that define a split, for messages."""
