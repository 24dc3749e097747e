"""Description of a folder of images and labels: the content of a `dataset.yaml`, for the user to edit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ....errors import DataError
from ....models.images import LABEL_ENDINGS
from .classes import collect_classes
from .sources import complete_labels, find_sources


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
            an image has no label; or the values cannot be classes.
    """
    known = find_sources(root)
    if not known.splits:
        return None
    sources, unread = complete_labels(root, known.splits)
    pairs = {split: source.open(root, split).pairs() for split, source in sources.items()}
    labels = sorted({pair.label for part in pairs.values() for pair in part if pair.label is not None})
    first = sources[next(iter(sources))]
    if not labels:
        raise DataError(f"{root} has no image with a label in {first.labels}")
    unused = known.describe_unused(root, (pair.image for part in pairs.values() for pair in part))
    stats = [(path, path.stat()) for path in labels]
    collected = collect_classes(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))
    notes = [*collected.notes, *unread, *unused, *known.notes]
    if first.labels.startswith(tuple(f"{first.images}{ending}" for ending in LABEL_ENDINGS)):
        notes.append(
            "the folders are those of SegNet's CamVid, the names of the images are not: if these are CamVid's classes, "
            "write a dataset.yaml with `extends: camvid-segnet`"
        )
    fields: dict[str, Any] = {"splits": {split: source.as_dict() for split, source in sources.items()}}
    if first.share is not None:
        shares = {split: source.share for split, source in sources.items() if source.share is not None}
        fields = {**first.as_dict(), "seed": 0}
        fields["splits"] = {split: {"share": round(end - start, 6)} for split, (start, end) in shares.items()}
    name = re.sub(r"[^\w.+ -]", "-", root.resolve().name) or "dataset"
    lines = tuple(f"{name}: {note}" for note in notes)
    return FolderDescription({"name": name, **fields, **collected.fields}, collected.origin, lines)
