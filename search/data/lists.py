"""List files of a split: one image per line, optionally with its label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...files import LFS_POINTER, is_lfs_pointer
from .patterns import LABEL_SUFFIXES, FilePattern

ListEntry = tuple[Path, str | None]
"""An image, and the name of its label if the list has one."""
_NUMBERS = re.compile(r"((\s*,\s*|\s+)-?\d+(\.\d+)?)+")
"""Columns of numbers behind an image, e.g. the ids of its class and species."""
_GAP = re.compile(r"\s*,\s*|\s+")
"""Separator of an image and its label."""
_SECOND_PATH = re.compile(r"[\s,]/")
"""Begin of a second absolute path in a line."""


@dataclass(frozen=True)
class ImageList:
    """Content of a list file.

    Attributes:
        entries: The images in the order of the lines.
        notes: Parts of the lines that are not read, a phrase each.
    """

    entries: list[ListEntry]
    notes: tuple[str, ...] = ()


def read_list(listing: Path, root: Path, images: FilePattern | None) -> ImageList:
    """Return the images in a list file, each with its label's name if the line has one.

    A line has an image, by path or by name, and optionally its label, separated by whitespace or a comma. The
    suffix of an image may be left out where no label follows. Empty lines and lines that start with # are skipped, and
    columns of numbers behind an image are not read.

    Args:
        listing: List file.
        root: Folder that relative paths start from.
        images: Pattern of the images, for names without a folder or suffix; None if the list has whole paths.

    Raises:
        DataError: The file is not text, lists an image twice, or an image that is missing or may be several files; the
            message has the line.
    """
    try:
        if is_lfs_pointer(listing):
            raise DataError(f"{listing}: it is {LFS_POINTER}")
        text = listing.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {listing} as a list of images: {error}") from error
    entries: dict[Path, str | None] = {}
    numbered = list[str]()
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        where = f"{listing}, line {number}"
        paths, label = _parse_line(line, root, images)
        numbers = next((match for match in _NUMBERS.finditer(line) if match.end() == len(line)), None)
        if numbers is not None and (label or not paths):
            stripped = _parse_line(line[: numbers.start()], root, images)
            if stripped[0]:
                paths, label = stripped
                numbered.append(line)
        if not paths:
            hint = "; before a label, an image needs its suffix" if _GAP.search(line) else ""
            raise DataError(f"{where}: no image {line!r} in {images.folder if images else root}{hint}")
        if len(paths) > 1:
            raise DataError(f"{where}: {line!r} may be {' or '.join(path.name for path in paths)}: write the suffix")
        if paths[0] in entries:
            raise DataError(f"{where}: duplicate image {line!r}")
        entries[paths[0]] = label
    note = f"{listing.name}: numbers behind {len(numbered)} of {len(entries)} images are not read"
    notes = (f"{note}, e.g. {numbered[0]!r}",) if numbered else ()
    return ImageList(list(entries.items()), notes)


def list_candidates(name: str, root: Path, folder: Path) -> list[Path]:
    """Return the paths that a name in a list may stand for, in the order in which they count.

    A path is that path, else relative to `root`, else to `folder`; a name alone is first one of `folder`. An absolute
    path into a folder that does not exist is that of a dataset that was moved: its last folders count.
    """
    path = Path(name)
    if not path.is_absolute():
        candidates = [root / path, folder / path]
        return candidates if len(path.parts) > 1 else candidates[::-1]
    for base in (root.absolute(), root.resolve()):
        if path.is_relative_to(base):
            return [root / path.relative_to(base)]
    parts = path.parts[1:]
    is_moved = not path.parent.is_dir() and not _SECOND_PATH.search(name)
    return [path, *(root.joinpath(*parts[start:]) for start in range(len(parts) - 1) if is_moved)]


def _parse_line(line: str, root: Path, images: FilePattern | None) -> tuple[list[Path], str | None]:
    """Return the image of a line, and its label's name if there is one; no image, or several, if it is not clear.

    Names may have blanks and commas: the longest beginning of the line that is an image counts.
    """
    folder = images.folder if images is not None else root
    candidates = list_candidates(line, root, folder)
    filled = []
    if images is not None and images.num_wildcards == 1 and not images.any_suffix and len(Path(line).parts) == 1:
        filled = images.fill((line,))
    if path := _first_file([*candidates, *filled]):
        return [path], None
    for gap in reversed(list(_GAP.finditer(line))):
        if path := _first_file(list_candidates(line[: gap.start()], root, folder)):
            return [path], line[gap.end() :] or None
    for candidate in candidates:
        # By identity, since some file systems know no upper case.
        completed = filter(_is_file, (Path(f"{candidate}{suffix}") for suffix in LABEL_SUFFIXES))
        if files := {path.stat().st_ino: path for path in completed}:
            return list(files.values()), None
    return [], None


def _first_file(paths: Iterable[Path]) -> Path | None:
    return next(filter(_is_file, paths), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
