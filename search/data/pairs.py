"""Images and labels of a split on disk."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import DataError, LgcError
from ...models.images import read_header
from .codings.coding import Coding
from .folders.unread import describe_annotations, describe_left_out
from .layouts.camvid import official_split
from .lists import ImageList, ListEntry, list_candidates, read_list
from .patterns import FilePattern

_SHAPE_KEEPING = (2, 3, 4)
"""EXIF orientations that keep height and width."""
UNLABELLED_SPLIT = "test"
"""Split whose labels may be missing altogether, since benchmarks do not publish them."""
FRAME_RULES: Mapping[str, Callable[[str], str | None]] = {"camvid": official_split}
"""Name in a `dataset.yaml` -> function from an image's stem to its split; None for unknown names."""


@dataclass(frozen=True)
class Pair:
    """An image and its label.

    Attributes:
        image: Path of the image.
        label: Path of the label; None if the benchmark does not publish it.
        coding: Meaning of the label's values.
    """

    image: Path
    label: Path | None
    coding: Coding


Match = tuple[Pair, Path]
"""A pair, and the path where its label is or was expected."""


@dataclass(frozen=True)
class LabelFiles:
    """Label files of a split.

    Attributes:
        files: Pattern of the labels.
        images: Pattern of the images that have such labels; its wildcards fill those of `files`.
        coding: Meaning of the values.
    """

    files: FilePattern
    images: FilePattern
    coding: Coding


