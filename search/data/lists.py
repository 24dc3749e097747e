"""List files of a split: one image per line, optionally with its label."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .patterns import FilePattern

ListEntry = tuple[Path, str | None]
"""An image, and the name of its label if the list has one."""


def read_list(listing: Path, root: Path, images: FilePattern | None) -> list[ListEntry]:
    """Return the images in a list file, each with its label's name if the line has one.

    A line has the name of an image, with or without folder and suffix, and optionally the name of its label, separated
    by whitespace or a comma. Empty lines and lines that start with # are skipped.

    Args:
        listing: List file.
        root: Folder that relative paths start from.
        images: Pattern of the images, for names without a folder or suffix; None if the list has whole paths.

    Raises:
        DataError: The file is not text, lists an image twice, or lists a missing image; the message has the line.
    """
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {listing} as a list of images: {error}") from error
    entries: dict[Path, str | None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        names = line.replace(",", " ").split()
        if not names or names[0].startswith("#"):
            continue
        image = _resolve(names[0], root, images)
        if image is None and len(names) > 1:  # a name with spaces
            image, names = _resolve(line.strip(), root, images), names[:1]
        if image is None:
            raise DataError(f"{listing}, line {number}: no image {names[0]!r} in {images.folder if images else root}")
        if image in entries:
            raise DataError(f"{listing}, line {number}: duplicate image {names[0]!r}")
        entries[image] = names[1] if len(names) > 1 else None
    return list(entries.items())


def _resolve(name: str, root: Path, images: FilePattern | None) -> Path | None:
    """Return the file that a name in a list refers to, or None."""
    relative = name.lstrip("/")
    candidates = [root / relative]
    if images is not None:
        candidates = [images.folder / Path(name).name, images.folder / relative, *candidates]
        if images.num_wildcards == 1 and not images.any_suffix:
            candidates += images.fill((Path(name).name,))
    for candidate in candidates:
        for path in (candidate, *(candidate.with_name(f"{candidate.name}{suffix}") for suffix in (".png", ".jpg"))):
            if path.is_file():
                return path
    return None
