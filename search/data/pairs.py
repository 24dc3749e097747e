"""An image and its label on disk, and the checks that every layout makes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from .reading import Coding

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Pair:
    """An image, its label (None where a benchmark keeps it back), and how the label is coded."""

    image: Path
    label: Path | None
    coding: Coding


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder by name, none where it is missing.

    Hidden files are none: macOS leaves a `._x.png` beside each `x.png` it unpacks.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def match_labels(images: Sequence[Path], candidates: Sequence[Sequence[tuple[Path, Coding]]]) -> list[Pair]:
    """Give each image the first of its candidate labels that is there.

    Raises:
        DataError: where images have none: how many, the first of them, and the label that was looked for.
    """
    pairs: list[Pair] = []
    missing: list[tuple[Path, Path]] = []
    for image, labels in zip(images, candidates, strict=True):
        found = next(((path, coding) for path, coding in labels if path.is_file()), None)
        if found is None:
            missing.append((image, labels[0][0]))
        else:
            pairs.append(Pair(image, *found))
    if missing:
        image, wanted = missing[0]
        noun, verb = "image" if len(images) == 1 else "images", "has" if len(missing) == 1 else "have"
        raise DataError(
            f"{len(missing)} of {len(images)} {noun} {verb} no label; the first is {image}: there is no {wanted}"
        )
    return pairs


def require_pairs(pairs: list[Pair], root: Path, split: str, wanted: str, have: Iterable[str]) -> list[Pair]:
    """Return `pairs`, and raise a DataError where there are none: what is missing and which splits there are."""
    if not pairs:
        raise DataError(
            f"{root} has no {split} images: {wanted} is missing or empty (splits found: {', '.join(have) or 'none'})"
        )
    return pairs
