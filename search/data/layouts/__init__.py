"""Known layouts of datasets, each a YAML file of this folder in the form of a `dataset.yaml`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ....errors import DataError, UnknownNameError
from ....models.space.settings import validate
from ....yaml_text import parse_yaml
from ..patterns import FilePattern
from ..schema import LayoutSettings
from .camvid import official_split

_FILES = sorted(Path(__file__).parent.glob("*.yaml"), key=lambda path: path.stem)  # cityscapes before its variants
LAYOUTS = {path.stem: path for path in _FILES}
"""Name of a layout -> its file, in the order of detection."""
SCENES_MARKER = "scenes.json"
"""File in which `lgc-scenes` notes the layout that it has written."""
MAX_SHOWN = 6
"""Number of a folder's entries in a message."""


def read_layout(name: str) -> dict[str, Any]:
    """Return the content of a layout's file, with that of the layout that it extends.

    Raises:
        UnknownNameError: There is no such layout.
    """
    if name not in LAYOUTS:
        raise UnknownNameError("layout", name, LAYOUTS)
    content = parse_yaml(LAYOUTS[name].read_text("utf-8"))
    assert isinstance(content, dict)
    base = content.pop("extends", None)
    return content if base is None else {**read_layout(base), **content}


@cache
def load_layout(name: str) -> LayoutSettings:
    """Return a known layout.

    Raises:
        UnknownNameError: There is no such layout.
    """
    return validate(LayoutSettings, read_layout(name), f"invalid layout {name}")


def detect_layout(root: Path) -> tuple[str, Path] | None:
    """Return the key of a folder's layout in `LAYOUTS`, and the folder or sub-folder that has it; None if unknown."""
    marked = _read_marker(root) or _read_marker(root.parent)
    for name in LAYOUTS:
        layout = load_layout(name)
        for base in find_roots(layout, root):
            if has_files(layout, base) and (not layout.frame_names or marked == name or _has_frame_names(layout, base)):
                return name, base
    return None


def has_files(layout: LayoutSettings, base: Path) -> bool:
    """Return True if a folder has the files by which a layout is recognised, whatever the names of the images."""
    return any(all(_has(base, part) for part in parts) for parts in layout.detect)


def find_roots(layout: LayoutSettings, root: Path) -> list[Path]:
    """Return the folders in which a layout's files may be."""
    return [root / folder for folder in layout.folders if (root / folder).is_dir()]


def describe_layouts(root: Path) -> str:
    """Return the names of the layouts, for messages, and the files that those need of which a folder has a part."""
    needs, others = dict[str, str](), dict[str, None]()
    for layout in map(load_layout, LAYOUTS):
        parts = {part for alternative in layout.detect for part in alternative}
        if any(_has(base, part) for base in find_roots(layout, root) for part in parts):
            needs.setdefault(layout.name, layout.needs)
        else:
            others[layout.name] = None
    names = ", ".join(name for name in others if name not in needs)
    return "; ".join([*(f"{name} needs {text}" for name, text in needs.items()), f"known layouts: {names}"])


def list_entries(root: Path) -> list[str]:
    """Return the names of a dataset folder's entries, with `/` after folders.

    Raises:
        DataError: The folder does not exist, cannot be read, or is empty.
    """
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"the dataset folder {root} {problem}")
    try:
        entries = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the dataset folder {root}: {error.strerror}") from error
    if not entries:
        raise DataError(f"the dataset folder {root} is empty")
    return entries


def _read_marker(root: Path) -> str | None:
    """Return the layout of generated scenes; None for other folders."""
    try:
        return str(json.loads((root / SCENES_MARKER).read_text("utf-8"))["layout"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has(base: Path, part: str) -> bool:
    """Return True if a part of a layout, a folder or a pattern of files, exists."""
    return (base / part).is_dir() if part.endswith("/") else any(base.glob(part))


def _has_frame_names(layout: LayoutSettings, base: Path) -> bool:
    """Return True if all images are called like CamVid's frames."""
    patterns = {str(layout.images).replace("{split}", split) for split in layout.splits}
    frames = [image for pattern in patterns for image in FilePattern(base, pattern).list_files()]
    return bool(frames) and all(official_split(image.stem) for image in frames)
