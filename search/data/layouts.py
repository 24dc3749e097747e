"""How data sets lie on disk: which layout a folder has, and which image goes with which label."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import DataError, UnknownNameError
from .camvid import LISTS_FOLDERS, ORIGINAL_FOLDERS, has_flat_layout, has_segnet_layout, list_flat, list_segnet
from .cityscapes import list_cityscapes, has_cityscapes_layout
from .labels import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from .pairs import Pair

SPLIT_NAMES = ("train", "val", "test", "train_extra")

# How many entries of a folder a message shows.
_SHOWN = 6


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is kept on disk.

    Attributes:
        name: as `detect_layout` gives it.
        needs: what the folder must hold, for messages.
        classes: names of the classes, in the order of the labels' values.
        palette: a colour (0..255) for each class.
        fits: whether a folder has this layout.
        pairs: from folder and split to its images and labels.
    """

    name: str
    needs: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    fits: Callable[[Path], bool]
    pairs: Callable[[Path, str], list[Pair]]


_CITYSCAPES = partial(Layout, classes=CITYSCAPES_CLASSES, palette=CITYSCAPES_PALETTE)
_CAMVID = partial(Layout, classes=CAMVID_CLASSES, palette=CAMVID_PALETTE)

# In the order in which they are tried.
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _CITYSCAPES(
            name="cityscapes",
            needs="leftImg8bit/ and gtFine/ (or gtCoarse/)",
            fits=has_cityscapes_layout,
            pairs=list_cityscapes,
        ),
        _CAMVID(
            name="camvid-segnet",
            needs="train/ and trainannot/",
            fits=has_segnet_layout,
            pairs=list_segnet,
        ),
        _CAMVID(
            name="camvid",
            needs="701_StillsRaw_full/ and LabeledApproved_full/",
            fits=partial(has_flat_layout, folders=ORIGINAL_FOLDERS),
            pairs=partial(list_flat, folders=ORIGINAL_FOLDERS),
        ),
        _CAMVID(
            name="camvid-lists",
            needs="images/, labels/ and train.txt",
            fits=partial(has_flat_layout, folders=LISTS_FOLDERS),
            pairs=partial(list_flat, folders=LISTS_FOLDERS),
        ),
    )
}


def detect_layout(directory: str | os.PathLike[str]) -> str:
    """Return the name of the layout that a data set's folder has, one of `LAYOUTS`.

    Raises:
        DataError: where the folder does not exist, is empty, or has none; the message says what each one needs.
    """
    root = Path(directory)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"the data set folder {root} {what}")
    try:
        found = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    except OSError as error:
        raise DataError(f"the data set folder {root} cannot be read: {error.strerror}") from error
    if not found:
        raise DataError(f"the data set folder {root} is empty")
    for layout in LAYOUTS.values():
        if layout.fits(root):
            return layout.name
    needs = "; ".join(f"{layout.name} needs {layout.needs}" for layout in LAYOUTS.values())
    shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    raise DataError(f"{root} fits no known layout: {needs}; found {shown}")


def list_pairs(directory: str | os.PathLike[str], split: str) -> tuple[Layout, list[Pair]]:
    """Return the layout of a folder, and the images and labels of one split, by name or as its list orders them.

    Raises:
        UnknownNameError: where `split` is no split's name.
        DataError: where no layout fits, the split has no image, or an image has no label.
    """
    if split not in SPLIT_NAMES:
        raise UnknownNameError("split", split, SPLIT_NAMES)
    layout = LAYOUTS[detect_layout(directory)]
    try:
        return layout, layout.pairs(Path(directory), split)
    except OSError as error:
        raise DataError(f"the data set folder {directory} cannot be read: {error}") from error
