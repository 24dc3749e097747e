"""Patterns of file names: which files they match, and which label's name follows from an image's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ...models.image_folders import FolderEntry, list_once, walk_folder
from ...models.images import IMAGE_SUFFIXES, LOSSY_SUFFIXES

_SUFFIXES = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
LABEL_SUFFIXES = tuple(sorted(_SUFFIXES, key=lambda suffix: suffix.lower() in LOSSY_SUFFIXES))
"""File extensions of labels whose pattern leaves them open: `.png` first, those that may alter values last."""
_WILDCARD = re.compile(r"((?:^|(?<=/))\*\*/|\*)")


class FilePattern:
    """Pattern of paths relative to a folder.

    `*` stands for any text within a name, `**/` for any folders. A folder, or `/**` after it, stands for all files in
    and below it, and a pattern that ends in `*` or `.*` for names with any suffix of an image. Hidden files are never
    listed.

    Args:
        root: Folder that the pattern is relative to.
        pattern: Text of the pattern.

    Attributes:
        any_suffix: True if the pattern leaves the suffix open.
    """

    def __init__(self, root: Path, pattern: str) -> None:
        self.root = root
        path = PurePosixPath(pattern.strip())
        while path.name == "**":
            path = path.parent
        text = path.as_posix() if "*" in str(path) else (path / "**/*").as_posix()
        self.any_suffix = text.endswith("*")
        self.text = text.removesuffix(".*")

    def __str__(self) -> str:
        return self.text.removesuffix("**/*") or "./"

    @cached_property
    def num_wildcards(self) -> int:
        """Number of `*` and `**/`."""
        return len(_WILDCARD.findall(self.text))

    @property
    def folder(self) -> Path:
        """Folder above the first wildcard."""
        return self.root / self._fixed

    @property
    def _fixed(self) -> str:
        """Text above the first wildcard."""
        return self.text.partition("*")[0].rpartition("/")[0]

    @cached_property
    def _depth(self) -> float:
        """Number of folders below `folder` that the pattern goes down."""
        return math.inf if "**/" in self.text else self.text.removeprefix(f"{self._fixed}/").count("/")

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = [
            {"**/": "((?:.*/)?)", "*": "([^/]*)"}.get(part, re.escape(part)) for part in _WILDCARD.split(self.text)
        ]
        return re.compile("".join(parts))

    def list_files(self) -> list[Path]:
        """Return the matching images, sorted by path, see `list_once`.

        Raises:
            DataError: A folder cannot be read.
        """
        paths = (entry.path for entry in self.content if not entry.problem and self.selects(entry.path))
        return list_once(self.folder, paths)

    def has_files(self) -> bool:
        """Return True if there is a matching image, see `list_files`."""
        return any(not entry.problem and self.selects(entry.path) for entry in self._walk())

    @cached_property
    def content(self) -> list[FolderEntry]:
        """Visible files in the folder, and below it as deep as the pattern goes, and broken links; read once.

        Raises:
            DataError: A folder cannot be read.
        """
        return [*self._walk()]

    def _walk(self) -> Iterator[FolderEntry]:
        for entry in walk_folder(self.folder, self._depth):
            if entry.problem and not entry.is_link:
                raise DataError(entry.problem)
            yield entry

    def selects(self, path: Path) -> bool:
        """Return True if a file matches and has the suffix of an image, or the pattern's own."""
        is_image = not self.any_suffix or path.suffix.lower() in IMAGE_SUFFIXES
        return is_image and self.match(path) is not None

    def matches_stem(self, path: Path) -> bool:
        """Return True if a file matches, whatever its suffix."""
        suffix = "" if self.any_suffix else PurePosixPath(self.text).suffix
        return self.match(path.with_suffix(suffix) if suffix else path) is not None

    def reaches(self, path: Path) -> bool:
        """Return True if matching files may be below a path in the pattern's folder."""
        return len(path.relative_to(self.folder).parts) <= self._depth

    def match(self, path: Path) -> tuple[str, ...] | None:
        """Return the text of each wildcard in a path below the root; None if it does not match."""
        try:
            relative = PurePosixPath(path.relative_to(self.root).as_posix())
        except ValueError:
            relative = PurePosixPath(path.as_posix())
        match = self._regex.fullmatch(str(relative.with_suffix("") if self.any_suffix else relative))
        return None if match is None else tuple(match.groups())

    def fill(self, texts: tuple[str, ...]) -> list[Path]:
        """Return the paths with the last wildcards replaced by the last of `texts`, one per suffix if it is open.

        Raises:
            DataError: There are fewer texts than wildcards.
        """
        wildcards = _WILDCARD.findall(self.text)
        missing = len(wildcards) - len(texts)
        if missing > 0 and set(wildcards[:missing]) == {"**/"}:  # a folder of labels, for images of one folder
            texts = ("",) * missing + texts
        if len(texts) < self.num_wildcards:
            raise DataError(f"pattern {self.text} has {self.num_wildcards} wildcards, its images' only {len(texts)}")
        rest = iter(texts[len(texts) - self.num_wildcards :])
        name = "".join(next(rest) if part in ("**/", "*") else part for part in _WILDCARD.split(self.text))
        return [self.root / f"{name}{suffix}" for suffix in (LABEL_SUFFIXES if self.any_suffix else ("",))]
