"""Datasets without a description: a folder of images and one of labels, whose values are collected.

The result is the content of a `dataset.yaml`, for the user to edit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...errors import DataError
from .labels import IGNORE
from .pairs import LabelFiles, Split
from .patterns import FilePattern
from .reading import GREY_PALETTE, Coding, RawLabel, is_trivial_palette, read_raw_label, unpack_colour
from .schema import MAX_CLASSES, MIN_CLASSES, format_values

IMAGES = "images"
LABELS = ("labels", "masks", "annotations")
"""Names of the folder of labels."""
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LABEL_ENDINGS = ("annot", "_labels")
"""Endings of the folder of a split's labels, next to that of its images, as in SegNet's layout of CamVid."""
"""Name of a split -> names of its folder or list."""
LIST_FILES = ("{}.txt", "{}.lst", "lists/{}.txt", "lists/{}.lst", "list/{}.txt", "splits/{}.txt")
TRAIN_SHARE = 0.8
"""Share of the training images where nothing splits them."""
MAX_LIKELY = 64
"""Number of classes above which labels may have been resized or compressed."""
MAX_COMPARED = 100
"""Number of images whose names are compared with those of the labels."""
_NO_CODING = Coding("labels of unknown meaning", {}, {})


@dataclass(frozen=True)
class FolderDescription:
    """Content of a folder of images and labels.

    Attributes:
        content: Content of a `dataset.yaml`, without `root`.
        labels: Number of labels.
        notes: Assumptions, a line each.
    """

    content: Mapping[str, Any]
    labels: int
    notes: tuple[str, ...]

    def format(self, root: str) -> str:
        """Return the text of a `dataset.yaml` for the folder `root`."""
        head = (
            f"# Collected from {self.labels} labels. Edit the class names, and use --data THIS_FILE: docs/datasets.md\n"
        )
        fields = {"name": self.content["name"], "root": root, **self.content}
        return head + yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


@dataclass(frozen=True)
class _Source:
    """Files of a split, as patterns relative to the dataset's folder."""

    images: str
    labels: str
    list: str | None = None
    share: tuple[float, float] | None = None

    def open(self, root: Path, name: str) -> Split:
        images = FilePattern(root, self.images)
        labels = (LabelFiles(FilePattern(root, self.labels), images, _NO_CODING),)
        lists = () if self.list is None else (root / self.list,)
        return Split(name, root, images, labels, lists, self.share)

    def as_dict(self) -> dict[str, str]:
        fields = {"images": self.images, "labels": self.labels}
        return fields if self.list is None else {**fields, "list": self.list}


def describe_folder(root: Path) -> FolderDescription | None:
    """Describe a folder with `images/` and `labels/` (or `masks/`, `annotations/`); None if it has no such folders.

    Splits are sub-folders, either of these two or around them, or list files; or folders such as `train/` and
    `trainannot/`. Every label is read.

    Raises:
        DataError: There are several folders of labels, an image has no label, or the values cannot be classes.
    """
    sources = _find_sources(root)
    if not sources:
        return None
    notes = list[str]()
    for split, source in sources.items():
        sources[split], unused = _complete_labels(root, source)
        notes += [f"{split}: {', '.join(unused)} in {source.labels}/ are not read as labels"] if unused else []
    pairs = {split: source.open(root, split).pairs() for split, source in sources.items()}
    labels = sorted({pair.label for part in pairs.values() for pair in part if pair.label is not None})
    if not labels:
        raise DataError(f"{root} has no image with a label in {next(iter(sources.values())).labels}")
    stats = [(path, path.stat()) for path in labels]
    collected = _collect(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))
    name = re.sub(r"[^\w.+ -]", "-", root.resolve().name) or "dataset"
    counts = ", ".join(f"{split} {len(part)}" for split, part in pairs.items())
    first = sources[next(iter(sources))]
    if first.labels.startswith(first.images):
        notes.append(
            "the folders are those of SegNet's CamVid, the names of the images are not: if these are CamVid's classes, "
            "write a dataset.yaml with `extends: camvid-segnet`"
        )
    fields: dict[str, Any] = {"splits": {split: source.as_dict() for split, source in sources.items()}}
    if first.share is not None:
        train = round(100 * TRAIN_SHARE)
        notes.append(f"there are no splits: train is {train} % of the images, val {100 - train} %, drawn by seed 0")
        shares = {split: source.share for split, source in sources.items() if source.share is not None}
        fields = {**first.as_dict(), "seed": 0}
        fields["splits"] = {split: {"share": round(end - start, 6)} for split, (start, end) in shares.items()}
    understood = f"{collected.summary}; images: {counts}"
    lines = [f"{name}: {note}" for note in (understood, *collected.notes, *notes)]
    return FolderDescription({"name": name, **fields, **collected.fields}, len(labels), tuple(lines))