@dataclass(frozen=True)
class Split:
    """Files of a split, each looked up once.

    Attributes:
        name: Name of the split.
        root: Folder of the dataset.
        images: Pattern of the images; None where the list has their paths.
        labels: Label files; the first that exists is an image's label.
        lists: List files; the first that exists is read.
        share: Interval of the numbers in 0..1 that are drawn for images, e.g. (0.8, 1.0); None for all images.
        seed: Seed of the draws.
        frames: Key of `FRAME_RULES` that selects images where no list exists; None for none.
        source: Files that define the split, for messages; None for the pattern.
    """

    name: str
    root: Path
    images: FilePattern | None
    labels: tuple[LabelFiles, ...]
    lists: tuple[Path, ...] = ()
    share: tuple[float, float] | None = None
    seed: int = 0
    frames: str | None = None
    source: str | None = None

    @cached_property
    def listing(self) -> Path | None:
        """List file; None if there is none."""
        return next((path for path in self.lists if path.is_file()), None)

    def describe(self) -> str:
        """Return the files that define the split, for the message that there are no images."""
        if self.listing is not None:
            return f"the content of {self.listing.name}"
        if self.frames is not None and self._has_known_frames():
            return "every frame of the split"
        if self.lists:
            return f"the list {self.lists[0].relative_to(self.root)}"
        if self.share is not None and self._files:
            return f"its share of {self.images}, drawn by seed {self.seed} (another seed may give some),"
        return self.source or str(self.images)

    def has_images(self) -> bool:
        """Return True if the split has images, or a list with an error, which is reported where the split is used."""
        try:
            return bool(self.entries)
        except DataError:
            return True

    @cached_property
    def entries(self) -> list[ListEntry]:
        """Images in the order of the list, else sorted, each with its label's name if the list has one.

        Raises:
            DataError: The list has an error.
        """
        if self._list is not None:
            return self._list.entries
        if self.images is None or (self.lists and self.frames is None):
            return []
        owned = {*self._labels_among_images}
        images = [image for image in self._files if image not in owned]
        if self.frames is not None:
            splits = [FRAME_RULES[self.frames](image.stem) for image in images]
            images = [] if None in splits else [i for i, own in zip(images, splits, strict=True) if own == self.name]
        if self.share is not None:
            first, last = self.share
            images = [image for image in images if first <= self._draw(image) < last]
        return [(image, None) for image in images]

    @cached_property
    def _list(self) -> ImageList | None:
        """Content of the list file; None if there is none."""
        return None if self.listing is None else read_list(self.listing, self.root, self.images)

    @cached_property
    def _files(self) -> list[Path]:
        """Files that match the pattern of the images; none without a pattern."""
        return [] if self.images is None else self.images.list_files()

    @cached_property
    def _labels_among_images(self) -> list[Path]:
        """Labels that the pattern of the images matches too, e.g. `x_mask.tif` of `*.tif`; sorted by path."""
        if self.images is None:
            return []
        folder = self.images.folder
        near = [files for files in self.labels if _contains(folder, files.files.folder)]
        return sorted({path for files in near for path in self._find_labels(files)})

    def _find_labels(self, files: LabelFiles) -> Iterator[Path]:
        """Yield the files of the images' pattern that are labels of another image, which exists."""
        num, images = files.files.num_wildcards, defaultdict[tuple[str, ...], list[Path]](list)
        if num < files.images.num_wildcards:  # the image's folders are not in the label's name
            for path in self._files:
                texts = files.images.match(path)
                if texts is not None:
                    images[texts[len(texts) - num :]].append(path)
        for path in self._files:
            texts = files.files.match(path) if files.files.selects(path) else None
            if texts is None or num > files.images.num_wildcards:
                continue
            if num == files.images.num_wildcards:
                owners = [image for image in files.images.fill(texts) if image != path and image.is_file()]
            else:
                owners = [image for image in images[texts] if image != path]
            if owners:
                yield path

    @property
    def notes(self) -> list[str]:
        """Files and parts of lists that are not read as images, a phrase each.

        Raises:
            DataError: The list has an error.
        """
        if self._list is not None:
            return [*self._list.notes]
        labels = self._labels_among_images if self.entries else []
        text = f"labels are among the files of {self.images}, not read as images: {len(labels)}"
        return [f"{text}, e.g. {labels[0].name}"] if labels else []

    def _draw(self, image: Path) -> float:
        """Return the number in 0..1 of an image, which follows from its name alone: further images move none."""
        name = image.relative_to(self.images.folder if self.images is not None else self.root).with_suffix("")
        digest = hashlib.sha256(f"{self.seed}:{name.as_posix()}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def pairs(self) -> list[Pair]:
        """Return the images and their labels.

        Raises:
            DataError: The list has an error, or an image has no label; the message has their number, the first one,
                and the label it lacks. Only `UNLABELLED_SPLIT` may lack all labels.
        """
        if problem := self.describe_missing():
            raise DataError(problem)
        return [pair for pair, _ in self.matches]

    def describe_missing(self) -> str | None:
        """Return how many images have no label, with the first one; None if labels are as complete as they must be.

        Raises:
            DataError: See `matches`.
        """
        missing = [(pair.image, path) for pair, path in self.matches if pair.label is None]
        images = len(self.matches)
        if not missing or (self.name == UNLABELLED_SPLIT and len(missing) == images):
            return None
        image, path = missing[0]
        noun, verb = "image" if images == 1 else "images", "has" if len(missing) == 1 else "have"
        problem = f"{len(missing)} of {images} {noun} {verb} no label; the first is {image}: no such file: {path}"
        hint = describe_annotations(image, path)
        if not hint and len(missing) < images:
            hint = "add masks, of background alone for images without objects, or leave images out by a list"
        return f"{problem}; {hint}" if hint else problem

    @cached_property
    def matches(self) -> list[Match]:
        """Each image with its label, None if there is none, and the path where it is or was expected.

        Raises:
            DataError: The list has an error, no label's name follows from an image's, or two images have one label.
        """
        matches = list[Match]()
        owners = dict[Path, Path]()
        for image, name in self.entries:
            candidates = self._list_candidates(image, name)
            label, coding = next((match for match in candidates if match[0].is_file()), (None, self.labels[0].coding))
            if label is not None and name is None and owners.setdefault(label, image) != image:
                raise DataError(f"{owners[label]} and {image} have the same label {label}: rename one, or use a list")
            expected = label or next((path for path, _ in candidates if path.parent.is_dir()), candidates[0][0])
            matches.append((Pair(image, label, coding), expected))
        return matches

    @cached_property
    def _owners(self) -> dict[Path, Path]:
        """Image of each label whose name follows from its image's."""
        named = {image for image, name in self.entries if name is not None}
        pairs = [pair for pair, _ in self.matches if pair.image not in named]
        return {pair.label: pair.image for pair in pairs if pair.label is not None}

    def require_own_labels(self, splits: Iterable[Split]) -> None:
        """Check that no image of another split has a label of this one, e.g. because two folders have equal names.

        Labels that a list names are not checked.

        Raises:
            DataError: Two images have one label.
        """
        others = [split for split in splits if split.name != self.name and split._shares_folder(self)]
        owners = self._owners if others else {}
        for split in others:
            try:
                others_owners = split._owners
            except (LgcError, OSError):  # reported where that split is used
                continue
            for label, image in others_owners.items():
                if owners.get(label, image) != image:
                    raise DataError(
                        f"{owners[label]} ({self.name}) and {image} ({split.name}) have the same label {label}: use a "
                        "folder of labels for each split, or lists that name the labels"
                    )

    def _shares_folder(self, other: Split) -> bool:
        """Return True if labels of this split and of another one may be in the same folder."""
        folders = [files.files.folder for files in self.labels]
        others = [files.files.folder for files in other.labels]
        return any(_contains(a, b) for a in folders for b in others)

    def _list_candidates(self, image: Path, name: str | None) -> Sequence[tuple[Path, Coding]]:
        """Return the possible labels of an image; `name` is that of a list."""
        if name is not None:
            folders = [files.files.folder for files in self.labels]
            paths = dict.fromkeys(path for folder in folders for path in list_candidates(name, self.root, folder))
            return [(path, self._find_coding(path)) for path in paths]
        candidates = list[tuple[Path, Coding]]()
        for files in self.labels:
            texts = files.images.match(image)
            if texts is not None:
                candidates += [(path, files.coding) for path in files.files.fill(texts)]
        if not candidates:
            raise DataError(
                f"no label's name follows from the image {image}: it does not match {self.labels[0].images.text}; "
                "a list may name the label behind the image"
            )
        return candidates

    def _find_coding(self, label: Path) -> Coding:
        """Return the coding of a label that a list names: that of the first pattern it matches, else the first."""
        return next(
            (files.coding for files in self.labels if files.files.match(label) is not None), self.labels[0].coding
        )

    def _has_known_frames(self) -> bool:
        return bool(self._files) and all(FRAME_RULES[str(self.frames)](image.stem) for image in self._files)


def _contains(folder: Path, other: Path) -> bool:
    """Return True if one of two folders is in the other, or they are equal."""
    return folder.is_relative_to(other) or other.is_relative_to(folder)


def require_pairs(pairs: list[Pair], split: Split, splits: Iterable[Split]) -> list[Pair]:
    """Return `pairs` unless empty.

    Raises:
        DataError: There are no pairs; the message names the files that define the split, and the available splits.
    """
    if not pairs:
        available = ", ".join(other.name for other in splits if other.has_images()) or "none"
        hints = [] if split.images is None or split.lists else describe_left_out(split.images)
        raise DataError(
            f"{split.root} has no {split.name} images: {split.describe()} is missing or empty "
            f"(available splits: {available}){''.join(f'; {hint}' for hint in hints)}"
        )
    return pairs


def list_doubtful_turns(pairs: Sequence[Pair]) -> list[str]:
    """Return a remark on images whose EXIF orientation rotates or mirrors them within their shape, unlike their labels.

    The labels of such images may be those of the stored pixels: both have the same size.
    """
    doubtful = list[Path]()
    for pair in pairs:
        try:
            header = read_header(pair.image)
            keeps_shape = header.orientation in _SHAPE_KEEPING or header.size[0] == header.size[1]
            if pair.label is not None and header.orientation != 1 and keeps_shape:
                doubtful += [pair.image] * (read_header(pair.label).orientation == 1)
        except DataError:  # reported where the file is used
            continue
    if not doubtful:
        return []
    return [
        f"{len(doubtful)} of {len(pairs)} images are rotated or mirrored by their EXIF orientation, e.g. "
        f"{doubtful[0]}, and their labels have none: these must be drawn on the upright images, else remove the "
        "images' orientation"
    ]
