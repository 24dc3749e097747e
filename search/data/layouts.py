"""Layouts of datasets on disk: detect the layout of a folder and list its images and labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError, UnknownNameError
from ...models.palettes import colourise_labels
from .camvid import LISTS_FOLDERS, ORIGINAL_FOLDERS, has_flat_layout, has_segnet_layout, list_flat, list_segnet
from .cityscapes import has_cityscapes_layout, list_cityscapes
from .labels import (
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    LabelMap,
    train_id_to_id,
)
from .pairs import Pair

SPLIT_NAMES = ("train", "val", "test", "train_extra")

MAX_SHOWN = 6
"""Number of a folder's entries in a message."""


def keep_indices(classes: LabelMap) -> LabelMap:
    """Return `classes` unchanged."""
    return classes


def name_like_label(pair: Pair) -> str:
    """Return the file name of a prediction: that of the label, else of the image, with suffix `.png`."""
    return f"{(pair.label or pair.image).stem}.png"


def name_cityscapes_prediction(pair: Pair) -> str:
    """Return the file name that Cityscapes' scripts expect."""
    return f"{pair.image.stem}_pred.png"


@dataclass(frozen=True)
class Layout:
    """A layout of a dataset on disk.

    Attributes:
        name: Name in results and messages.
        needs: Files that the folder must have, for messages.
        classes: Names of the classes, in the order of their indices.
        palette: Colour of each class, 0..255.
        fits: Function that returns True if a folder has this layout.
        pairs: Function from folder and split to the images and labels of the split.
        encode: Function from classes, uint8 [H, W], to the values of a prediction file.
        prediction_name: Function from a pair to the file name of its prediction.
    """

    name: str
    needs: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    fits: Callable[[Path], bool]
    pairs: Callable[[Path, str], list[Pair]]
    encode: Callable[[LabelMap], npt.NDArray[np.uint8]] = keep_indices
    prediction_name: Callable[[Pair], str] = name_like_label


LAYOUTS: dict[str, Layout] = {}
"""Layout by name, in the order of detection; filled by `register_layout`."""


def register_layout(layout: Layout) -> None:
    """Add a layout to `LAYOUTS`.

    Raises:
        ValueError: The name is already registered.
    """
    if layout.name in LAYOUTS:
        raise ValueError(f"layout {layout.name!r} is already registered")
    LAYOUTS[layout.name] = layout


_CAMVID = partial(Layout, classes=CAMVID_CLASSES, palette=CAMVID_PALETTE)
register_layout(
    Layout(
        name="cityscapes",
        needs="leftImg8bit/ and gtFine/ (or gtCoarse/)",
        classes=CITYSCAPES_CLASSES,
        palette=CITYSCAPES_PALETTE,
        fits=has_cityscapes_layout,
        pairs=list_cityscapes,
        encode=train_id_to_id,
        prediction_name=name_cityscapes_prediction,
    )
)
register_layout(
    _CAMVID(
        name="camvid-segnet",
        needs="train/ and trainannot/",
        fits=has_segnet_layout,
        pairs=list_segnet,
    )
)
register_layout(
    _CAMVID(
        name="camvid",
        needs="701_StillsRaw_full/ and LabeledApproved_full/",
        fits=partial(has_flat_layout, folders=ORIGINAL_FOLDERS),
        pairs=partial(list_flat, folders=ORIGINAL_FOLDERS),
        encode=partial(colourise_labels, palette=CAMVID_PALETTE),
    )
)
register_layout(
    _CAMVID(
        name="camvid-lists",
        needs="images/, labels/ and train.txt",
        fits=partial(has_flat_layout, folders=LISTS_FOLDERS),
        pairs=partial(list_flat, folders=LISTS_FOLDERS),
    )
)


def detect_layout(directory: str | os.PathLike[str]) -> str:
    """Return the name of a dataset folder's layout, a key of `LAYOUTS`.

    Raises:
        DataError: The folder does not exist, is empty, or has no known layout; the message lists the layouts.
    """
    root = Path(directory)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"the dataset folder {root} {problem}")
    try:
        entries = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the dataset folder {root}: {error.strerror}") from error
    if not entries:
        raise DataError(f"the dataset folder {root} is empty")
    for layout in LAYOUTS.values():
        if layout.fits(root):
            return layout.name
    needs = "; ".join(f"{layout.name} needs {layout.needs}" for layout in LAYOUTS.values())
    more = f" and {len(entries) - MAX_SHOWN} more" if len(entries) > MAX_SHOWN else ""
    raise DataError(f"{root} has no known layout: {needs}; the folder has {', '.join(entries[:MAX_SHOWN])}{more}")


def count_classes(directory: str | os.PathLike[str]) -> int:
    """Return the number of classes of a dataset folder.

    Raises:
        DataError: The folder has no known layout.
    """
    return len(LAYOUTS[detect_layout(directory)].classes)


def list_pairs(directory: str | os.PathLike[str], split: str) -> tuple[Layout, list[Pair]]:
    """Return the layout of a folder and the images and labels of a split, in the order of its list or sorted by name.

    Raises:
        UnknownNameError: `split` is not a split.
        DataError: The folder has no known layout, the split has no images, or an image has no label.
    """
    if split not in SPLIT_NAMES:
        raise UnknownNameError("split", split, SPLIT_NAMES)
    layout = LAYOUTS[detect_layout(directory)]
    try:
        pairs = layout.pairs(Path(directory), split)
    except OSError as error:
        raise DataError(f"cannot read the dataset folder {directory}: {error}") from error
    if not pairs:
        raise DataError(f"{directory} has no {split} images: {layout.name} needs {layout.needs}")
    return layout, pairs
