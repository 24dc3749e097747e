"""Patterns of file names: which files they match, and which label's name follows from an image's."""

from __future__ import annotations

import glob
import re
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ...models.images import IMAGE_SUFFIXES

LABEL_SUFFIXES = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
"""File extensions of labels whose pattern leaves them open, `.png` first."""
_WILDCARD = re.compile(r"(\*\*/|\*)")


class FilePattern:
    """Pattern of paths relative to a folder.

    `*` stands for any text within a name, `**/` for any folders. A folder stands for all files in and below it, and a
    pattern that ends in `*` for names with any suffix of an image. Hidden files never match.

    Args:
        root: Folder that the pattern is relative to.
        pattern: Text of the pattern.
    """

    def __init__(self, root: Path, pattern: str) -> None:
        self.root = root
        text = pattern.strip().removeprefix("./").rstrip("/") or "."
        if "*" not in text:
            text = "**/*" if text == "." else f"{text}/**/*"
        self.text = text

    def __str__(self) -> str:
        return self.text.removesuffix("**/*") or "./"

    @property
    def any_suffix(self) -> bool:
        """True if the pattern leaves the suffix open."""
        return self.text.endswith("*")

    @cached_property
    def num_wildcards(self) -> int:
        """Number of `*` and `**/`."""
        return len(_WILDCARD.findall(self.text))

    @property
    def folder(self) -> Path:
        """Folder above the first wildcard."""
        return self.root / self.text.partition("*")[0].rpartition("/")[0]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = [
            {"**/": "((?:.*/)?)", "*": "([^/]*)"}.get(part, re.escape(part)) for part in _WILDCARD.split(self.text)
        ]
        return re.compile("".join(parts))

    def list_files(self) -> list[Path]:
        """Return the matching images, sorted by path."""
        # The stem of an open pattern ends with `*`; glob skips hidden files and folders, and follows links.
        pattern = "".join(part if part in ("**/", "*") else glob.escape(part) for part in _WILDCARD.split(self.text))
        names = glob.glob(pattern, root_dir=self.root, recursive=True)  # noqa: PTH207
        files = (self.root / name for name in names if self._is_image(name))
        return sorted(path for path in files if path.is_file())

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
