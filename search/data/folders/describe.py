"""Description of a folder of images and labels: the content of a `dataset.yaml`, for the user to edit."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ....errors import DataError
from ....models.images import IMAGE_FOLDER, LABEL_ENDINGS, LABEL_FOLDERS
from .classes import collect_classes
from .sources import complete_labels, find_sources
from .unread import describe_left_out

LIST_SUFFIXES, LIST_DEPTHS = (".txt", ".lst", ".csv"), ("*.*", "*/*.*")
"""Suffixes of lists of images that are not read, and patterns of their paths in other folders than images."""
MAX_LISTS, MAX_LINES = 3, 5
"""Number of such lists in a message, and of lines that show whether a file is one."""
_SEPARATOR = re.compile(r"[\s,;]")


@dataclass(frozen=True)
class FolderDescription:
    """Content of a folder of images and labels.

    Attributes:
        content: Content of a `dataset.yaml`, without `root`.
        origin: Where the classes come from, for messages.
        notes: Assumptions, a line each.
    """

    content: Mapping[str, Any]
    origin: str
    notes: tuple[str, ...]

    def format(self, root: str) -> str:
        """Return the text of a `dataset.yaml` for the folder `root`."""
        head = "# Collected from all labels. Edit the class names, and use --data THIS_FILE: docs/datasets.md\n"
        fields = {"name": self.content["name"], "root": root, **self.content}
        return head + yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def describe_folder(root: Path) -> FolderDescription | None:
    """Describe a folder with `images/` and `labels/` (or `masks/`, `annotations/`); None if it has no such folders.

    Splits are sub-folders, either of these two or around them, or list files; or folders such as `train/` and
    `trainannot/`. Every label is read.

    Raises:
        DataError: There are several folders of labels, several candidates for a split, or several labels of an image;
            no image has a label; or the values cannot be classes.
    """
    known = find_sources(root)
    if not known.splits:
        return None
    sources, unread = complete_labels(root, known.splits)
    splits = [source.open(root, split) for split, source in sources.items()]
    pairs = [pair for split in splits for pair, _ in split.matches]
    labels = sorted({pair.label for pair in pairs if pair.label is not None})
    first = sources[next(iter(sources))]
    if not labels:
        problem = next(filter(None, (split.describe_missing() for split in splits)), None)
        hints = [text for split in splits if split.images is not None for text in describe_left_out(split.images)]
        hints = [*dict.fromkeys(hints)] if not pairs else []
        raise DataError("; ".join([problem or f"{root} has no image with a label in {first.labels}", *hints]))
    unused = known.describe_unused(root, (pair.image for pair in pairs))
    stats = [(path, path.stat()) for path in labels]
    owned = tuple((s.name, frozenset(p.label for p, _ in s.matches if p.label is not None)) for s in splits)
    collected = collect_classes(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats), owned)
    notes = [*collected.notes, *unread, *unused, *known.notes]
    if first.labels.startswith(tuple(f"{first.images}{ending}" for ending in LABEL_ENDINGS)):
        notes.append(
            "the folders are those of SegNet's CamVid, the names of the images are not: if these are CamVid's classes, "
            "write a dataset.yaml with `extends: camvid-segnet`"
        )
    fields: dict[str, Any] = {"splits": {split: source.as_dict() for split, source in sources.items()}}
    if first.share is not None:
        notes += _note_lists(root, {pair.image.stem for pair in pairs})
        shares = {split: source.share for split, source in sources.items() if source.share is not None}
        fields = {**first.as_dict(), "seed": 0}
        fields["splits"] = {split: {"share": round(end - start, 6)} for split, (start, end) in shares.items()}
    name = re.sub(r"[^\w.+ -]", "-", root.resolve().name) or "dataset"
    lines = tuple(f"{name}: {note}" for note in notes)
    return FolderDescription({"name": name, **fields, **collected.fields}, collected.origin, lines)


def _note_lists(root: Path, images: Container[str]) -> list[str]:
    """Return a note on the files in a folder without splits that list its images, by their stems."""
    entries = [path for path in sorted(root.glob("[!.]*")) if path.name not in (IMAGE_FOLDER, *LABEL_FOLDERS)]
    inside = [path for folder in entries for depth in LIST_DEPTHS for path in sorted(folder.glob(depth))]
    files = [path for path in (*entries, *inside) if path.suffix.lower() in LIST_SUFFIXES]
    shown = [path.relative_to(root).as_posix() for path in files if _lists_images(path, images)]
    if not shown:
        return []
    more = f" and {len(shown) - MAX_LISTS} more" * (len(shown) > MAX_LISTS)
    return [
        f"{', '.join(shown[:MAX_LISTS])}{more} list images, not read: lists of splits are called train.txt, val.txt"
    ]


def _lists_images(path: Path, images: Container[str]) -> bool:
    """Return True if one of the first lines of a file, perhaps after a header, begins with an image."""
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in islice(file, MAX_LINES)]
        return any(Path(text).stem in images for line in lines for text in (line, *_SEPARATOR.split(line, 1)[:1]))
    return False
