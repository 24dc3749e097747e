"""Splits of a folder without a description: where their images and labels are."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ....errors import DataError
from ....models.images import IMAGE_FOLDER, JPEG_SUFFIXES, LABEL_ENDINGS, LABEL_FOLDERS
from ..codings.coding import Coding
from ..pairs import UNLABELLED_SPLIT, LabelFiles, Split
from ..patterns import LABEL_SUFFIXES, FilePattern

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Name of a split -> names of its folder or list."""
LIST_FILES = tuple(f"{folder}{{}}.{end}" for folder in ("", "lists/", "list/", "splits/") for end in ("txt", "lst"))
TRAIN_SHARE = 0.8
"""Share of the training images where nothing splits them."""
MAX_ENDINGS = 3
"""Number of endings of unread files in a message."""
_SPLIT_NAMES = [(split, name) for split, names in SPLIT_FOLDERS.items() for name in names]
_NO_CODING = Coding("labels of unknown meaning", {}, {})
_PLAIN = ""
"""Ending of labels that are called like their images, whatever their suffix."""
_NUMBERED = re.compile(r".*\d\W*\.\w+")
"""Ending of one of several labels of an image."""


@dataclass(frozen=True)
class Source:
    """Files of a split, as patterns relative to the dataset's folder."""

    images: str
    labels: str
    list: str | None = None
    share: tuple[float, float] | None = None

    def open(self, root: Path, name: str) -> Split:
        """Return the split of that name."""
        images = FilePattern(root, self.images)
        labels = (LabelFiles(FilePattern(root, self.labels), images, _NO_CODING),)
        lists = () if self.list is None else (root / self.list,)
        return Split(name, root, images, labels, lists, self.share)

    def as_dict(self) -> dict[str, str]:
        """Return the fields of a `dataset.yaml`."""
        fields = {"images": self.images, "labels": self.labels}
        return fields if self.list is None else {**fields, "list": self.list}


@dataclass(frozen=True)
class FolderSources:
    """Splits of a folder.

    Attributes:
        splits: Name -> files of the split; empty if the folder has no folders of images and labels.
        folders: Folders of images, also of those that belong to no split.
        notes: Assumptions, a line each.
    """

    splits: dict[str, Source] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe_unused(self, root: Path, used: Iterable[Path]) -> list[str]:
        """Return a note on the images that belong to no split; empty if there are none."""
        known = {os.path.abspath(path) for path in used}  # noqa: PTH100
        images = [path for folder in self.folders for path in FilePattern(root, folder).list_files()]
        unused = sorted(path for path in images if os.path.abspath(path) not in known)  # noqa: PTH100
        return [f"images in no split: {len(unused)}, e.g. {unused[0].relative_to(root)}"] if unused else []


def find_sources(root: Path) -> FolderSources:
    """Return the splits of a folder: sub-folders, inside `images/` or around it, list files, or shares.

    Raises:
        DataError: There are several folders of labels, several candidates for a split, or a split without labels.
    """
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir()]
    around = {name: _find_labels(root / name) for name in folders if (root / name / IMAGE_FOLDER).is_dir()}
    splits = _choose(root, [(split, name) for split, name in _SPLIT_NAMES if name in around])
    if not any(around[name] for name in splits.values()):
        splits = {}
    if IMAGE_FOLDER in folders and (labels := _find_labels(root)) is not None:
        if splits:
            raise DataError(
                f"{root} has {IMAGE_FOLDER}/ and {next(iter(splits.values()))}/{IMAGE_FOLDER}/: write a dataset.yaml"
            )
        return _split_images(root, labels)
    if not splits:
        return _find_neighbours(root, folders)
    _require_labels(
        root, splits, {name for name, labels in around.items() if labels}, f"{IMAGE_FOLDER}/ without labels/"
    )
    sources = {
        split: Source(f"{name}/{IMAGE_FOLDER}", f"{name}/{around[name] or LABEL_FOLDERS[0]}")
        for split, name in splits.items()
    }
    return FolderSources(sources, tuple(f"{name}/{IMAGE_FOLDER}" for name in around))


