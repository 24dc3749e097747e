"""Check of a whole dataset: counts, sizes and class histograms of its splits, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...models.images import read_pixels, read_size
from .codings.raw import RawLabel, unpack_colour
from .description import DatasetSpec, is_overlap
from .labels import IGNORE
from .pairs import UNLABELLED_SPLIT, Match, Pair
from .reading import read_classes
from .suspicions import MOSTLY, LabelSummary, count_remarks, summarise_label

PROBLEMS = {
    "unusable_splits": "unusable splits",
    "missing_labels": "images without a label",
    "damaged_images": "unreadable images",
    "damaged_labels": "unreadable labels",
    "size_mismatches": "labels whose size is not their image's",
    "unknown_values": "labels with unknown values",
    "leaks": "images in several splits",
}
"""Kind of a problem -> its name."""
MAX_SHOWN_VALUES = 5
"""Number of unknown values of a label in a message; a label saved as JPEG has thousands."""

Item = TypeVar("Item")
Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Problem:
    """Something to fix before the dataset is used.

    Attributes:
        kind: Key of `PROBLEMS`.
        splits: Names of the splits.
        files: Files concerned.
        text: What is wrong, with the files.
    """

    kind: str
    splits: tuple[str, ...]
    files: tuple[Path, ...]
    text: str


@dataclass(frozen=True, eq=False)
class SplitCheck:
    """Content of a split.

    Attributes:
        name: Name of the split.
        images: Number of images.
        checked: Number of those that were read.
        labelled: Number of those whose label could be read.
        sizes: Size of images (height, width) -> their number.
        class_pixels: Label pixels of each class, [classes].
        class_images: Images that contain each class, [classes].
        void_pixels: Ignored label pixels.
        unknown_pixels: Label pixels whose value has no meaning.
    """

    name: str
    images: int
    checked: int
    labelled: int
    sizes: Counter[Size]
    class_pixels: npt.NDArray[np.int64]
    class_images: npt.NDArray[np.int64]
    void_pixels: int
    unknown_pixels: int

    @property
    def pixels(self) -> int:
        """Number of label pixels."""
        return int(self.class_pixels.sum()) + self.void_pixels + self.unknown_pixels

    def share_pct(self, pixels: float) -> float | None:
        """Return a number of pixels in percent of all label pixels; None without labels."""
        return 100 * float(pixels) / self.pixels if self.pixels else None


@dataclass(frozen=True, eq=False)
class DatasetCheck:
    """Result of `check_dataset`.

    Attributes:
        splits: Splits with images.
        problems: Everything to fix.
        remarks: Everything else worth a look, a line each.
        examples: Images, with their splits, that together show as many classes as possible.
    """

    splits: tuple[SplitCheck, ...]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]
    examples: tuple[tuple[str, Pair], ...]


@dataclass(eq=False)
class _Scan:
    """Images of a split that have been read, and what was wrong with them.

    Attributes:
        name: Name of the split.
        classes: Number of classes.
        images: Number of images of the split.
        checked: Number of those that were read.
        sizes: Size of images -> their number.
        labels: Pairs with a readable label, and the classes that it contains, [classes].
        pixels: Label pixels of each class, void and unknown values last, [classes + 2].
        digests: Image -> key that equal images have in common.
        summaries: Values of the labels.
        image_remarks: Remarks on images that were decoded, with their paths.
        problems: What was wrong.
    """

    name: str
    classes: int
    images: int
    checked: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    labels: list[tuple[Pair, npt.NDArray[np.bool_]]] = field(default_factory=list)
    digests: dict[Path, tuple[object, ...]] = field(default_factory=dict)
    summaries: list[LabelSummary] = field(default_factory=list)
    image_remarks: list[tuple[str, Path]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    pixels: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.classes + 2, dtype=np.int64)

    def add(self, other: _Scan) -> None:
        """Add what was read of further images."""
        self.checked += other.checked
        self.sizes.update(other.sizes)
        self.labels += other.labels
        self.pixels += other.pixels
        self.digests |= other.digests
        self.summaries += other.summaries
        self.image_remarks += other.image_remarks
        self.problems += other.problems

    def read(self, pair: Pair, full: bool) -> None:
        """Read an image and its label; without `full`, only the header of the image."""
        self.checked += 1
        size = self._read_image(pair.image, full)
        if pair.label is None:
            return
        try:
            raw, labels = read_classes(pair.label, pair.coding, pair.image)
        except DataError as error:
            self._add_problem("damaged_labels", [pair.label], str(error))
            return
        if size not in (None, labels.shape):
            text = "{} is {}x{} pixels, its image {} {}x{}".format(pair.label, *labels.shape, pair.image, *(size or ()))
            self._add_problem("size_mismatches", [pair.label, pair.image], text)
        unknown = labels < 0
        counts = np.bincount(labels[~unknown], minlength=IGNORE + 1)
        if unknown.any():
            self._add_problem("unknown_values", [pair.label], f"{pair.label}: {_describe_values(raw, unknown)}")
        self.pixels += np.array([*counts[: self.classes], counts[IGNORE], unknown.sum()])
        self.labels.append((pair, counts[: self.classes] > 0))
        self.summaries.append(summarise_label(raw, labels, pair.coding))

    def _read_image(self, path: Path, full: bool) -> Size | None:
        """Return the size of an image, and note what equal images have in common; None if it cannot be read."""
        digest: tuple[object, ...]
        try:
            if full:
                pixels = read_pixels(path, on_remark=lambda text: self.image_remarks.append((text, path)))
                size = (pixels.shape[0], pixels.shape[1])
                digest = (size, hashlib.sha256(pixels.tobytes()).digest())
            else:
                size = read_size(path)
                digest = (size, path.stat().st_size)
        except (DataError, OSError) as error:
            self._add_problem("damaged_images", [path], str(error))
            return None
        self.sizes[size] += 1
        self.digests[path] = digest
        return size

    def _add_problem(self, kind: str, files: Sequence[Path], text: str) -> None:
        self.problems.append(Problem(kind, (self.name,), tuple(files), text))

    def summarise(self) -> SplitCheck:
        """Return the content of the split."""
        present = np.array([classes for _, classes in self.labels], dtype=bool).reshape(-1, self.classes)
        return SplitCheck(
            name=self.name,
            images=self.images,
            checked=self.checked,
            labelled=len(self.labels),
            sizes=self.sizes,
            class_pixels=self.pixels[: self.classes],
            class_images=present.sum(0),
            void_pixels=int(self.pixels[-2]),
            unknown_pixels=int(self.pixels[-1]),
        )


def _describe_values(raw: RawLabel, unknown: npt.NDArray[np.bool_]) -> str:
    """Return the unknown values of a label with their shares, the most frequent first."""
    values, first, counts = np.unique(raw.values[unknown], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))[:MAX_SHOWN_VALUES]
    shown = [
        f"{unpack_colour(value) if raw.is_coloured else value} ({100 * pixels / unknown.size:.3g} % of its pixels)"
        for value, pixels in zip(values[order].tolist(), counts[order].tolist(), strict=True)
    ]
    more = [f"and {len(values) - MAX_SHOWN_VALUES} more"] if len(values) > MAX_SHOWN_VALUES else []
    return f"unknown {'colours' if raw.is_coloured else 'values'}: {', '.join([*shown, *more])}"


def check_dataset(
    spec: DatasetSpec,
    *,
    sample: int | None = None,
    full: bool = True,
    examples: int = 0,
    on_start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> DatasetCheck:
    """Read the images and labels of all splits, and compare the splits with each other.

    Args:
        spec: The dataset.
        sample: Number of images of each split to read, evenly spaced; None for all.
        full: Decode every image: finds damaged files, and equal images in different files. Otherwise only the header
            of an image is read, and images are equal if their files are.
        examples: Number of example images to choose.
        on_start: Called with the number of images to read; returns a function that is called after each.

    Raises:
        DataError: No split has an image.
    """
    matched, problems = _match_splits(spec)
    chosen = {name: _choose_evenly(matches, sample) for name, matches in matched.items()}
    advance = on_start(sum(map(len, chosen.values())))
    remarks, scans = [*spec.notes, *spec.list_left_out()], list[_Scan]()
    for name, matches in chosen.items():
        scan = _Scan(name, spec.num_classes, len(matched[name]))
        with ThreadPoolExecutor() as pool:
            for part in pool.map(partial(_scan_image, name, spec.num_classes, full), matches):
                scan.add(part)
                advance()
        if name == UNLABELLED_SPLIT and all(pair.label is None for pair, _ in matched[name]):
            remarks.append(f"{name} has no labels: it can be predicted, not scored")
        else:
            problems += _list_missing_labels(name, matched[name])
        scans.append(scan)
        problems += scan.problems
    remarks += describe_empty_splits(spec, matched, problems).values()
    leaks, duplicates = _find_equal_images(scans, full)
    splits = tuple(scan.summarise() for scan in scans)
    remarks += spec.list_suspicions({scan.name: scan.summaries for scan in scans})
    for scan in scans:
        remarks += [f"{scan.name}: {text}" for text in count_remarks(scan.image_remarks, scan.checked, "images")]
    remarks += [*_list_ignored(scans), *duplicates, *_list_class_remarks(spec, splits)]
    remarks += _list_unused_labels(spec, matched)
    remarks += _describe_sample(splits)
    chosen_examples = _choose_examples(scans, spec.num_classes, examples)
    return DatasetCheck(splits, (*problems, *leaks), tuple(remarks), chosen_examples)


def _scan_image(split: str, classes: int, full: bool, match: Match) -> _Scan:
    """Return what was read of an image and its label."""
    scan = _Scan(split, classes, 1)
    scan.read(match[0], full)
    return scan


def _list_missing_labels(split: str, matches: Sequence[Match]) -> list[Problem]:
    """Return the images of a split without a label, also those that are not in the sample."""
    return [
        Problem("missing_labels", (split,), (pair.image,), f"{pair.image}: no such file: {expected}")
        for pair, expected in matches
        if pair.label is None
    ]


def _match_splits(spec: DatasetSpec) -> tuple[dict[str, list[Match]], list[Problem]]:
    """Return the images of each split that has some, with their labels, and the splits that cannot be listed.

    Raises:
        DataError: No split has an image.
    """
    matched: dict[str, list[Match]] = {}
    problems: list[Problem] = []
    for name, split in spec.splits.items():
        try:
            matches = split.matches
            split.require_own_labels(spec.splits.values())
        except DataError as error:
            problems.append(Problem("unusable_splits", (name,), (), str(error)))
            continue
        if matches:
            matched[name] = [*zip(spec.matched[name], (path for _, path in matches), strict=True)]
        elif split.listing is not None:
            problems.append(Problem("unusable_splits", (name,), (split.listing,), f"{split.listing} lists no image"))
    if not matched:
        needs = "; ".join(f"{name} needs {split.describe()}" for name, split in spec.splits.items())
        raise DataError(problems[0].text if problems else f"{spec.root} has no images: {needs}")
    problems += [
        Problem("unusable_splits", (name,), (), text)
        for name, text in describe_empty_splits(spec, matched, problems).items()
        if name != UNLABELLED_SPLIT
    ]
    return matched, problems


def describe_empty_splits(
    spec: DatasetSpec, matched: Container[str], problems: Iterable[Problem] = ()
) -> dict[str, str]:
    """Return the splits without images that the dataset's own description has, each with the files that it needs."""
    known = {name for problem in problems for name in problem.splits}
    return {
        name: f"{name} has no images: {spec.splits[name].describe()} is missing or empty"
        for name in spec.own_splits
        if name not in matched and name not in known
    }


