"""Signs that labels have other values than their coding says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...models.images import read_pixels
from .codings.coding import Coding
from .codings.raw import RawLabel
from .labels import IGNORE
from .pairs import Pair
from .reading import read_classes

MOSTLY, NEARLY_ALL = 0.5, 0.95
"""Shares of ignored pixels from which labels are suspicious: of values that are all train ids, and of any."""
MIXED_SHARE, MIN_BORDERS = 0.12, 100
"""Share of border pixels from which values between two others are suspicious, and number of such pixels.

Labels of CamVid have 0.5 %, 3 % at an eighth of their size, but at least 22 % after interpolation or as JPEG.
"""
MIN_IGNORED_IDS = 3
"""Number of ignored values, apart from 255, in labels of train ids."""
MAX_NAMED_CLASSES = 5
"""Number of classes in a message."""

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class LabelSummary:
    """Values of a label.

    Attributes:
        path: The file.
        coding: Meaning of the values.
        values: Values of a label with one channel; empty for colours.
        pixels: Number of pixels.
        ignored: Number of ignored pixels.
        borders: Number of pixels of one channel whose neighbours differ from each other.
        mixtures: Number of those whose value is between their neighbours'.
        note: Assumption under which it was read; empty for none.
    """

    path: Path
    coding: Coding
    values: tuple[int, ...]
    pixels: int
    ignored: int
    borders: int = 0
    mixtures: int = 0
    note: str = ""

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels."""
        return self.ignored / max(self.pixels, 1)


def summarise_label(raw: RawLabel, classes: npt.NDArray[np.int16], coding: Coding) -> LabelSummary:
    """Return the values of a label whose palette is resolved, and whose classes are known."""
    values = () if raw.is_coloured else tuple(np.unique(raw.values).tolist())
    borders, mixtures = (0, 0) if raw.is_coloured else _count_mixtures(raw.values)
    ignored = int((classes == IGNORE).sum())
    return LabelSummary(raw.path, coding, values, classes.size, ignored, borders, mixtures, raw.note)


def _count_mixtures(values: npt.NDArray[np.integer]) -> tuple[int, int]:
    """Return how many pixels have a left and right, or upper and lower, neighbour that differ, and lie between them."""
    borders = mixtures = 0
    for part in (values, values.T):
        first, middle, last = part[:, :-2], part[:, 1:-1], part[:, 2:]
        borders += int((first != last).sum())
        mixtures += int((((first < middle) & (middle < last)) | ((first > middle) & (middle > last))).sum())
    return borders, mixtures


def read_summary(pair: Pair) -> LabelSummary:
    """Return the values of the label of an image, which has one.

    Raises:
        DataError: The file cannot be read.
    """
    assert pair.label is not None
    return summarise_label(*read_classes(pair.label, pair.coding, pair.image), pair.coding)


def group_labels(labels: Iterable[LabelSummary]) -> list[list[LabelSummary]]:
    """Return labels in groups that share a coding, whatever their splits."""
    groups = dict[object, list[LabelSummary]]()
    for label in labels:
        groups.setdefault(label.coding.key, []).append(label)
    return [*groups.values()]


def list_suspicions(labels: Sequence[LabelSummary], num_classes: int) -> list[str]:
    """Return signs that labels with one coding, those of a split, have other values than it says.

    Labels whose values are all train ids, 0..(num_classes - 1) and 255, are suspicious if the coding ignores most of
    the pixels, together or in a part of the files; but few values, all ignored, are placeholders of test labels. So are
    labels of 0 and 255 that ignore 255, and labels of any values if nearly all is ignored.
    """
    if not labels:
        return []
    seen = {value for label in labels for value in label.values}
    name, share = labels[0].coding.name, _share_ignored(labels)
    if seen == {0, IGNORE} and share > 0:
        return [
            "its labels hold 0 and 255 only, and 255 is ignored; if it is a class, write `values: [0, 255]` and "
            "`ignore: []` into the dataset.yaml"
        ]
    if sources := list_sources(labels, num_classes):
        return sources
    train_ids, ids = {*range(num_classes), IGNORE}, seen - {IGNORE}
    are_placeholders = share == 1 and 2 * len(ids) < num_classes
    if len(ids) >= MIN_IGNORED_IDS and not are_placeholders and seen <= train_ids and share > MOSTLY:
        return [
            f"its labels hold 0-{num_classes - 1} and 255 only, as train ids do, but are read as {name}: "
            f"{100 * share:.0f} % of the pixels are ignored; train ids need `values: 0-{num_classes - 1}` and "
            "`ignore: 255` in a dataset.yaml (docs/datasets.md)"
        ]
    if are_placeholders:
        return [
            f"100 % of the pixels of its labels are ignored, read as {name}: labels of test images may be "
            "placeholders, which give no score"
        ]
    part = [label for label in labels if {*label.values} <= train_ids and _looks_like_train_ids(label)]
    if part:
        share = _share_ignored(part)
        return [
            f"{len(part)} of {len(labels)} labels, e.g. {part[0].path}, hold 0-{num_classes - 1} and 255 only, as "
            f"train ids do, but are read as {name}: {100 * share:.0f} % of their pixels are ignored; bring the labels "
            "into one form"
        ]
    if share > NEARLY_ALL:
        return [f"{100 * share:.0f} % of the pixels of its labels are ignored, read as {name}"]
    return []