def _find_sources(root: Path) -> dict[str, _Source]:
    """Return the splits of a folder; empty if it has no folders of images and labels."""
    around = {
        split: folder
        for split, folders in SPLIT_FOLDERS.items()
        for folder in folders
        if (root / folder / IMAGES).is_dir() and _find_labels(root / folder)
    }
    if around:
        return {
            split: _Source(f"{folder}/{IMAGES}", f"{folder}/{_find_labels(root / folder)}")
            for split, folder in around.items()
        }
    names = [(split, name) for split, names in SPLIT_FOLDERS.items() for name in names]
    labels = _find_labels(root)
    if labels is None or not (root / IMAGES).is_dir():
        return {
            split: _Source(name, f"{name}{ending}")
            for split, name in names
            for ending in LABEL_ENDINGS
            if (root / name).is_dir() and (root / f"{name}{ending}").is_dir()
        }
    lists = {split: form.format(name) for split, name in names for form in LIST_FILES if _is_file(root, form, name)}
    if lists:
        return {split: _Source(IMAGES, labels, list=path) for split, path in lists.items()}
    inside = {split: name for split, name in names if (root / IMAGES / name).is_dir()}
    if inside:
        split_labels = any((root / labels / name).is_dir() for name in inside.values())
        return {
            split: _Source(f"{IMAGES}/{name}", f"{labels}/{name}" if split_labels else labels)
            for split, name in inside.items()
        }
    return {
        "train": _Source(IMAGES, labels, share=(0.0, TRAIN_SHARE)),
        "val": _Source(IMAGES, labels, share=(TRAIN_SHARE, 1.0)),
    }


def _is_file(root: Path, form: str, name: str) -> bool:
    return (root / form.format(name)).is_file()


def _find_labels(root: Path) -> str | None:
    """Return the name of the folder of labels.

    Raises:
        DataError: There are several.
    """
    names = [name for name in LABELS if (root / name).is_dir()]
    if len(names) > 1 and (root / IMAGES).is_dir():
        raise DataError(f"{root} has {'/ and '.join(names)}/: write a dataset.yaml that chooses one")
    return names[0] if names else None


def _complete_labels(root: Path, source: _Source) -> tuple[_Source, list[str]]:
    """Return a source with the ending of its labels' names, e.g. `_mask.png`, and the other endings."""
    images = FilePattern(root, source.images).list_files()[:MAX_COMPARED]
    labels = FilePattern(root, source.labels).list_files()
    endings = Counter[str]()
    for image in images:
        # `a1` is no label of `a`.
        endings.update(
            {
                label.name[len(image.stem) :]
                for label in labels
                if label.name.startswith(image.stem) and not label.name[len(image.stem)].isalnum()
            }
        )
    ranking = sorted(endings, key=lambda ending: (-endings[ending], len(ending), ending))
    if not ranking:
        return source, []
    ending = ranking[0]
    unused = [f"*{other}" for other in ranking[1:] if endings[other] == len(images)]
    if re.fullmatch(r"\.\w+", ending):
        return source, unused
    return replace(source, labels=f"{source.labels}/**/*{ending}"), unused


@dataclass(frozen=True)
class _Collected:
    """Classes of all labels: fields of a `dataset.yaml`, what was seen, and assumptions."""

    fields: dict[str, Any]
    summary: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """Values of a label file, and the colour of each in palette mode."""

    path: Path
    is_coloured: bool
    values: dict[int, int]
    palette: dict[int, int] | None


