"""Signs that labels have other values than their coding says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .labels import IGNORE
from .pairs import Pair
from .reading import Coding, RawLabel, read_classes

MOSTLY, NEARLY_ALL = 0.5, 0.95
"""Shares of ignored pixels from which labels are suspicious: of values that are all train ids, and of any."""
MIN_IGNORED_IDS = 3
"""Number of ignored values, apart from 255, in labels of train ids; those of Cityscapes' test images have two."""
MAX_NAMED_CLASSES = 5
"""Number of classes in a message."""


@dataclass(frozen=True)
class LabelSummary:
    """Values of a label.

    Attributes:
        path: The file.
        coding: Meaning of the values.
        values: Values of a label with one channel; empty for colours.
        pixels: Number of pixels.
        ignored: Number of ignored pixels.
    """

    path: Path
    coding: Coding
    values: tuple[int, ...]
    pixels: int
    ignored: int

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels."""
        return self.ignored / max(self.pixels, 1)


def summarise_label(raw: RawLabel, classes: npt.NDArray[np.int16], coding: Coding) -> LabelSummary:
    """Return the values of a label whose palette is resolved, and whose classes are known."""
    values = () if raw.is_coloured else tuple(np.unique(raw.values).tolist())
    return LabelSummary(raw.path, coding, values, classes.size, int((classes == IGNORE).sum()))


def read_summary(pair: Pair) -> LabelSummary:
    """Return the values of the label of an image, which has one.

    Raises:
        DataError: The file cannot be read.
    """
    assert pair.label is not None
    return summarise_label(*read_classes(pair.label, pair.coding, pair.image), pair.coding)


def list_suspicions(labels: Sequence[LabelSummary], num_classes: int) -> list[str]:
    """Return signs that the labels of a split have other values than their coding says.

    Labels whose values are all train ids, 0..(num_classes - 1) and 255, are suspicious if the coding ignores most of
    the pixels, together or in a part of the files. So are labels of 0 and 255 that ignore 255, and labels of any values
    if nearly all is ignored.
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
    train_ids = {*range(num_classes), IGNORE}
    if len(seen - {IGNORE}) >= MIN_IGNORED_IDS and seen <= train_ids and share > MOSTLY:
        return [
            f"its labels hold 0-{num_classes - 1} and 255 only, as train ids do, but are read as {name}: "
            f"{100 * share:.0f} % of the pixels are ignored; train ids need `values: 0-{num_classes - 1}` and "
            "`ignore: 255` in a dataset.yaml (docs/datasets.md)"
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
    known = {
        value: index
        for label in labels
        for value in label.values
        if (index := label.coding.values.get(value, IGNORE)) != IGNORE
    }
    seen = sorted(known)
    if not seen or 2 * len(seen) >= len(classes) or seen[-1] - seen[0] >= len(seen):
        return []
    names = [classes[known[value]] for value in seen[:MAX_NAMED_CLASSES]] + ["..."] * (len(seen) > MAX_NAMED_CLASSES)
    return [
        f"only {len(seen)} of {len(classes)} classes occur in the {len(labels)} labels read ({', '.join(names)}): if "
        "these are classes of your own, write a dataset.yaml (docs/datasets.md)"
    ]
