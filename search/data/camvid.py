"""CamVid on disk, in its three usual layouts: SegNet's, the original one, and `images/` beside `labels/`.

Each may lie in the named folder or in a folder `CamVid` inside it. Labels are indices or the 32 colours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .lists import find_list, read_list
from .pairs import Pair, list_images, require_pairs, match_labels
from .reading import Coding

SPLITS = ("train", "val", "test")
ORIGINAL_FOLDERS = ("701_StillsRaw_full", "LabeledApproved_full")
LISTS_FOLDERS = ("images", "labels")
_LABEL_ENDINGS = ("annot", "_labels")

# First test frame of the sequence 0001TP; first and last validation frame of 0016E5.
_TEST_0001TP = 8550
_VAL_0016E5 = (7959, 8159)


def _base(root: Path) -> Path:
    """Step into the folder `CamVid` where the user named the one around it."""
    return root / "CamVid" if (root / "CamVid").is_dir() else root


def _segnet_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the folders of a split's images and labels, if both are there."""
    base = _base(root)
    for ending in _LABEL_ENDINGS:
        if (base / split).is_dir() and (base / f"{split}{ending}").is_dir():
            return base / split, base / f"{split}{ending}"
    return None


def has_segnet_layout(root: Path) -> bool:
    """Tell whether a folder holds a split's images beside its labels, as SegNet's copy does."""
    return any(_segnet_folders(root, split) for split in SPLITS)


def list_segnet(root: Path, split: str) -> list[Pair]:
    """Return the images and labels of a split by name.

    Raises:
        DataError: where the split has no image, or an image has no label.
    """
    folders = _segnet_folders(root, split)
    pairs = _pair(list_images(folders[0]), folders[1], split) if folders else []
    have = [s for s in SPLITS if _segnet_folders(root, s)]
    return require_pairs(pairs, _base(root), split, f"{split}/ beside {split}annot/", have)


def has_flat_layout(root: Path, folders: tuple[str, str]) -> bool:
    """Tell whether the two folders, of all images and of all labels, are there."""
    return all((_base(root) / name).is_dir() for name in folders)


def list_flat(root: Path, split: str, folders: tuple[str, str]) -> list[Pair]:
    """Return what a split's list names or, where there are no lists, what CamVid's own file names put into it.

    Raises:
        DataError: where there is neither list nor known name, a list names what is not there, the split has no image,
            or an image has no label.
    """
    base = _base(root)
    images, labels = (base / name for name in folders)
    listing = find_list(base, split)
    have = [s for s in SPLITS if find_list(base, s)]
    if listing is not None:
        chosen = read_list(listing, base, images)
        pairs = _pair([image for image, _ in chosen], labels, split, [named for _, named in chosen])
        return require_pairs(pairs, base, split, f"the content of {listing.name}", have)
    splits = {image: official_split(image.stem) for image in list_images(images)}
    if have or not splits or None in splits.values():
        return require_pairs([], base, split, f"the list {split}.txt", have)
    frames = [image for image, of in splits.items() if of == split]
    return require_pairs(
        _pair(frames, labels, split), base, split, "every frame of it", sorted({str(s) for s in splits.values()})
    )


def _pair(images: Sequence[Path], labels: Path, split: str, named: Sequence[str | None] | None = None) -> list[Pair]:
    """Find the label of each image X: the one its list names, `X.png`, `X_L.png`, or `trainannot_1` for `train_1`."""
    candidates = []
    for image, given in zip(images, named or [None] * len(images), strict=True):
        stem = image.stem
        names = [f"{stem}.png", f"{stem}_L.png", f"{stem.replace(split, f'{split}annot', 1)}.png"]
        if given is not None:
            names = [Path(given).name]
        candidates.append([(labels / name, Coding.CAMVID) for name in names])
    return match_labels(images, candidates)


def official_split(stem: str) -> str | None:
    """Return the usual split (367 / 101 / 233) of an original frame, e.g. `0001TP_006690`; None for another name.

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
