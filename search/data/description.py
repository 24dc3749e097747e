"""Description of a dataset: its files, splits and classes, and the meaning of its label values."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError, FileFormatError, LgcError, OutputError, UnknownNameError
from ...files import read_text, write_atomic
from ...models.images import IMAGENET, Normalisation
from ...models.palettes import Palette, distinct_palette
from ...models.space.settings import validate
from ...yaml_text import parse_yaml
from .folders import FolderDescription, describe_folder
from .labels import IGNORE
from .layouts import (
    MAX_SHOWN,
    describe_layouts,
    detect_layout,
    find_roots,
    has_files,
    list_entries,
    load_layout,
    read_layout,
)
from .pairs import LabelFiles, Pair, Split, list_doubtful_turns, require_pairs
from .patterns import FilePattern
from .reading import Coding, list_suspicions
from .schema import (
    IGNORED,
    DatasetSettings,
    LabelKey,
    LabelSettings,
    LayoutSettings,
    SplitSettings,
    ValueRange,
    format_values,
)

if TYPE_CHECKING:
    from pydantic import JsonValue

DATASET_FILE = "dataset.yaml"
"""Description that a dataset's folder may contain."""
MAX_SAMPLED = 8
"""Number of labels that `DatasetSpec.remarks` reads."""
MAX_HEADERS = 2000
"""Number of images whose headers it reads."""
YAML_SUFFIXES = (".yaml", ".yml", ".json")
LAYOUT_FIELDS = frozenset(LayoutSettings.model_fields) - frozenset(DatasetSettings.model_fields)
"""Fields of a known layout that no `dataset.yaml` has."""


class UnknownLayoutError(DataError):
    """A folder without a known layout, and without images and labels."""


@dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A dataset on disk.

    Attributes:
        name: Name in results and messages; of a known layout, the layout's.
        root: Folder of the files.
        classes: Names of the classes.
        palette: Colour of each class, 0..255.
        normalisation: Normalisation of the network's input.
        splits: Name -> files of the split.
        values: Label value of each class, for prediction files.
        predictions: Kind of prediction files, `indices` or `colours`.
        prediction_name: Name of a prediction's file with `{stem}` for the image's stem; None for the label's name.
        digest: Hash of the description, 12 hexadecimal digits; empty for a known layout.
        notes: Assumptions that the description rests on, a line each.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    palette: Palette
    normalisation: Normalisation
    splits: Mapping[str, Split]
    values: tuple[int, ...]
    predictions: str = "indices"
    prediction_name: str | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits, also of those without files."""
        return tuple(self.splits)

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that identify the dataset in a run folder, besides its path; none for a known layout."""
        return {"dataset": self.digest} if self.digest else {}

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """Lines to print before the dataset is used: assumptions, and labels that look wrong."""
        texts = [*self._list_suspicions(), *self._list_turns()]
        return (*self.notes, *(f"warning: {self.name}: {text}" for text in texts))

    def _list_turns(self) -> list[str]:
        """Return a remark on images that are turned, perhaps unlike their labels, of all splits or a sample."""
        pairs = list[Pair]()
        for split in self.splits.values():
            with suppress(LgcError, OSError):  # reported where the split is used
                pairs += [pair for pair in split.pairs() if pair.label is not None]
        return list_doubtful_turns(pairs[:: len(pairs) // MAX_HEADERS + 1])

    def _list_suspicions(self) -> list[str]:
        """Return signs that a few labels of the first labelled split have other values than expected."""
        for split in self.splits.values():
            try:
                labelled = [pair for pair in split.pairs() if pair.label is not None]
            except (LgcError, OSError):  # reported where the split is used
                continue
            if labelled:
                sample = labelled[:: max(len(labelled) // MAX_SAMPLED, 1)][:MAX_SAMPLED]
                files = [(pair.label, pair.coding) for pair in sample if pair.label is not None]
                return list_suspicions(files, self.num_classes)
        return []

    def pairs(self, split: str) -> list[Pair]:
        """Return the images and labels of a split, in the order of its list or sorted by path.

        Raises:
            UnknownNameError: There is no such split.
            DataError: The split has no images, a list has an error, an image has no label, or its label is also that of
                another split's image.
        """
        if split not in self.splits:
            raise UnknownNameError("split", split, self.splits)
        try:
            pairs = require_pairs(self.splits[split].pairs(), self.splits[split], self.splits.values())
            self.splits[split].require_own_labels(self.splits.values())
            return pairs
        except OSError as error:
            raise DataError(f"cannot read the dataset folder {self.root}: {error}") from error


def read_dataset(data: str | os.PathLike[str]) -> DatasetSpec:
    """Return the dataset that a `dataset.yaml`, or a folder with one or with a known layout, describes.

    Raises:
        FileFormatError: The YAML file is invalid; the message names the field.
        DataError: The folder does not exist or is empty, or its labels cannot be described.
        UnknownLayoutError: The folder has no known layout; the message lists the layouts.
    """
    path = Path(data)
    if path.suffix.lower() in YAML_SUFFIXES and not path.is_dir():
        return _read_description(path)
    if (path / DATASET_FILE).is_file():
        return _read_description(path / DATASET_FILE)
    entries = list_entries(path)
    detected = detect_layout(path)
    if detected is not None:
        name, base = detected
        return build_spec(load_layout(name), base)
    folder = describe_folder(path)
    if folder is not None:
        return _open_folder(path, folder)
    more = f" and {len(entries) - MAX_SHOWN} more" if len(entries) > MAX_SHOWN else ""
    raise UnknownLayoutError(
        f"{path} has no known layout, nor images/ with labels/: write a dataset.yaml (docs/datasets.md); "
        f"{describe_layouts(path)}; the folder has {', '.join(entries[:MAX_SHOWN])}{more}"
    )


def complete_description(content: object, origin: str) -> dict[str, Any]:
    """Return the content of a `dataset.yaml`, completed by the known layout that it extends.

    Raises:
        FileFormatError: The content has no fields, or extends an unknown layout; the message begins with `origin`.
    """
    if not isinstance(content, dict):
        raise FileFormatError(f"{origin}: it needs fields such as `name: street`")
    base = content.get("extends")
    try:
        inherited = {} if base is None else read_layout(base if isinstance(base, str) else repr(base))
    except LgcError as error:
        raise FileFormatError(f"{origin}: extends: {error}") from error
    own: dict[str, Any] = {key: value for key, value in content.items() if key != "extends"}
    kept = {key: value for key, value in inherited.items() if key not in LAYOUT_FIELDS}
    return {**kept, **own}


def _read_description(path: Path) -> DatasetSpec:
    try:
        content = parse_yaml(read_text(path, "dataset description"))
    except ValueError as error:
        raise FileFormatError(f"cannot read dataset description {path}: {error}") from error
    origin = f"invalid dataset description {path}"
    complete = complete_description(content, origin)
    settings = validate(DatasetSettings, complete, origin)
    root = path.parent / (settings.root or ".")
    if not root.is_dir():
        raise DataError(f"{path}: root: no such folder: {root}")
    base = content.get("extends") if isinstance(content, dict) else None
    if base is not None:
        layout = load_layout(base)
        fitting = [folder for folder in find_roots(layout, root) if folder != root]
        root = next((folder for folder in fitting if has_files(layout, folder)), root)
    return build_spec(settings, root, _hash_content(complete))


def _open_folder(path: Path, folder: FolderDescription) -> DatasetSpec:
    """Return the dataset of a folder without a description, which is written into the current folder.

    Raises:
        OutputError: The current folder has another description of that name.
    """
    cwd, root = Path.cwd().resolve(), path.resolve()
    name = f"{folder.content['name']}.dataset.yaml"
    text = folder.format(str(root.relative_to(cwd)) if root.is_relative_to(cwd) else str(root))
    advice = f"edit the class names in {name}, then use --data {name}"
    if cwd.is_relative_to(root):
        advice = f"run the command outside {path} to get a dataset.yaml to edit"
    elif Path(name).exists():
        if read_text(Path(name), "dataset description") != text:
            raise OutputError(f"{name} differs from the content of {path}: use --data {name}, or remove the file")
    else:
        try:
            write_atomic(Path(name), text)
        except OutputError as error:
            advice = f"{error}, so there is no dataset.yaml to edit"
    settings = validate(DatasetSettings, dict(folder.content), f"invalid dataset {path}")
    notes = (*folder.notes, f"{folder.content['name']}: {advice}")
    return build_spec(settings, path, _hash_content(folder.content), notes)


def _hash_content(content: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits of a description's hash; its root does not count."""
    fields = [(name, content[name]) for name in sorted(content) if name != "root"]
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:12]


def build_spec(settings: DatasetSettings, root: Path, digest: str = "", notes: Sequence[str] = ()) -> DatasetSpec:
    """Return the dataset that validated settings describe, in the folder `root`."""
    colours = tuple(settings.classes.values())
    palette: Palette = distinct_palette(len(colours)) if None in colours else colours
    splits = dict[str, Split]()
    start = 0.0
    for name, files in settings.splits.items():
        share = None
        if files.share is not None:
            share = (start, min(start + files.share, 1.0))
            start = share[1]
        splits[name] = _build_split(settings, name, files, root, share)
    coding = _build_coding(settings, settings)
    kind = settings.predictions.kind or ("indices" if settings.kind in (None, "indices") else "colours")
    return DatasetSpec(
        name=settings.name,
        root=root,
        classes=tuple(settings.classes),
        palette=palette,
        normalisation=IMAGENET if settings.normalisation is None else settings.normalisation.build(),
        splits=splits,
        values=tuple(next((v for v, c in coding.values.items() if c == i), i) for i in range(len(settings.classes))),
        predictions=kind,
        prediction_name=settings.predictions.name,
        digest=digest,
        notes=tuple(notes),
    )


def _build_split(
    settings: DatasetSettings, name: str, files: SplitSettings, root: Path, share: tuple[float, float] | None
) -> Split:
    def expand(text: str) -> str:
        return text.replace("{split}", name)

    def pattern(text: str) -> FilePattern:
        return FilePattern(root, expand(text))

    text = files.images or settings.images
    images = None if text is None else pattern(text)
    labels = tuple(
        LabelFiles(
            pattern(label.files),
            pattern(label.images) if label.images is not None else images or FilePattern(root, "**/*"),
            _build_coding(settings, label),
        )
        for label in files.labels or settings.labels or ()
    )
    source = getattr(settings, "source", None)
    return Split(
        name=name,
        root=root,
        images=images,
        labels=labels,
        lists=tuple(root / expand(item) for item in files.list or settings.list or ()),
        share=share,
        seed=settings.seed,
        frames=settings.frames,
        source=None if source is None else expand(source),
    )


def _build_coding(settings: DatasetSettings, label: DatasetSettings | LabelSettings) -> Coding:
    """Return the coding of label files, whose own values replace the data set's."""
    names = list(settings.classes)
    own = label.values is not None
    keys = label.values if own else settings.values
    mapped = () if own else settings.map
    ignored = label.ignore if label.ignore is not None else settings.ignore
    values = dict[int, int]()
    if keys is not None:
        values = dict(zip(_expand(keys), range(len(names)), strict=True))
    for key, name in mapped:
        if isinstance(key, ValueRange):
            values |= dict.fromkeys(key.values, IGNORE if name == IGNORED else names.index(name))
    if all(number == IGNORE for number in values.values()):
        values = {index: index for index in range(len(names)) if index not in values} | values
    colours = {_pack(colour): index for index, colour in enumerate(settings.classes.values()) if colour is not None}
    colours |= {
        _pack(key): IGNORE if name == IGNORED else names.index(name)
        for key, name in mapped
        if not isinstance(key, ValueRange)
    }
    for key in (ValueRange(IGNORE, IGNORE),) if ignored is None else ignored:
        if isinstance(key, ValueRange):
            values |= {value: IGNORE for value in key.values if ignored is not None or value not in values}
        else:
            colours[_pack(key)] = IGNORE
    meaning = label.meaning or (None if own else settings.meaning) or _describe_coding(settings, values)
    return Coding(meaning, values, colours, settings.kind)


def _describe_coding(settings: DatasetSettings, values: Mapping[int, int]) -> str:
    """Return the name of label values in messages."""
    kinds = [f"label values {format_values(values)}"] if settings.kind in (None, "indices") else []
    if settings.kind != "indices" and None not in settings.classes.values():
        kinds.append("the colours of the classes")
    return " or ".join(kinds)


def _expand(keys: Sequence[LabelKey]) -> list[int]:
    """Return the label values of a sequence of ranges."""
    return [value for key in keys if isinstance(key, ValueRange) for value in key.values]


def _pack(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
