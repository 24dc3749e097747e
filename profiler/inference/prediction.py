"""Segmentation of images and videos into files, with class shares and latencies of each part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError, FileFormatError, MeasurementError, UsageError
from ...files import format_error, hash_file, is_lfs_pointer
from ...models.images import RGBImage
from ...models.nets.definition import WEIGHTS_FILE, read_record
from ...models.onnx.signature import DIGEST_KEY, PARITY_KEY, WEIGHTS_KEY
from ..deployment.network import Log
from .media import MediaFile, raise_unreadable
from .painting import Legend, Painter
from .resampling import Labels
from .segmenter import SegmentationTime, Segmenter

if TYPE_CHECKING:
    from pydantic import JsonValue

IMAGE_PARTS = ("read", "before", "network", "after", "write")
"""Parts of an image's time: decoding; resizing, normalising; the network; classes at full size; painting, encoding."""
FPS_PARTS = IMAGE_PARTS[1:4]
"""Parts that the frame rate includes."""


@dataclass
class Prediction:
    """Outputs so far.

    Attributes:
        files: written files.
        pixels: number of pixels per class.
        times_ms: milliseconds of each image, by part.
        errors: error message of each unreadable file.
        remarks: files by the remark that applies to them.
    """

    files: list[str] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    times_ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in IMAGE_PARTS})
    errors: dict[Path, str] = field(default_factory=dict)
    remarks: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, labels: Labels, read_ms: float, segmentation: SegmentationTime, write_ms: float) -> None:
        """Add one image."""
        from PIL import Image

        counts = Image.fromarray(labels).histogram()  # NumPy's would first convert the labels to 8 bytes each
        self.pixels.update({index: count for index, count in enumerate(counts) if count})
        times = (read_ms, segmentation.before_ms, segmentation.network_ms, segmentation.after_ms, write_ms)
        for part, ms in zip(IMAGE_PARTS, times, strict=True):
            self.times_ms[part].append(ms)

    def merge(self, other: Prediction) -> None:
        """Add the outputs for another file."""
        self.files += other.files
        self.pixels.update(other.pixels)
        for part, values in other.times_ms.items():
            self.times_ms[part] += values
        for remark, paths in other.remarks.items():
            self.remarks.setdefault(remark, []).extend(paths)

    def add_remark(self, remark: str, path: Path) -> None:
        """Add a remark on a file."""
        paths = self.remarks.setdefault(remark, [])
        if path not in paths:
            paths.append(path)

    def describe_remarks(self) -> list[str]:
        """Return one line per remark, with its first file and the number of others."""
        return [
            f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {remark}"
            for remark, paths in self.remarks.items()
        ]

    @property
    def images(self) -> int:
        """Number of images, frames of videos included."""
        return len(self.times_ms["network"])

    @property
    def median_ms(self) -> dict[str, float]:
        """Median milliseconds per image, by part."""
        return {part: float(np.median(values)) for part, values in self.times_ms.items()}

    @property
    def fps(self) -> float:
        """Frames per second, without reading and writing."""
        medians = self.median_ms
        return 1000 / sum(medians[part] for part in FPS_PARTS)

    def class_shares(self, legend: Legend) -> dict[str, float]:
        """Return each class's share of all pixels, in percent; classes without pixels are included."""
        total = sum(self.pixels.values())
        shares = dict.fromkeys(legend.names, 0.0)
        for index, count in sorted(self.pixels.items()):
            shares[legend.name(index)] = shares.get(legend.name(index), 0.0) + 100 * count / total
        return shares

    def as_dict(self, legend: Legend) -> dict[str, JsonValue]:
        """Return a JSON object."""
        return {
            "files": [*self.files],
            "failed": {str(path): message for path, message in self.errors.items()},
            "images": self.images,
            "classes": {**self.class_shares(legend)},
            "ms_per_image": {**self.median_ms},
            "fps": self.fps,
        }


