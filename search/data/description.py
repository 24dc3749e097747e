"""Description of a dataset: its files, splits and classes, and the meaning of its label values."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, FileFormatError, LgcError, OutputError, UnknownNameError
from ...files import read_text, write_atomic
from ...models.image_folders import resolve_files
from ...models.images import IMAGENET, Normalisation
from ...models.palettes import Palette, distinct_palette
from ...models.space.settings import validate
from ...yaml_text import parse_yaml
from .codings.build import build_coding, choose_values
from .codings.coding import Coding
from .codings.evidence import gather_evidence
from .folders.describe import FolderDescription, describe_folder
from .folders.unread import MASKS_HINT, YOLO_FIELDS, describe_left_out, describe_loose_files
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
from .schema import (
    DatasetSettings,
    LayoutSettings,
    SplitSettings,
    subtract_keys,
)
from .suspicions import (
    LabelSummary,
    count_remarks,
    group_labels,
    list_few_classes,
    list_mixtures,
    list_notes,
    list_sources,
    list_suspicions,
    read_image_remarks,
    read_summary,
)

if TYPE_CHECKING:
    from pydantic import JsonValue

DATASET_FILES = ("dataset.yaml", "dataset.yml")
"""Description that a dataset's folder may contain."""
MAX_SAMPLED_LABELS = 8
"""Number of labels of each split that `DatasetSpec.remarks` reads."""
MAX_DECODED = 4
"""Number of its images that it decodes."""
MAX_NAMES = 8
"""Number of classes in `DatasetSpec.summary`."""
UNION_SPLIT, UNITED_SPLITS = "trainval", frozenset({"train", "val"})
"""Split that has the images of two others."""
SPLIT_HINT = (
    "declare it in a dataset.yaml, with files of its own or a share of the images, e.g. "
    "`splits: {train: {share: 0.8}, val: {share: 0.2}}` (docs/datasets.md)"
)
"""Way out for a split that a dataset does not have."""
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
        values: Split -> label value of each class in prediction files.
        predictions: Kind of prediction files, `indices` or `colours`; None for that of the label files.
        prediction_name: Name of a prediction's file with `{stem}` for the image's stem; None for the label's name.
        own_splits: Names of the splits that its own description has, which must have images.
        digest: Hash of the description, 12 hexadecimal digits; empty for a known layout.
        origin: Where the classes come from, for messages.
        notes: Assumptions that the description rests on, a line each.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    palette: Palette
    normalisation: Normalisation
    splits: Mapping[str, Split]
    values: Mapping[str, tuple[int, ...]]
    predictions: str | None = "indices"
    prediction_name: str | None = None
    own_splits: tuple[str, ...] = ()
    digest: str = ""
    origin: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Settings that identify the dataset in a run folder, besides its path; none for a known layout."""
        return {"dataset": self.digest} if self.digest else {}

    @property
    def summary(self) -> str:
        """Line that says what the dataset is understood as, to print before it is used."""
        counts = ", ".join(f"{name} {len(pairs)}" for name, pairs in self.matched.items() if pairs)
        return f"{self.name}: {self.num_classes} classes {self.origin}; images: {counts or 'none'}"

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """Lines to print before the dataset is used: assumptions, and what looks wrong."""
        labelled = {split: [pair for pair in pairs if pair.label is not None] for split, pairs in self.matched.items()}
        texts = list[str]()
        with ThreadPoolExecutor() as pool:
            labels = {
                split: [*filter(None, pool.map(_try_summary, _choose_pairs(pairs, MAX_SAMPLED_LABELS)))]
                for split, pairs in labelled.items()
            }
            for split, pairs in self.matched.items():
                images = [pair.image for pair in _choose_pairs(pairs, MAX_DECODED)]
                remarks = chain.from_iterable(pool.map(read_image_remarks, images))
                missing = self.splits[split].describe_missing()
                parts = [*([] if missing is None else [missing]), *count_remarks(remarks, len(images), "images read")]
                texts += [f"warning: {self.name}: {split}: {text}" for text in parts]
        doubts = (*self._list_repeats(), *self._list_overlaps(), *self.list_suspicions(labels))
        return (*self.notes, *self.list_left_out(), *texts, *doubts)

    def list_left_out(self) -> list[str]:
        """Return a warning for each kind of files that look like images, but are not read, see `describe_left_out`."""
        pairs = [pair for part in self.matched.values() for pair in part]
        used = {path.with_suffix("") for pair in pairs for path in (pair.image, pair.label) if path is not None}
        splits = [self.splits[name] for name in self.matched]
        patterns = {s.images.text: s.images for s in splits if s.images is not None and s.listing is None}
        notes = [text for split in splits for text in split.notes]
        texts = [*notes, *(text for pattern in patterns.values() for text in describe_left_out(pattern, used))]
        return [f"warning: {self.name}: {text}" for text in dict.fromkeys(texts)]

    def list_suspicions(self, labels: Mapping[str, Sequence[LabelSummary]]) -> list[str]:
        """Return a warning for each sign that labels, split by split, have other values or turns than expected."""
        together = [label for part in labels.values() for label in part]
        suspicions = {
            split: [text for group in group_labels(part) for text in list_suspicions(group, self.num_classes)]
            for split, part in labels.items()
        }
        texts = [
            f"{split}: {text}"
            for split, part in labels.items()
            for text in (*suspicions[split], *list_mixtures(part), *list_notes(part))
        ]
        if not any(suspicions.values()):
            texts += [text for group in group_labels(together) for text in list_sources(group, self.num_classes)]
        if not (texts or self.digest):
            texts += list_few_classes(together, self.classes)
        pairs = [pair for part in self.matched.values() for pair in part if pair.label is not None]
        texts += list_doubtful_turns(pairs[:: len(pairs) // MAX_HEADERS + 1])
        return [f"warning: {self.name}: {text}" for text in texts]

    def _list_overlaps(self) -> list[str]:
        """Return a warning for each two splits that have images in common."""
        texts = list[str]()
        for a, b in combinations(self._real_images, 2):
            images, others = self._real_images[a], self._real_images[b]
            common = images.keys() & others.keys() if is_overlap((a, b)) else ()
            if common:
                image, other = min((images[path][0], others[path][0]) for path in common)
                same = "" if image == other else f", the file of {other}"
                texts.append(f"warning: {self.name}: images in both {a} and {b}: {len(common)}, e.g. {image}{same}")
        return texts

    def _list_repeats(self) -> list[str]:
        """Return a warning for each split with images that are one file, by links."""
        repeats = {
            split: [paths for paths in images.values() if len(paths) > 1] for split, images in self._real_images.items()
        }
        return [
            f"warning: {self.name}: {split}: files that are several images, by links: {len(files)}, e.g. that of "
            f"{files[0][0]} and {files[0][1]}"
            for split, files in repeats.items()
            if files
        ]

    @cached_property
    def _real_images(self) -> dict[str, dict[Path, list[Path]]]:
        """Split -> real path of each image -> the image, and further ones that links make of the file."""
        images = {split: sorted({pair.image for pair in pairs}) for split, pairs in self.matched.items()}
        files = resolve_files({*chain.from_iterable(images.values())})
        real = {split: defaultdict[Path, list[Path]](list) for split in images}
        for split, paths in images.items():
            for path in paths:
                real[split][files[path]].append(path)
        return {split: dict(paths) for split, paths in real.items()}

    @cached_property
    def matched(self) -> dict[str, list[Pair]]:
        """Images of each split, perhaps without labels; errors are reported where a split is used."""
        matched = self._files
        return {
            name: [replace(pair, coding=self.codings[pair.coding]) for pair in pairs] for name, pairs in matched.items()
        }

    @cached_property
    def _files(self) -> dict[str, list[Pair]]:
        """Images of each split, whose codings have no evidence yet."""
        files = dict[str, list[Pair]]()
        for name, split in self.splits.items():
            with suppress(LgcError, OSError):
                files[name] = [pair for pair, _ in split.matches]
        return files

    @cached_property
    def codings(self) -> dict[Coding, Coding]:
        """Coding of each split's label files -> the same with their evidence, which is read once."""
        paths = {files.coding: set[Path]() for split in self.splits.values() for files in split.labels}
        for pair in chain.from_iterable(self._files.values()):
            if pair.label is not None:
                paths[pair.coding].add(pair.label)
        return gather_evidence({coding: sorted(labels) for coding, labels in paths.items()})

    def pairs(self, split: str) -> list[Pair]:
        """Return the images and labels of a split, in the order of its list or sorted by path.

        Raises:
            UnknownNameError: There is no such split.
            DataError: The split has no images, a list has an error, an image has no label, or its label is also that of
                another split's image.
        """
        if split not in self.splits:
            raise UnknownNameError("split", split, self.splits, SPLIT_HINT)
        try:
            require_pairs(self.splits[split].pairs(), self.splits[split], self.splits.values())
            self.splits[split].require_own_labels(self.splits.values())
            return self.matched[split]
        except OSError as error:
            raise DataError(f"cannot read the dataset folder {self.root}: {error}") from error


