"""List files that say which images make up a split: `train.txt` or `train.lst`, one image (and its label) a line."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError

_FOLDERS = (".", "lists", "list", "splits")
_SUFFIXES = (".txt", ".lst")


def find_list(base: Path, split: str) -> Path | None:
    """Return the list file of a split, in `base` or in a folder `lists`, `list` or `splits` there; None without one."""
    for folder in _FOLDERS:
        for suffix in _SUFFIXES:
            path = base / folder / f"{split}{suffix}"
            if path.is_file():
                return path
    return None


def read_list(listing: Path, base: Path, images: Path) -> list[tuple[Path, str | None]]:
    """Return the images that a list names, and the label named beside each, if any.

    A line holds an image's name (with or without folder and ending) and optionally its label's, apart by a space or a
    comma. Empty lines and lines that begin with # are passed over.

    Args:
        listing: the list file.
        base: the folder that paths in it may start from.
        images: the folder of the images, where bare names lie.

    Raises:
        DataError: where the file is no text, names an image twice, or names one that is not there (file and line).
    """
    try:
        text = listing.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listing} cannot be read as a list of images: {error}") from error
    chosen: dict[Path, str | None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        image = _resolve(words[0], base, images)
        if image is None:
            raise DataError(f"{listing}, line {number}: there is no image {words[0]!r} in {images}")
        if image in chosen:
            raise DataError(f"{listing}, line {number}: the image {words[0]!r} is named twice")
        chosen[image] = words[1] if len(words) > 1 else None
    return list(chosen.items())


def _resolve(word: str, base: Path, images: Path) -> Path | None:
    """Find the file that a word of a list means."""
    relative = word.lstrip("/")
    for candidate in (images / Path(word).name, images / relative, base / relative):
        for path in (candidate, candidate.with_name(f"{candidate.name}.png")):
            if path.is_file():
                return path
    return None