def find_exported_file(source: Path, log: Log = print) -> Path:
    """Return the file itself; for a run folder its newest ONNX file of its weights, in scope dense if there is one.

    Args:
        source: ONNX file, engine or run folder.
        log: receives a line for each damaged file that is skipped.

    Raises:
        UsageError: the run folder has no exported file, or none of its weights, e.g. as it was trained afterwards, or
            as its outputs differ from torch's.
        FileFormatError: all exported files are damaged, or the weights are a Git LFS pointer.
    """
    if not source.is_dir():
        return source
    files = sorted((source / "export").glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    candidates = sorted(files, key=lambda path: not path.stem.endswith("-dense"))
    if not candidates:
        record = read_record(source)
        network = f" --network {quote(record.reference)}" if record is not None and record.kind == "factory" else ""
        raise UsageError(f"no exported file in {source}: run lgc-export {quote(str(source))}{network}")
    weights = source / WEIGHTS_FILE
    if not weights.exists():
        return candidates[0]
    if is_lfs_pointer(weights):
        raise format_error(weights, "weights")
    digest = hash_file(weights)
    stale: list[str] = []
    damaged: list[FileFormatError] = []
    for path in candidates:
        try:
            fault = _find_fault(path, weights, digest)
        except FileFormatError as error:
            damaged.append(error)
            continue
        if not fault:
            for failure in damaged:
                log(f"skipped: {failure}")
            return path
        stale.append(f"{path} {fault}")
    raise UsageError(stale[0]) if stale else damaged[0]


def _find_fault(path: Path, weights: Path, digest: str) -> str:
    """Return why an exported file is not the network with the weights of a run and their digest; empty if it is."""
    from ...models.onnx.model import read_metadata

    metadata = read_metadata(path)
    if PARITY_KEY in metadata:
        return "differs from torch by more than its precision allows: export in fp32, or pass the file itself"
    if metadata.get(WEIGHTS_KEY) == "random":
        fault = "has random weights"
    elif DIGEST_KEY in metadata:
        fault = "" if metadata[DIGEST_KEY] == digest else "has other weights"
    else:  # a file of an earlier version
        fault = "" if path.stat().st_mtime >= weights.stat().st_mtime else "is older"
    return fault and f"{fault}, so it is not the network of {weights}: run lgc-export {weights.parent} again"


def segment_media(
    media: Sequence[MediaFile],
    segmenter: Segmenter,
    painter: Painter,
    *,
    errors: Mapping[Path, str],
    on_step: Callable[[int, int], None],
    log: Log = print,
) -> Prediction:
    """Segment every readable file and write its outputs.

    Args:
        media: images and videos.
        segmenter: network.
        painter: writer of the outputs.
        errors: error messages of files that are unreadable already, from `list_media`.
        on_step: receives the numbers of finished and of all images; frames of videos are estimated.
        log: receives remarks on the files.

    Raises:
        DataError: no file is readable.
        MeasurementError: the network returns invalid outputs.
        OutputError: an output cannot be written.
    """
    prediction = Prediction(errors=dict(errors))
    total, done = sum(file.frames for file in media), 0
    for file in media:

        def report(count: int, file: MediaFile = file, done: int = done) -> None:
            on_step(done + min(count, file.frames), total)

        try:
            prediction.merge(_segment_file(file, segmenter, painter, report))
        except DataError as error:
            prediction.errors[file.path] = str(error)
        done += file.frames
    for line in prediction.describe_remarks():
        log(line)
    if not prediction.files:
        raise_unreadable(prediction.errors, log)
    return prediction


def _segment_file(
    file: MediaFile, segmenter: Segmenter, painter: Painter, on_image: Callable[[int], None]
) -> Prediction:
    """Segment one file."""
    prediction = Prediction()
    with painter.open_writer(file) as write:
        start = time.perf_counter()
        for pixels in file.read(partial(prediction.add_remark, path=file.path)):
            read = time.perf_counter()
            labels, segmentation = _segment(segmenter, pixels, file.path)
            segmented = time.perf_counter()
            write(pixels, labels)
            end = time.perf_counter()
            prediction.add(labels, 1000 * (read - start), segmentation, 1000 * (end - segmented))
            on_image(prediction.images)
            start = time.perf_counter()
    prediction.files += [str(path) for path in file.outputs(painter.ids).values()]
    return prediction


def _segment(segmenter: Segmenter, pixels: RGBImage, path: Path) -> tuple[Labels, SegmentationTime]:
    """Segment an image; errors name the network and the image."""
    try:
        return segmenter.segment_timed(pixels)
    except MeasurementError as error:
        raise MeasurementError(f"{segmenter.network.where}, image {path}: {error}") from error
