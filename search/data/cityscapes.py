"""Cityscapes on disk: `leftImg8bit/<split>/<city>/` with `gtFine/` or, for coarse labels, `gtCoarse/`."""

from __future__ import annotations

from pathlib import Path

from .pairs import Pair, match_labels, require_pairs
from .reading import CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS

_IMAGE_SUFFIX = "_leftImg8bit.png"
_COARSE_SPLIT = "train_extra"
_BENCHMARK_SPLIT = "test"


def has_cityscapes_layout(root: Path) -> bool:
    """Return True if a folder has the layout of Cityscapes."""
    return (root / "leftImg8bit").is_dir() and any((root / labels).is_dir() for labels in ("gtFine", "gtCoarse"))


def list_cityscapes(root: Path, split: str) -> list[Pair]:
    """Return the images and labels of a split, sorted by city and name.

    `*_labelTrainIds.png`, which users create, is the fallback for `*_labelIds.png`. The test split may have no labels
    at all, since the benchmark does not publish them.

    Raises:
        DataError: The split has no images, or an image has no label.
    """
    fine = split != _COARSE_SPLIT and (root / "gtFine").is_dir()
    kind = "gtFine" if fine else "gtCoarse"
    images = sorted((root / "leftImg8bit" / split).glob(f"*/[!.]*{_IMAGE_SUFFIX}"))
    candidates = []
    for image in images:
        stem = root / kind / split / image.parent.name / f"{image.name.removesuffix(_IMAGE_SUFFIX)}_{kind}"
        candidates.append(
            [
                (stem.with_name(f"{stem.name}_labelIds.png"), CITYSCAPES_IDS),
                (stem.with_name(f"{stem.name}_labelTrainIds.png"), CITYSCAPES_TRAIN_IDS),
            ]
        )
    splits = sorted(p.name for p in (root / "leftImg8bit").iterdir() if p.is_dir())
    if split == _BENCHMARK_SPLIT and not any(path.is_file() for labels in candidates for path, _ in labels):
        pairs = [Pair(image, None, CITYSCAPES_IDS) for image in images]
    else:
        pairs = match_labels(images, candidates)
    return require_pairs(pairs, root, split, f"leftImg8bit/{split}/<city>/*{_IMAGE_SUFFIX}", splits)