def _summarise(path: Path) -> _Content:
    raw = read_raw_label(path)
    values, counts = np.unique(raw.values, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return _Content(path, raw.is_coloured, pixels, _list_palette(raw, pixels))


def _list_palette(raw: RawLabel, values: Iterable[int]) -> dict[int, int] | None:
    """Return the colour of each value; None without a palette that says something."""
    if raw.palette is None or is_trivial_palette(raw.palette, np.array([*values])):
        return None
    if max(values) >= len(raw.palette):
        raise DataError(f"{raw.path} contains the value {max(values)}, its palette only {len(raw.palette)} colours")
    return {value: int(raw.palette[value]) for value in values}


@lru_cache(maxsize=8)
def _collect(files: tuple[tuple[Path, int, int], ...]) -> _Collected:
    """Return the classes of all labels; files have sizes and times, so that changed ones are read again.

    Raises:
        DataError: A label cannot be read, or the values cannot be classes.
    """
    paths = [path for path, *_ in files]
    for path in paths:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise DataError(f"{path} is a JPEG file, whose compression alters label values: convert the labels to PNG")
    with ThreadPoolExecutor() as pool:
        contents = list(pool.map(_summarise, paths))
    palette = _merge_palettes(contents)
    if palette is None:
        contents = [_as_colours(content) for content in contents]
    kinds = {content.is_coloured: content.path for content in contents}
    if len(kinds) > 1:
        raise DataError(f"{kinds[True]} holds colours, {kinds[False]} indices: bring the labels into one form")
    pixels = Counter[int]()
    for content in contents:
        pixels.update(content.values)
    by_colour = contents[0].is_coloured
    if len(pixels) > MAX_CLASSES + (not by_colour):
        noun = "colours" if by_colour else "values"
        raise DataError(f"{paths[0].parent} has labels of {len(pixels)} {noun}, more than {MAX_CLASSES} classes")
    return _number_colours(pixels, paths) if by_colour else _number_values(pixels, palette or {}, paths)


def _merge_palettes(contents: Iterable[_Content]) -> dict[int, int] | None:
    """Return the colour of each value, which is empty without palettes; None if labels must be read by colour.

    Raises:
        DataError: Some labels have palettes of greys in another order than the values of the others.
    """
    merged = dict[int, int]()
    for content in contents:
        if content.is_coloured and any(other.palette is not None for other in contents):
            return None
        for value, colour in (content.palette or {}).items():
            if merged.setdefault(value, colour) != colour:
                return None
    plain = [content.path for content in contents if content.palette is None]
    greys = {value: value * GREY_PALETTE[1] for value in merged}
    if plain and merged != greys and not any(colour % GREY_PALETTE[1] for colour in merged.values()):
        path = next(content.path for content in contents if content.palette is not None)
        raise DataError(
            f"{path} has a palette of greys that are not its values, {plain[0]} has none: convert the labels"
        )
    return merged if len(set(merged.values())) == len(merged) else {}


def _as_colours(content: _Content) -> _Content:
    """Return a label in palette mode as colours."""
    if content.palette is None:
        return content
    if len({*content.palette.values()}) < len(content.palette):
        raise DataError(f"the palettes of the labels differ, and that of {content.path} has a colour of several values")
    pixels = Counter[int]()
    for value, count in content.values.items():
        pixels[content.palette[value]] += count
    return _Content(content.path, True, dict(pixels), None)


def _number_colours(pixels: Mapping[int, int], paths: list[Path]) -> _Collected:
    colours = [unpack_colour(code) for code in sorted(pixels)]
    _require_several(colours, paths)
    notes = ["no colour is ignored: move void colours to `ignore`"]
    if len(colours) > 2 and all(len({*colour}) == 1 for colour in colours):
        notes.append("all colours are grey: if they are indices, save the labels with one channel")
    classes = {f"class {index}": list(colour) for index, colour in enumerate(colours)}
    return _Collected(
        {"kind": "colours", "classes": classes},
        f"{len(colours)} classes by colour, in order of red, green and blue, in {len(paths)} labels",
        (*notes, *_note_number(len(colours))),
    )


def _number_values(pixels: Mapping[int, int], palette: Mapping[int, int], paths: list[Path]) -> _Collected:
    values = sorted(pixels)
    ignored = IGNORE in values and values != [0, IGNORE]
    classes = [value for value in values if not (ignored and value == IGNORE)]
    _require_several(classes, paths)
    names = [f"class {index}" for index in range(len(classes))]
    coloured = all(value in palette for value in classes)
    fields: dict[str, Any] = {
        "kind": "indices",
        "classes": {name: list(unpack_colour(palette[value])) for name, value in zip(names, classes, strict=True)}
        if coloured
        else names,
        "values": classes,
        "ignore": [IGNORE] if ignored else [],
    }
    summary = f"{len(classes)} classes of label values {format_values(classes)} in {len(paths)} labels"
    notes = _note_number(len(classes))
    if ignored:
        share = 100 * pixels[IGNORE] / sum(pixels.values())
        notes.append(f"label value 255 is ignored, {share:.1f} % of the pixels")
    return _Collected(fields, summary, tuple(notes))


def _note_number(classes: int) -> list[str]:
    """Return a remark on an unlikely number of classes."""
    return [] if classes <= MAX_LIKELY else ["an unlikely number of classes: were the labels resized or compressed?"]


def _require_several(classes: list[Any], paths: list[Path]) -> None:
    if len(classes) < MIN_CLASSES:
        raise DataError(
            f"all {len(paths)} labels in {paths[0].parent} have a single class ({classes[0]}): a data set needs 2"
        )