def is_overlap(splits: Collection[str]) -> bool:
    """Return True if splits should have no image in common: train and val are parts of `UNION_SPLIT`."""
    others = {*splits} - {UNION_SPLIT}
    return len(others) > 1 or (UNION_SPLIT in splits and bool(others - UNITED_SPLITS))


def _choose_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return up to `count` pairs, drawn at random, always the same."""
    order = np.random.default_rng(0).permutation(len(pairs))[:count]
    return [pairs[index] for index in sorted(order.tolist())]


def _try_summary(pair: Pair) -> LabelSummary | None:
    """Return the values of a label; None if it cannot be read, which is reported where it is used."""
    try:
        return read_summary(pair)
    except DataError:
        return None


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
    files = [path / name for name in DATASET_FILES if (path / name).is_file()]
    if len(files) > 1:
        raise DataError(f"{path} has {' and '.join(DATASET_FILES)}: remove one, or pass it as --data")
    if files:
        return _read_description(files[0])
    entries = list_entries(path)
    detected = detect_layout(path)
    if detected is not None:
        name, base = detected
        layout = load_layout(name)
        origin = f"of the known layout {name}, recognised by its files ({_name_classes(layout)})"
        return build_spec(layout, base, origin=origin, notes=_note_descriptions(path))
    folder = describe_folder(path)
    if folder is not None:
        return _open_folder(path, folder)
    more = f" and {len(entries) - MAX_SHOWN} more" if len(entries) > MAX_SHOWN else ""
    raise UnknownLayoutError(
        f"{path} has no known layout, nor images/ with labels/: "
        f"{describe_loose_files(path) or 'write a dataset.yaml (docs/datasets.md)'}; "
        f"{describe_layouts(path)}; the folder has {', '.join(entries[:MAX_SHOWN])}{more}"
    )


def _name_classes(settings: DatasetSettings) -> str:
    """Return the names of the first classes."""
    return ", ".join([*settings.classes][:MAX_NAMES]) + ", ..." * (len(settings.classes) > MAX_NAMES)


def _note_descriptions(path: Path) -> list[str]:
    """Return a note on the YAML files in a folder without a description."""
    names = sorted(file.name for file in path.iterdir() if file.suffix.lower() in YAML_SUFFIXES[:2])
    return [f"{path} has {', '.join(names)}, not read: a description is called {DATASET_FILES[0]}"] if names else []


def complete_description(content: object, origin: str) -> dict[str, Any]:
    """Return the content of a `dataset.yaml`, completed by the known layout that it extends.

    The layout's `ignore` does not hold for what is in its own `values` or `map`.

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
    if kept.get("ignore") is not None:
        with suppress(ValueError, TypeError):  # raised again by the validation
            kept["ignore"] = subtract_keys(kept["ignore"], own.get("values") or [], [*(own.get("map") or ())])
    return {**kept, **own}


