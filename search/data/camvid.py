"""CamVid on disk, in its three common layouts: SegNet's, the original one, and `images/` with `labels/`.

Each may be in the given folder or in its sub-folder `CamVid`. Labels are indices or the 32 colours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .lists import find_list, read_list
from .pairs import Pair, list_images, match_labels, require_pairs
from .reading import CAMVID

CAMVID_SPLITS = ("train", "val", "test")
ORIGINAL_FOLDERS = ("701_StillsRaw_full", "LabeledApproved_full")
LISTS_FOLDERS = ("images", "labels")
_LABEL_SUFFIXES = ("annot", "_labels")

# First test frame of the sequence 0001TP; first and last validation frame of 0016E5.
_TEST_0001TP = 8550
_VAL_0016E5 = (7959, 8159)


def _resolve_root(root: Path) -> Path:
    """Return the sub-folder `CamVid` if there is one."""
    return root / "CamVid" if (root / "CamVid").is_dir() else root


def _segnet_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the folders of a split's images and labels if both exist."""
    base = _resolve_root(root)
    for suffix in _LABEL_SUFFIXES:
        if (base / split).is_dir() and (base / f"{split}{suffix}").is_dir():
            return base / split, base / f"{split}{suffix}"
    return None


def has_segnet_layout(root: Path) -> bool:
    """Return True if a folder has the images and labels of a split in SegNet's layout."""
    return any(_segnet_folders(root, split) for split in CAMVID_SPLITS)


def list_segnet(root: Path, split: str) -> list[Pair]:
    """Return the images and labels of a split in SegNet's layout, sorted by name.

    Raises:
        DataError: The split has no images, or an image has no label.
    """
    folders = _segnet_folders(root, split)
    pairs = _pair(list_images(folders[0]), folders[1], split) if folders else []
    splits = [s for s in CAMVID_SPLITS if _segnet_folders(root, s)]
    return require_pairs(pairs, _resolve_root(root), split, f"{split}/ with {split}annot/", splits)


def has_flat_layout(root: Path, folders: tuple[str, str]) -> bool:
    """Return True if the two folders, of all images and of all labels, exist."""
    return all((_resolve_root(root) / name).is_dir() for name in folders)


def list_flat(root: Path, split: str, folders: tuple[str, str]) -> list[Pair]:
    """Return the images and labels of a split in a layout with one folder for all images.

    The split's list file defines its images. Without list files, CamVid's own file names do; see `official_split`.

    Raises:
        DataError: There is neither a list nor a known file name, a list has an error, the split has no images, or an
            image has no label.
    """
    base = _resolve_root(root)
    images, labels = (base / name for name in folders)
    listing = find_list(base, split)
    listed = [s for s in CAMVID_SPLITS if find_list(base, s)]
    if listing is not None:
        entries = read_list(listing, base, images)
        pairs = _pair([image for image, _ in entries], labels, split, [label for _, label in entries])
        return require_pairs(pairs, base, split, f"the content of {listing.name}", listed)
    splits = {image: official_split(image.stem) for image in list_images(images)}
    if listed or not splits or None in splits.values():
        return require_pairs([], base, split, f"the list {split}.txt", listed)
    pairs = _pair([image for image, own in splits.items() if own == split], labels, split)
    return require_pairs(pairs, base, split, "every frame of the split", sorted(map(str, set(splits.values()))))


def _pair(images: Sequence[Path], labels: Path, split: str, names: Sequence[str | None] | None = None) -> list[Pair]:
    """Pair image X with the label its list names, else `X.png`, `X_L.png`, or `trainannot_1` for `train_1`."""
    candidates = []
    for image, name in zip(images, names or [None] * len(images), strict=True):
        stem = image.stem
        files = [f"{stem}.png", f"{stem}_L.png", f"{stem.replace(split, f'{split}annot', 1)}.png"]
        if name is not None:
            files = [Path(name).name]
        candidates.append([(labels / file, CAMVID) for file in files])
    return match_labels(images, candidates)


def official_split(stem: str) -> str | None:
    """Return the standard split (367 / 101 / 233) of an original frame, e.g. `0001TP_006690`; None for other names.

    Test is the sequence Seq05VD and the second half of 0001TP, validation the 15 Hz part of 0016E5, training the rest
    (Sturgess et al. 2009, and SegNet's copy).
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if match is None:
        return None
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= _TEST_0001TP):
        return "test"
    first, last = _VAL_0016E5
    return "val" if sequence == "0016E5" and first <= frame <= last else "train"