def _find_neighbours(root: Path, folders: Sequence[str]) -> FolderSources:
    """Return the splits whose labels are in a folder next to that of the images, e.g. `train/` and `trainannot/`."""
    pairs = [(name, f"{name}{end}") for name in folders for end in LABEL_ENDINGS if f"{name}{end}" in folders]
    splits = _choose(root, [(split, name) for split, name in _SPLIT_NAMES if name in folders])
    labels = _choose(root, [(name, other) for name, other in pairs if name in splits.values()])
    if not labels:
        return FolderSources()
    _require_labels(root, splits, labels, "no folder of labels next to it, e.g. valannot/")
    sources = {split: Source(name, labels.get(name, f"{name}{LABEL_ENDINGS[0]}")) for split, name in splits.items()}
    return FolderSources(sources, tuple(dict.fromkeys(name for name, _ in pairs)))


def _split_images(root: Path, labels: str) -> FolderSources:
    """Return the splits of `images/`: list files, else sub-folders, else shares."""
    lists = _choose(
        root,
        [
            (split, form.format(name))
            for split, name in _SPLIT_NAMES
            for form in LIST_FILES
            if (root / form.format(name)).is_file()
        ],
    )
    inside = _choose(
        root / IMAGE_FOLDER, [(split, name) for split, name in _SPLIT_NAMES if (root / IMAGE_FOLDER / name).is_dir()]
    )
    if lists:
        if not {*inside} <= {*lists}:
            raise DataError(
                f"{root} has the lists {', '.join(lists.values())}, and the folders {', '.join(inside.values())} in "
                f"{IMAGE_FOLDER}/: remove the lists, add the missing ones, or write a dataset.yaml"
            )
        sources = {split: Source(IMAGE_FOLDER, labels, list=path) for split, path in lists.items()}
        notes = (f"splits are those of the lists {', '.join(lists.values())}",) if inside else ()
        return FolderSources(sources, (IMAGE_FOLDER,), notes)
    if inside:
        split_labels = any((root / labels / name).is_dir() for name in inside.values())
        sources = {
            split: Source(f"{IMAGE_FOLDER}/{name}", f"{labels}/{name}" if split_labels else labels)
            for split, name in inside.items()
        }
        return FolderSources(sources, (IMAGE_FOLDER,))
    train = round(100 * TRAIN_SHARE)
    sources = {
        "train": Source(IMAGE_FOLDER, labels, share=(0.0, TRAIN_SHARE)),
        "val": Source(IMAGE_FOLDER, labels, share=(TRAIN_SHARE, 1.0)),
    }
    note = f"there are no splits: train is {train} % of the images, val {100 - train} %, drawn by seed 0"
    return FolderSources(sources, (IMAGE_FOLDER,), (note,))