def _read_description(path: Path) -> DatasetSpec:
    try:
        content = parse_yaml(read_text(path, "dataset description"))
    except ValueError as error:
        raise FileFormatError(f"cannot read dataset description {path}: {error}") from error
    origin = f"invalid dataset description {path}"
    if isinstance(content, dict) and content.keys() >= YOLO_FIELDS and "splits" not in content:
        raise FileFormatError(f"{origin}: it is YOLO's, whose labels are boxes or polygons: {MASKS_HINT}")
    complete = complete_description(content, origin)
    settings = validate(DatasetSettings, complete, origin)
    own: dict[str, Any] = dict(content) if isinstance(content, dict) else {}
    if "meaning" not in own and any(own.get(name) is not None for name in ("values", "map")):
        settings = settings.model_copy(update={"meaning": None})  # that of the known layout
    root = path.parent / (settings.root or ".")
    if not root.is_dir():
        raise DataError(f"{path}: root: no such folder: {root}")
    if (base := own.get("extends")) is not None:
        layout = load_layout(base)
        fitting = [folder for folder in find_roots(layout, root) if folder != root]
        root = next((folder for folder in fitting if has_files(layout, folder)), root)
    spec = build_spec(settings, root, _hash_content(complete), origin=f"of {path} ({_name_classes(settings)})")
    return replace(spec, own_splits=tuple(spec.splits) if "splits" in own else ())


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
        if not _is_equal(read_text(Path(name), "dataset description"), text):
            raise OutputError(f"{name} differs from the content of {path}: use --data {name}, or remove the file")
    else:
        try:
            write_atomic(Path(name), text)
        except OutputError as error:
            advice = f"{error}, so there is no dataset.yaml to edit"
    settings = validate(DatasetSettings, dict(folder.content), f"invalid dataset {path}")
    notes = (*folder.notes, *_note_descriptions(path), f"{folder.content['name']}: {advice}")
    spec = build_spec(settings, path, _hash_content(folder.content), origin=folder.origin, notes=notes)
    return replace(spec, own_splits=tuple(spec.splits))


def _is_equal(text: str, other: str) -> bool:
    """Return True if two YAML texts have the same content, whatever their comments; the order of classes counts."""
    with suppress(ValueError):
        return repr(parse_yaml(text)) == repr(parse_yaml(other))
    return False


def _hash_content(content: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits of a description's hash; its root does not count."""
    fields = [(name, content[name]) for name in sorted(content) if name != "root"]
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:12]


def build_spec(
    settings: DatasetSettings, root: Path, digest: str = "", *, origin: str = "", notes: Sequence[str] = ()
) -> DatasetSpec:
    """Return the dataset that validated settings describe, in the folder `root`; see `DatasetSpec`."""
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
    return DatasetSpec(
        name=settings.name,
        root=root,
        classes=tuple(settings.classes),
        palette=palette,
        normalisation=IMAGENET if settings.normalisation is None else settings.normalisation.build(),
        splits=splits,
        values={name: choose_values(settings, files) for name, files in settings.splits.items()},
        predictions=settings.predictions.kind or ("indices" if settings.kind == "indices" else None),
        prediction_name=settings.predictions.name,
        digest=digest,
        origin=origin,
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
            build_coding(settings, label),
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
