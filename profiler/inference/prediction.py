"""Segmentation of images and videos into files, with class shares and latencies of each part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError, MeasurementError, UsageError
from ...models.images import RGBImage
from ..deployment.network import Log
from .media import MediaFile
from .painting import Legend, Painter
from .segmenter import Labels, SegmentationTime, Segmenter

if TYPE_CHECKING:
    from pydantic import JsonValue

IMAGE_PARTS = ("read", "before", "network", "after", "write")
"""Parts of an image's time: decoding; resizing, normalising; the network; classes at full size; painting, encoding."""
FPS_PARTS = IMAGE_PARTS[1:4]
"""Parts that the frame rate includes."""
MIN_FRAME_SHARE = 0.9
"""Share of a video's estimated frames below which it is reported as truncated."""


@dataclass
class Prediction:
    """Outputs so far.

    Attributes:
        files: written files.
        pixels: number of pixels per class.
        times_ms: milliseconds of each image, by part.
    """

    files: list[str] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    times_ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in IMAGE_PARTS})

    def add(self, labels: Labels, read_ms: float, segmentation: SegmentationTime, write_ms: float) -> None:
        """Add one image."""
        counts = np.bincount(labels.ravel())
        self.pixels.update({int(index): int(counts[index]) for index in counts.nonzero()[0]})
        times = (read_ms, segmentation.before_ms, segmentation.network_ms, segmentation.after_ms, write_ms)
        for part, ms in zip(IMAGE_PARTS, times, strict=True):
            self.times_ms[part].append(ms)

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
            "images": self.images,
            "classes": {**self.class_shares(legend)},
            "ms_per_image": {**self.median_ms},
            "fps": self.fps,
        }


def find_exported_file(source: Path) -> Path:
    """Return the file itself; for a run folder its newest ONNX file in scope dense, else in any scope.

    Raises:
        UsageError: the run folder has no exported file.
    """
    if not source.is_dir():
        return source
    files = sorted((source / "export").glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    candidates = [path for path in files if path.stem.endswith("-dense")] or files
    if not candidates:
        raise UsageError(f"no exported file in {source}: run lgc-export {source}")
    return candidates[-1]


def segment_media(
    media: Sequence[MediaFile],
    segmenter: Segmenter,
    painter: Painter,
    *,
    on_step: Callable[[int, int], None],
    log: Log = print,
) -> Prediction:
    """Segment every file and write its outputs.

    Args:
        media: images and videos.
        segmenter: network.
        painter: writer of the outputs.
        on_step: receives the numbers of finished and of all images; frames of videos are estimated.
        log: receives remarks on truncated videos.

    Raises:
        DataError: a file is damaged; the outputs of the files before it are complete.
        MeasurementError: the network returns invalid outputs.
        OutputError: an output cannot be written.
    """
    prediction = Prediction()
    total, done = sum(file.frames for file in media), 0
    for file in media:

        def report(count: int, file: MediaFile = file, done: int = done) -> None:
            on_step(done + min(count, file.frames), total)

        try:
            count = _segment_file(file, segmenter, painter, prediction, report)
        except DataError as error:
            kept = f"; {len(prediction.files)} output files are complete" if prediction.files else ""
            raise DataError(f"{error}{kept}") from error
        if count < MIN_FRAME_SHARE * file.frames:
            log(f"{file.path} has only {count} of {file.frames} frames: it may be truncated")
        prediction.files += [str(path) for path in file.outputs(painter.ids).values()]
        done += file.frames
    return prediction


def _segment_file(
    file: MediaFile,
    segmenter: Segmenter,
    painter: Painter,
    prediction: Prediction,
    on_image: Callable[[int], None],
) -> int:
    """Segment one file, and return its number of images."""
    count = 0
    with painter.open_writer(file) as write:
        start = time.perf_counter()
        for count, pixels in enumerate(file.read(), start=1):
            read = time.perf_counter()
            labels, segmentation = _segment(segmenter, pixels, file.path)
            segmented = time.perf_counter()
            write(pixels, labels)
            end = time.perf_counter()
            prediction.add(labels, 1000 * (read - start), segmentation, 1000 * (end - segmented))
            on_image(count)
            start = time.perf_counter()
    return count


def _segment(segmenter: Segmenter, pixels: RGBImage, path: Path) -> tuple[Labels, SegmentationTime]:
    """Segment an image; errors name the network and the image."""
    try:
        return segmenter.segment_timed(pixels)
    except MeasurementError as error:
        raise MeasurementError(f"{segmenter.network.where}, image {path}: {error}") from error
