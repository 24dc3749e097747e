"""Patterns of file names: which files they match, and which label's name follows from an image's."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ...models.images import IMAGE_SUFFIXES

LABEL_SUFFIXES = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
"""File extensions of labels whose pattern leaves them open, `.png` first."""
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
        """Return the matching images, sorted by path.

        Raises:
            DataError: A folder cannot be read.
        """
        return sorted(path for path in self._list_below(self.folder) if self.match(path) is not None)

    def _list_below(self, folder: Path, above: tuple[os.stat_result, ...] = ()) -> Iterator[Path]:
        """Yield the visible images in a folder, and below it as deep as the pattern goes.

        Links are followed, but not back to one of the folders `above`.
        """
        try:
            status = folder.stat()
            if any(os.path.samestat(status, other) for other in above):
                return
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
            # An entry raises an error if its link leads to itself; a path is neither a file nor a folder then.
            items = [folder / entry.name if entry.is_symlink() else entry for entry in visible]
            files = [item.name for item in items if self._is_image(item.name) and item.is_file()]
            folders = [item.name for item in items if item.is_dir()] if len(above) < self._depth else []
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
        yield from (folder / name for name in files)
        for name in folders:
            yield from self._list_below(folder / name, (*above, status))

    def _is_image(self, name: str) -> bool:
        return not self.any_suffix or name.lower().endswith(IMAGE_SUFFIXES)

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
        if len(texts) < self.num_wildcards:
            raise DataError(f"pattern {self.text} has {self.num_wildcards} wildcards, its images' only {len(texts)}")
        rest = iter(texts[len(texts) - self.num_wildcards :])
        name = "".join(next(rest) if part in ("**/", "*") else part for part in _WILDCARD.split(self.text))
        return [self.root / f"{name}{suffix}" for suffix in (LABEL_SUFFIXES if self.any_suffix else ("",))]
