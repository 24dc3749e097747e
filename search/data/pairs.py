"""Pairs of an image and its label on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from .reading import Coding

PAIR_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Pair:
    """An image and its label.

    Attributes:
        image: Path of the image.
        label: Path of the label; None if the benchmark does not publish it.
        coding: Meaning of the label's values.
    """

    image: Path
    label: Path | None
    coding: Coding


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder, sorted by name; empty if the folder does not exist.

    Hidden files are ignored: macOS writes a `._x.png` for each `x.png` it unpacks.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PAIR_SUFFIXES and not p.name.startswith("."))


def match_labels(images: Sequence[Path], candidates: Sequence[Sequence[tuple[Path, Coding]]]) -> list[Pair]:
    """Pair each image with the first of its candidate labels that exists.

    Raises:
        DataError: Images without a label; the message has their number, the first one, and the label it lacks.
    """
    pairs: list[Pair] = []
    missing: list[tuple[Path, Path]] = []
    for image, labels in zip(images, candidates, strict=True):
        match = next(((path, coding) for path, coding in labels if path.is_file()), None)
        if match is None:
            missing.append((image, labels[0][0]))
        else:
            pairs.append(Pair(image, *match))
    if missing:
        image, label = missing[0]
        noun, verb = "image" if len(images) == 1 else "images", "has" if len(missing) == 1 else "have"
        raise DataError(
            f"{len(missing)} of {len(images)} {noun} {verb} no label; the first is {image}: no such file: {label}"
        )
    return pairs


def require_pairs(pairs: list[Pair], root: Path, split: str, source: str, splits: Iterable[str]) -> list[Pair]:
    """Return `pairs` unless empty.

    Args:
        pairs: Pairs of the split.
        root: Folder of the dataset.
        split: Name of the split.
        source: Files that define the split, for the message.
        splits: Available splits, for the message.

    Raises:
        DataError: There are no pairs.
    """
    if not pairs:
        available = ", ".join(splits) or "none"
        raise DataError(f"{root} has no {split} images: {source} is missing or empty (available splits: {available})")
    return pairs