def list_sources(labels: Sequence[LabelSummary], num_classes: int) -> list[str]:
    """Return a sign that masks of two classes have two forms, e.g. 0 and 255 in some files, 0 and 1 in the others.

    Some hold a class and an ignored value, which others, of the second class, do not have.
    """
    meaning = {value: label.coding.values.get(value) for label in labels for value in label.values}
    ignored = [value for value, index in meaning.items() if index == IGNORE]
    if num_classes != 2 or len(ignored) != 1:
        return []
    masks = [label for label in labels if ignored[0] in label.values and len(label.values) > 1]
    classes = {meaning[value] for label in masks for value in label.values} - {IGNORE}
    others = [label for label in labels if {meaning[value] for value in label.values} - classes - {IGNORE}]
    if len(classes) != 1 or not others:
        return []
    forms = [sorted({value for label in part for value in label.values}) for part in (masks, others)]
    first, second = (" and ".join(map(str, values)) for values in forms)
    return [
        f"{len(masks)} of {len(labels)} labels, e.g. {masks[0].path}, hold {first}, the others {second}, and "
        f"{ignored[0]} is ignored; if it is one of their classes, bring the labels into one form"
    ]


def list_notes(labels: Sequence[LabelSummary]) -> list[str]:
    """Return the assumptions under which labels were read, each with their number."""
    return count_remarks(((label.note, label.path) for label in labels if label.note), len(labels), "labels")


def count_remarks(remarks: Iterable[tuple[str, Path]], total: int, noun: str) -> list[str]:
    """Return remarks on files, those that differ in numbers only as one, with the number of files and the first."""
    groups = dict[str, list[tuple[str, Path]]]()
    for text, path in remarks:
        groups.setdefault(_NUMBER.sub("", text), []).append((text, path))
    return [f"{len(group)} of {total} {noun}, e.g. {group[0][1]}: {group[0][0]}" for group in groups.values()]


def read_image_remarks(path: Path) -> list[tuple[str, Path]]:
    """Return the remarks on an image, each with its path; none if it cannot be read, which is reported elsewhere."""
    remarks = list[tuple[str, Path]]()
    with suppress(DataError):
        read_pixels(path, on_remark=lambda text: remarks.append((text, path)))
    return remarks


def list_mixtures(labels: Sequence[LabelSummary]) -> list[str]:
    """Return a sign that labels were resized or compressed: at borders, values between those of both sides."""
    borders, mixtures = (sum(getattr(label, name) for label in labels) for name in ("borders", "mixtures"))
    if borders < MIN_BORDERS or mixtures < MIXED_SHARE * borders:
        return []
    return [
        f"{100 * mixtures / borders:.0f} % of the borders in its labels have values between those of both sides, as "
        "resizing or compression make them: resize labels without interpolation (nearest), and save them as PNG"
    ]


def _share_ignored(labels: Sequence[LabelSummary]) -> float:
    return sum(label.ignored for label in labels) / max(sum(label.pixels for label in labels), 1)


def _looks_like_train_ids(label: LabelSummary) -> bool:
    """Return True if several values of a single label are ignored, and most of its pixels."""
    ignored = [value for value in label.values if value != IGNORE and label.coding.values.get(value) == IGNORE]
    return label.ignored_share > MOSTLY and len(ignored) >= MIN_IGNORED_IDS


def list_few_classes(labels: Sequence[LabelSummary], classes: Sequence[str]) -> list[str]:
    """Return a sign that labels in a known layout are of classes of the user's own.

    These are few, and their values are consecutive; the classes that a few images of a known dataset show are not.
    """
    known = set[int]()
    for group in group_labels(labels):
        values = {
            value: index
            for label in group
            for value in label.values
            if (index := label.coding.values.get(value, IGNORE)) != IGNORE
        }
        if values and max(values) - min(values) >= len(values):
            return []
        known.update(values.values())
    seen = sorted(known)
    if not seen or 2 * len(seen) >= len(classes):
        return []
    names = [classes[index] for index in seen[:MAX_NAMED_CLASSES]] + ["..."] * (len(seen) > MAX_NAMED_CLASSES)
    return [
        f"only {len(seen)} of {len(classes)} classes occur in the {len(labels)} labels read ({', '.join(names)}): if "
        "these are classes of your own, write a dataset.yaml (docs/datasets.md)"
    ]
