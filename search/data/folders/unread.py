"""Files of a dataset that are not read: other formats, broken links, boxes and polygons instead of masks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from glob import escape
from itertools import islice
from pathlib import Path

from ....errors import DataError
from ....files import describe
from ....models.image_folders import list_once, walk_folder
from ....models.images import CONVERT_HINT, IMAGE_SUFFIXES, JPEG_SUFFIXES, NETPBM_SUFFIXES, UNREAD_SUFFIXES
from ..patterns import FilePattern

ANNOTATIONS = {
    ".txt": "boxes or polygons as text (YOLO)",
    ".json": "boxes or polygons as JSON (COCO, labelme)",
    ".xml": "boxes or polygons as XML (Pascal VOC, CVAT)",
}
"""File extension of labels other than masks -> their content."""
MASKS_HINT = "masks are needed: draw them, one PNG per image"
"""Way out for boxes and polygons."""
YOLO_FIELDS = frozenset({"train", "names"})
"""Fields of a description for YOLO, which no `dataset.yaml` has."""
MAX_FILES = 20_000
"""Number of files of a folder of unknown layout that are looked at."""
_FORMATS = (JPEG_SUFFIXES, NETPBM_SUFFIXES, (".tif", ".tiff"))
"""File extensions of one format."""
_MASK_NAME = re.compile(r"(?P<image>.+)(?P<ending>[-_. ](masks?|labels?|gt|seg|segmentation))", re.IGNORECASE)
_COMMON_ANNOTATIONS = re.compile(r"coco|annotation|instances|via_", re.IGNORECASE)
"""Names of files with the annotations of many images."""
_Groups = Mapping[str, Sequence[Path]]
"""Files by their extensions."""


def describe_left_out(images: FilePattern, used: Collection[Path] = ()) -> list[str]:
    """Return remarks on the files at the place of a pattern that look like images, but are left out.

    These are images in formats that are not read, images of the pattern's format with another suffix, such as `.JPG`
    of `*.jpg`, broken links, and links to other files of the pattern.

    Args:
        images: Pattern of the images.
        used: Paths of images and labels, without suffixes: files called so are not reported.
    """
    links, selected, groups = list[Path](), list[Path](), defaultdict[str, list[Path]](list)
    with suppress(DataError):  # a folder that cannot be read, which is reported where the split is used
        for entry in images.content:
            path = entry.path
            if entry.is_link:
                links += [path] * (images.selects(path) or (not path.suffix and images.reaches(path)))
            elif images.selects(path):
                selected.append(path)
            elif images.matches_stem(path) and path.with_suffix("") not in used:
                groups[path.suffix].append(path)
    place = f"{images.folder.relative_to(images.root).as_posix()}/"
    other = {suffix: sorted(paths) for suffix, paths in groups.items() if _has_same_format(images, suffix)}
    unread = {suffix: sorted(paths) for suffix, paths in groups.items() if _is_unread(suffix, paths)}
    remarks = []
    if unread:
        remarks.append(f"{_count(unread, place)} a suffix that is not read ({_list_examples(unread)}): {CONVERT_HINT}")
    if other:
        text = images.text.removesuffix(Path(images.text).suffix)
        hint = f"rename them, or write `{text}.*`, which matches the suffixes of all images"
        remarks.append(f"{_count(other, place)} another suffix than {images} ({_list_examples(other)}): {hint}")
    if links:
        first = min(links)
        verb = "1 link is" if len(links) == 1 else f"{len(links)} links are"
        remarks.append(f"{verb} broken in {place}, left out, e.g. {first.name} to {first.readlink()}")
    if repeated := {*selected} - {*list_once(images.folder, selected)}:
        example = min(repeated).relative_to(images.root).as_posix()
        remarks.append(f"links lead to {len(repeated)} files in {place} again, left out there, e.g. {example}")
    return remarks


def _has_same_format(images: FilePattern, suffix: str) -> bool:
    """Return True if a suffix is of the format that the pattern's own suffix is of."""
    own, other = Path(images.text).suffix.lower(), suffix.lower()
    return not images.any_suffix and (own == other or any(own in group and other in group for group in _FORMATS))


def _is_unread(suffix: str, paths: Sequence[Path]) -> bool:
    """Return True if files of a suffix are images that are not read, by the suffix or by the first one's content."""
    lower = suffix.lower()
    if lower in IMAGE_SUFFIXES or lower in UNREAD_SUFFIXES:
        return lower in UNREAD_SUFFIXES
    with suppress(OSError):
        return describe(min(paths)).endswith(" image")
    return False


def _count(groups: _Groups, place: str) -> str:
    number = sum(map(len, groups.values()))
    return f"1 file in {place} has" if number == 1 else f"{number} files in {place} have"


def _list_examples(groups: _Groups) -> str:
    return ", ".join(f"{suffix or 'none'}: {groups[suffix][0].name}" for suffix in sorted(groups))


def describe_annotations(image: Path, label: Path) -> str:
    """Return what an image has instead of its label: boxes, or a mask in a subfolder; empty if there is nothing.

    Args:
        image: Path of the image.
        label: Path of the missing label.
    """
    named = [path.with_suffix(suffix) for path in (label, image) for suffix in ANNOTATIONS]
    files = [path for path in named if path.is_file()] or _list_common_annotations(label.parent)
    if files:
        return _describe_annotation(files[0])
    masks = sorted(path for path in label.parent.glob(f"*/{escape(label.stem)}.*") if path != image)
    if mask := next((path for path in masks if path.suffix.lower() in IMAGE_SUFFIXES), None):
        return f"{mask} exists: write a dataset.yaml whose `labels` are in {mask.parent.name}/"
    return ""


def _list_common_annotations(folder: Path) -> list[Path]:
    """Return the JSON and XML files in a folder without images."""
    with suppress(OSError):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
            return [path for path in files if path.suffix.lower() in (".json", ".xml")]
    return []


def _describe_annotation(path: Path) -> str:
    return f"{path} has {ANNOTATIONS[path.suffix.lower()]}, but {MASKS_HINT}"


def describe_loose_files(root: Path) -> str:
    """Return why a folder of images has no known layout: masks among them, or annotations without masks; else empty."""
    files = sorted(entry.path for entry in islice(walk_folder(root), MAX_FILES) if not entry.problem)
    images = {path.with_suffix(""): path for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    return _describe_mixed_masks(root, images) or _describe_loose_annotations(files, images.values())


def _describe_mixed_masks(root: Path, images: Mapping[Path, Path]) -> str:
    for stem, mask in images.items():
        match = _MASK_NAME.fullmatch(stem.name)
        image = None if match is None else images.get(stem.with_name(match["image"]))
        if match is not None and image is not None:
            place = "*" if image.parent == root else "**/*"
            labels = f"{place}{match['ending']}{mask.suffix}"
            return (
                f"images and masks are in one folder, e.g. {image.relative_to(root)} and {mask.name}: write a "
                f'dataset.yaml with `images: "{place}{image.suffix}"` and `labels: "{labels}"` (docs/datasets.md)'
            )
    return ""


def _describe_loose_annotations(files: Iterable[Path], images: Iterable[Path]) -> str:
    names = {path.stem for path in images}
    others = [path for path in files if path.suffix.lower() in ANNOTATIONS]
    for path in others if names else ():
        is_common = path.suffix.lower() != ".txt" and _COMMON_ANNOTATIONS.search(path.name)
        if path.stem in names or is_common:
            return _describe_annotation(path)
    return ""