def _choose(root: Path, candidates: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the only candidate of each name.

    Raises:
        DataError: A name has several.
    """
    chosen = dict[str, str]()
    for name, candidate in candidates:
        if chosen.setdefault(name, candidate) != candidate:
            raise DataError(
                f"{root} has {chosen[name]} and {candidate}, both for {name}: move one away, or write a dataset.yaml"
            )
    return chosen


def _require_labels(root: Path, splits: Mapping[str, str], labelled: Container[str], problem: str) -> None:
    """Check that the folder of each split has labels, except that of test images.

    Raises:
        DataError: One has none.
    """
    for split, name in splits.items():
        if name not in labelled and split != UNLABELLED_SPLIT:
            raise DataError(f"{root / name} has {problem}: move it away, or write a dataset.yaml")


def _find_labels(root: Path) -> str | None:
    """Return the name of the folder of labels: of several, the only one with images.

    Raises:
        DataError: Several have images.
    """
    names = [name for name in LABEL_FOLDERS if (root / name).is_dir()]
    if len(names) < 2:
        return next(iter(names), None)
    filled = [name for name in names if FilePattern(root, name).has_files()]
    if len(filled) > 1 and (root / IMAGE_FOLDER).is_dir():
        raise DataError(f"{root} has {'/ and '.join(filled)}/: write a dataset.yaml that chooses one")
    return (filled or names)[0]


def complete_labels(root: Path, sources: Mapping[str, Source]) -> tuple[dict[str, Source], list[str]]:
    """Return the sources with the ending of their labels' names, e.g. `_mask.png`, and notes on unread files.

    Raises:
        DataError: Several label files belong to one image; or a list has an error.
    """
    completed, notes = dict[str, Source](), list[str]()
    texts = {text for source in sources.values() for text in (source.images, source.labels)}
    patterns = {text: FilePattern(root, text) for text in texts}
    listed = {text: pattern.list_files() for text, pattern in patterns.items()}
    for split, source in sources.items():
        labels, folder = patterns[source.labels].folder, patterns[source.images].folder
        entries = source.open(root, split).entries
        own = {_get_name(image, folder) for image, label in entries if label is None and folder in image.parents}
        same = {other.images for other in sources.values() if other.labels == source.labels}
        names = own | {_get_name(image, patterns[images].folder) for images in same for image in listed[images]}
        files = [path.relative_to(labels).as_posix() for path in listed[source.labels]]
        owners = {file: _list_owners(file, names) for file in files}
        ending = _choose_ending(owners, own)
        is_plain = ending == _PLAIN or ending.lower() in LABEL_SUFFIXES
        completed[split] = source if is_plain else replace(source, labels=f"{source.labels}/**/*{ending}")
        unread = _find_unread(owners, own, ending)
        _require_single_labels(labels, unread, ending)
        if unread:
            endings = Counter(file.removeprefix(owner) for file, owner in unread.items()).most_common()
            shown = [f"*{end}" for end, _ in endings[:MAX_ENDINGS]] + ["others"] * (len(endings) > MAX_ENDINGS)
            notes.append(f"{split}: {', '.join(shown)} in {source.labels}/ are not read as labels")
    return completed, notes


def _get_name(path: Path, folder: Path) -> str:
    """Return the path of a file below a folder, without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _list_owners(file: str, images: Container[str]) -> list[str]:
    """Return the images by whose names that of a label begins, the longest last; `a1.png` is no label of `a`."""
    first = file.rfind("/") + 2
    return [file[:end] for end in range(first, len(file)) if not file[end].isalnum() and file[:end] in images]


def _choose_ending(owners: Mapping[str, Sequence[str]], images: Container[str]) -> str:
    """Return the ending of most labels; that of JPEG files only where no other files are."""
    endings = Counter[str]()
    for file, candidates in owners.items():
        for end in (file.removeprefix(owner) for owner in candidates if owner in images):
            endings[_PLAIN if end.lower() in LABEL_SUFFIXES and not end.lower().endswith(JPEG_SUFFIXES) else end] += 1
    ranking = sorted(endings, key=lambda end: (end.lower().endswith(JPEG_SUFFIXES), -endings[end], len(end), end))
    return ranking[0] if ranking else _PLAIN


def _find_unread(owners: Mapping[str, Sequence[str]], images: Container[str], ending: str) -> dict[str, str]:
    """Return the files that belong to an image with several, but are not its label -> that image."""
    labels = dict[str, str]()
    for owner in {owner for candidates in owners.values() for owner in candidates}:
        forms = (f"{owner}{end}" for end in (LABEL_SUFFIXES if ending == _PLAIN else (ending,)))
        if label := next((form for form in forms if form in owners), None):
            labels[owner] = label
    read = {*labels.values()}
    rest = {file: candidates[-1] for file, candidates in owners.items() if candidates and file not in read}
    counts = Counter(rest.values())
    return {file: owner for file, owner in rest.items() if owner in images and (owner in labels or counts[owner] > 1)}


def _require_single_labels(folder: Path, unread: Mapping[str, str], ending: str) -> None:
    """Check that no image has several label files, but for JPEG files, and copies with endings of their own.

    Raises:
        DataError: An image has several.
    """
    for file, owner in unread.items():
        end = file.removeprefix(owner).lower()
        is_copy = ending == _PLAIN and end not in LABEL_SUFFIXES and not _NUMBERED.fullmatch(end)
        if not is_copy and not end.endswith(JPEG_SUFFIXES):
            raise DataError(
                f"{folder} has several label files of the image {owner}, e.g. {file}: join them into one, or write a "
                "dataset.yaml that chooses, e.g. `labels: masks/{split}/*_mask.png`"
            )