def _choose_evenly(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """Return `count` evenly spaced items; None for all."""
    if count is None or count >= len(items):
        return items
    return [items[index * len(items) // count] for index in range(count)]


def _find_equal_images(scans: Sequence[_Scan], full: bool) -> tuple[list[Problem], list[str]]:
    """Return the images that several splits have in common, and a remark on each split with an image twice."""
    groups: dict[tuple[object, ...], list[tuple[str, Path]]] = {}
    for scan in scans:
        for path, digest in scan.digests.items():
            groups.setdefault(digest, []).append((scan.name, path))
    equal = [group for group in groups.values() if len(group) > 1]
    if not full:
        equal = [part for group in equal for part in _group_by_content(group)]
    leaks, repeated = list[Problem](), Counter[str]()
    for group in equal:
        splits = tuple(dict.fromkeys(split for split, _ in group))
        if is_overlap(splits):
            text = " = ".join(f"{path} ({split})" for split, path in group)
            leaks.append(Problem("leaks", splits, tuple(path for _, path in group), text))
        for split in splits:
            repeated[split] += sum(other == split for other, _ in group) - 1
    counts = {split: count for split, count in repeated.items() if count}
    return leaks, [f"repeated images in {split}: {count}" for split, count in counts.items()]


def _group_by_content(group: Iterable[tuple[str, Path]]) -> list[list[tuple[str, Path]]]:
    """Return the groups of files with equal bytes."""
    groups: dict[bytes, list[tuple[str, Path]]] = {}
    for split, path in group:
        groups.setdefault(hashlib.sha256(path.read_bytes()).digest(), []).append((split, path))
    return [part for part in groups.values() if len(part) > 1]


def _list_ignored(scans: Iterable[_Scan]) -> list[str]:
    """Return a remark on each split with labels most of whose pixels are ignored."""
    remarks = []
    for scan in scans:
        ignored = [label for label in scan.summaries if label.ignored_share > MOSTLY]
        if ignored:
            share = 100 * max(label.ignored_share for label in ignored)
            text = f"labels of {scan.name} with more than {100 * MOSTLY:.0f} % ignored pixels"
            remarks.append(f"{text}: {len(ignored)} of {len(scan.summaries)}, up to {share:.1f} %")
    return remarks


def _list_class_remarks(spec: DatasetSpec, splits: Sequence[SplitCheck]) -> list[str]:
    """Return remarks on classes that no label has, or that only other splits than train have."""
    seen = {split.name: split.class_images > 0 for split in splits if split.labelled}
    if not seen:
        return ["no split has labels"]
    anywhere = np.asarray(np.stack(list(seen.values())).any(0))
    trained = seen.get("train", anywhere)
    of_sample = " of the sample" if any(split.checked < split.images for split in splits) else ""
    never = [spec.classes[index] for index in np.flatnonzero(~anywhere)]
    untrained = [spec.classes[index] for index in np.flatnonzero(anywhere & ~trained)]
    return [
        *([f"classes in no label{of_sample}: {', '.join(never)}"] if never else []),
        *([f"classes in no label of train{of_sample}: {', '.join(untrained)}"] if untrained else []),
    ]


def _describe_sample(splits: Sequence[SplitCheck]) -> list[str]:
    """Return a remark on what a sample of the images cannot show."""
    checked, images = (sum(getattr(split, name) for split in splits) for name in ("checked", "images"))
    text = (
        f"of {images} images {checked} were read: in the others, damaged files, sizes, values and leaks remain unknown"
    )
    return [text] if checked < images else []


def _list_unused_labels(spec: DatasetSpec, matched: Mapping[str, list[Match]]) -> list[str]:
    """Return a remark on each pattern of labels that has files which belong to no image of any split."""
    used = {path.with_suffix("") for matches in matched.values() for _, path in matches}
    patterns = {labels.files.text: labels.files for name in matched for labels in spec.splits[name].labels}
    remarks = []
    for pattern in patterns.values():
        files = pattern.list_files()
        unused = [path for path in files if path.with_suffix("") not in used]
        if 0 < len(unused) < len(files):  # all of them: another form of the labels
            remarks.append(f"labels in {pattern} without an image in any split: {len(unused)}, e.g. {unused[0].name}")
    return remarks


def _choose_examples(scans: Sequence[_Scan], classes: int, count: int) -> tuple[tuple[str, Pair], ...]:
    """Return `count` labelled images, spread over the splits, that together show as many classes as possible."""
    usable = [(scan.name, *label) for scan in scans for label in scan.labels if label[0].image in scan.digests]
    present = np.array([seen for *_, seen in usable], dtype=bool).reshape(-1, classes)
    missing, chosen = np.ones(classes, dtype=bool), set[int]()
    while len(chosen) < count and (present & missing).any():
        best = int((present & missing).sum(1).argmax())
        chosen.add(best)
        missing &= ~present[best]
    rest = [index for index in range(len(usable)) if index not in chosen]
    chosen |= set(_choose_evenly(rest, count - len(chosen)))
    return tuple(usable[index][:2] for index in sorted(chosen))
