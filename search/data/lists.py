"""List files of a split: `train.txt` or `train.lst`, one image per line, optionally with its label."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError

_FOLDERS = (".", "lists", "list", "splits")
_SUFFIXES = (".txt", ".lst")


def find_list(base: Path, split: str) -> Path | None:
    """Return the list file of a split in `base` or its folder `lists`, `list` or `splits`; None if there is none."""
    for folder in _FOLDERS:
        for suffix in _SUFFIXES:
            path = base / folder / f"{split}{suffix}"
            if path.is_file():
                return path
    return None


def read_list(listing: Path, base: Path, images: Path) -> list[tuple[Path, str | None]]:
    """Return the images in a list file, each with its label's name if the line has one.

    A line has the name of an image, with or without folder and suffix, and optionally the name of its label, separated
    by whitespace or a comma. Empty lines and lines that start with # are skipped.

    Args:
        listing: List file.
        base: Folder that relative paths start from.
        images: Folder of the images, for names without a folder.

    Raises:
        DataError: The file is not text, lists an image twice, or lists a missing image; the message has the line.
    """
    try:
        text = listing.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {listing} as a list of images: {error}") from error
    entries: dict[Path, str | None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        names = line.replace(",", " ").split()
        if not names or names[0].startswith("#"):
            continue
        image = _resolve(names[0], base, images)
        if image is None:
            raise DataError(f"{listing}, line {number}: no image {names[0]!r} in {images}")
        if image in entries:
            raise DataError(f"{listing}, line {number}: duplicate image {names[0]!r}")
        entries[image] = names[1] if len(names) > 1 else None
    return list(entries.items())


def _resolve(name: str, base: Path, images: Path) -> Path | None:
    """Return the file that a name in a list refers to, or None."""
    relative = name.lstrip("/")
    for candidate in (images / Path(name).name, images / relative, base / relative):
        for path in (candidate, candidate.with_name(f"{candidate.name}.png")):
            if path.is_file():
                return path
    return None
