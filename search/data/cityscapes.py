"""Cityscapes on disk: `leftImg8bit/<split>/<city>/` beside `gtFine/` or, for coarse labels, `gtCoarse/`."""

from __future__ import annotations

from pathlib import Path

from .pairs import Pair, require_pairs, match_labels
from .reading import Coding

_IMAGE_END = "_leftImg8bit.png"
_COARSE_SPLIT = "train_extra"
_BENCHMARK_SPLIT = "test"


def has_cityscapes_layout(root: Path) -> bool:
    """Tell whether a folder is Cityscapes'."""
    return (root / "leftImg8bit").is_dir() and any((root / gt).is_dir() for gt in ("gtFine", "gtCoarse"))


def list_cityscapes(root: Path, split: str) -> list[Pair]:
    """Return the images and labels of a split, by city and name.

    `*_labelIds.png` is taken where it is there, else `*_labelTrainIds.png`, which users make themselves. The test split
    may do without any labels: the benchmark keeps them back.

    Raises:
        DataError: where the split has no image, or an image has no label.
    """
    fine = split != _COARSE_SPLIT and (root / "gtFine").is_dir()
    kind = "gtFine" if fine else "gtCoarse"
    images = sorted((root / "leftImg8bit" / split).glob(f"*/[!.]*{_IMAGE_END}"))
    candidates = []
    for image in images:
        stem = root / kind / split / image.parent.name / f"{image.name.removesuffix(_IMAGE_END)}_{kind}"
        candidates.append(
            [
                (stem.with_name(f"{stem.name}_labelIds.png"), Coding.CITYSCAPES_IDS),
                (stem.with_name(f"{stem.name}_labelTrainIds.png"), Coding.CITYSCAPES_TRAIN_IDS),
            ]
        )
    have = sorted(p.name for p in (root / "leftImg8bit").iterdir() if p.is_dir())
    if split == _BENCHMARK_SPLIT and not any(path.is_file() for both in candidates for path, _ in both):
        pairs = [Pair(image, None, Coding.CITYSCAPES_IDS) for image in images]
    else:
        pairs = match_labels(images, candidates)
    return require_pairs(pairs, root, split, f"leftImg8bit/{split}/<city>/*{_IMAGE_END}", have)
