"""Folders of images: listing through links, and the label maps among the images."""

from __future__ import annotations

import errno
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from ..errors import DataError
from .images import (
    IMAGE_FOLDER,
    IMAGE_SUFFIXES,
    LABEL_ENDINGS,
    LABEL_FOLDERS,
    SYSTEM_NAMES,
    OnRemark,
    decode_image,
    ignore_remark,
)

MAX_LABEL_COLOURS, LABEL_SHARE = 64, 0.98
"""The most frequent colours of a label map, and their share of its pixels; the rest are blurred borders."""
FLAT_SHARE = 0.75
"""Smallest share of a label map's pixels that equal the next one in their row."""
MAX_COLOURS = 1 << 16
"""Colours that are counted; a label map has fewer."""
NUM_SAMPLES = 3
"""Files of a group that are read to tell label maps from photographs."""
MAX_FOLDERS = 4
"""Number of folders in a message."""

Relation = tuple[Path, str, str, str]
"""Folder of a file, its extension, and what its stem has before and after that of another image, digits as 0."""


@dataclass(frozen=True)
class FolderEntry:
    """File below a folder, or a subfolder or link that cannot be read.

    Attributes:
        path: Its path.
        problem: Error message; empty for a file.
        is_link: True for a broken link.
    """

    path: Path
    problem: str = ""
    is_link: bool = False


@dataclass(frozen=True)
class FolderListing:
    """Files in a folder and its subfolders, each list sorted by path.

    Attributes:
        folder: The folder.
        images: Images by their extensions.
        others: Other files.
        errors: Error messages of subfolders that cannot be read and of broken links.
    """

    folder: Path
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    errors: dict[Path, str] = field(default_factory=dict)

    def require_images(self, hint: str = "") -> None:
        """Raise a DataError, with a hint at its end, if there are no images."""
        if not self.images:
            reason = next(
                iter(self.errors.values()), f"no images in folder {self.folder} ({', '.join(IMAGE_SUFFIXES)})"
            )
            raise DataError(f"{reason}{hint}")


def list_images(path: Path, on_remark: OnRemark = ignore_remark) -> list[Path]:
    """Return `path` if it is a file; else the visible images in that folder and its subfolders, sorted by path.

    Args:
        path: File or folder.
        on_remark: Receives a remark on each broken link that is not called like an image.

    Raises:
        DataError: `path` does not exist, a folder cannot be read, or there are no images.
    """
    if path.is_file():
        return [path]
    listing = list_folder(path)
    listing.require_images()
    for file, message in listing.errors.items():
        if not file.is_symlink() or file.exists():
            raise DataError(message)
        on_remark(message)
    return listing.images


def list_folder(folder: Path) -> FolderListing:
    """List a folder and its subfolders, see `walk_folder`; images as `list_once` does.

    Raises:
        DataError: The folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"no such file or folder: {folder}")
    listing = FolderListing(folder)
    for entry in sorted(walk_folder(folder), key=lambda entry: entry.path):
        is_image = entry.path.suffix.lower() in IMAGE_SUFFIXES
        if entry.problem and not (is_image and entry.is_link):  # the error of an image is that of reading it
            listing.errors[entry.path] = entry.problem
        else:
            (listing.images if is_image else listing.others).append(entry.path)
    return replace(listing, images=list_once(folder, listing.images))


def list_once(folder: Path, files: Iterable[Path]) -> list[Path]:
    """Return files in a folder, sorted, without those that links lead to again: `latest/1.png` for `latest -> day5`.

    The path without a link below the folder is kept, else the first. Links that give a file another name are kept.
    """
    paths = sorted(files)
    names = Counter(path.name for path in paths)
    real = resolve_files(path for path in paths if names[path.name] > 1)
    root = Path(os.path.realpath(folder))
    kept = dict[Path, Path]()
    for path in sorted(paths, key=lambda path: path in real and real[path] != root / path.relative_to(folder)):
        file = real.get(path, path)
        kept.setdefault(file if file.name == path.name else path, path)
    return sorted(kept.values())


def resolve_files(files: Iterable[Path]) -> dict[Path, Path]:
    """Return the real path of each file. The folders are listed, so that only links take a call each."""
    folders = defaultdict[Path, list[Path]](list)
    for path in files:
        folders[path.parent].append(path)
    resolved = dict[Path, Path]()
    for folder, paths in folders.items():
        links, real = set[str](), Path(os.path.realpath(folder))
        with suppress(OSError), os.scandir(folder) as entries:
            links.update(entry.name for entry in entries if entry.is_symlink())
        for path in paths:
            resolved[path] = Path(os.path.realpath(path)) if path.name in links else real / path.name
    return resolved


def walk_folder(folder: Path, depth: float = math.inf) -> Iterator[FolderEntry]:
    """Yield the files in a folder, and in subfolders up to a depth; and subfolders and links that cannot be read.

    Links are followed, except to a folder that contains them. Hidden files and `SYSTEM_NAMES` are left out, as is a
    folder that does not exist. The order is arbitrary.
    """
    yield from _walk(folder, depth, ())


def _walk(folder: Path, depth: float, parents: tuple[os.stat_result, ...]) -> Iterator[FolderEntry]:
    """Yield the content of a folder; `parents` are the folders above it."""
    try:
        status = folder.stat()
        if any(os.path.samestat(status, parent) for parent in parents):
            return
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not _is_hidden(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield FolderEntry(folder, f"cannot read the folder {folder}: {error.strerror}")
        return
    for entry in visible:
        path = folder / entry.name
        problem = _describe_broken_link(path) if entry.is_symlink() else ""
        if problem:
            yield FolderEntry(path, problem, is_link=True)
        elif entry.is_file():
            yield FolderEntry(path)
        elif entry.is_dir() and depth > 0:
            yield from _walk(path, depth - 1, (*parents, status))


def _is_hidden(name: str) -> bool:
    """Return True for the name of a file or folder that is never listed."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _describe_broken_link(path: Path) -> str:
    """Return the error of a link that leads nowhere; empty for others."""
    try:
        path.stat()
    except OSError as error:
        is_broken = error.errno == errno.ENOENT
        return f"cannot read {path}: {f'broken link to {path.readlink()}' if is_broken else error.strerror}"
    return ""


def find_labels(folder: Path, images: Sequence[Path]) -> list[Path]:
    """Return the label maps among the images of a folder.

    These are all files in a folder of labels by its name, e.g. `masks/` next to `images/`, or `trainannot/` next to
    `train/`; and files that repeat the name of an image, e.g. `x_mask.png` of `x.jpg`, or `Masks2/x.png` of
    `photos/x.jpg`, and have few colours in flat areas, while that image has not.
    """
    by_name = {path for path in images if _is_in_label_folder(path, folder)}
    by_content = _find_label_maps([path for path in images if path not in by_name])
    return sorted(by_name | by_content)


def describe_files(folder: Path, files: Sequence[Path]) -> str:
    """Return number and folders of files below a folder, with an example: `2 in masks/, e.g. masks/1.png`."""
    folders = sorted({f"{path.parent.relative_to(folder)}/" for path in files})
    more = f" and {len(folders) - MAX_FOLDERS} more" if len(folders) > MAX_FOLDERS else ""
    return f"{len(files)} in {', '.join(folders[:MAX_FOLDERS])}{more}, e.g. {files[0].relative_to(folder)}"


def _is_in_label_folder(path: Path, source: Path) -> bool:
    """Return True if a folder between a source and a file has labels by its name."""
    return any(_has_label_name(folder) for folder in path.parents if folder != source and folder.is_relative_to(source))


@cache
def _has_label_name(folder: Path) -> bool:
    """Return True for a folder of labels: by its name, and by that of the images' folder next to it."""
    name = folder.name.lower()
    if name in LABEL_FOLDERS:
        return (folder.parent / IMAGE_FOLDER).is_dir()
    stems = (folder.name[: -len(ending)] for ending in LABEL_ENDINGS if name.endswith(ending))
    return any(stem and (folder.parent / stem).is_dir() for stem in stems)


def _find_label_maps(images: Sequence[Path]) -> set[Path]:
    """Return the images that repeat the name of another and look like label maps, by a sample of each relation."""
    by_stem = defaultdict[str, list[Path]](list)
    for path in images:
        by_stem[path.stem].append(path)
    related = defaultdict[Relation, list[tuple[Path, str]]](list)
    for path in images:
        for before, stem, after in _split_stem(path.stem):
            if len(by_stem.get(stem, ())) > (stem == path.stem):  # not that file alone
                form = re.sub(r"\d+", "0", before), re.sub(r"\d+", "0", after)
                related[(path.parent, path.suffix, *form)].append((path, stem))
    labels, look = set[Path](), cache(_looks_like_labels)
    for members in related.values():
        sample = members[:: -(-len(members) // NUM_SAMPLES)]
        named = (other for path, stem in sample for other in by_stem[stem] if other != path)
        if all(look(path) for path, _ in sample) and any(look(other) is False for other in named):
            labels.update(path for path, _ in members)
    return labels


def _split_stem(stem: str) -> Iterator[tuple[str, str, str]]:
    """Yield a stem as that of another image, with what precedes or follows it: `x_mask` is `x`, `mask` and itself."""
    yield "", stem, ""
    for gap in re.finditer(r"[-_. ]", stem):
        yield "", stem[: gap.start()], stem[gap.start() :]
        yield stem[: gap.end()], stem[gap.end() :], ""


def _looks_like_labels(path: Path) -> bool | None:
    """Return True for an image of few colours in flat areas; None if it cannot be read."""
    try:
        image = decode_image(path)
    except DataError:
        return None
    values = np.asarray(image)
    if image.mode[0] in "IF":
        counts = np.unique(values, return_counts=True)[1].tolist()
    else:
        counts = [count for count, _ in image.getcolors(MAX_COLOURS) or ()]
    most = sum(sorted(counts, reverse=True)[:MAX_LABEL_COLOURS])
    equal = values[:, 1:] == values[:, :-1]
    flat = equal.reshape(*equal.shape[:2], -1).all(-1)
    return most >= LABEL_SHARE * image.width * image.height and bool(flat.sum() >= FLAT_SHARE * flat.size)
