"""`lgc-predict`: segment images, folders and videos with an exported network into coloured masks and overlays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, MeasurementError, UsageError
from .cli.console import RESTARTS, emit, grid, new_app, run, say
from .cli.options import JsonOption, ThreadsOption, make_device_option
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from ..models.images import RGBImage
    from ..profiler.deployment.inputs import MediaFile
    from ..profiler.deployment.painting import Legend, Painter
    from ..profiler.deployment.segmenter import Labels, SegmentationTime, Segmenter

PHASES = ("read", "before", "network", "after", "write")
"""Phases of an image: decoding; resizing and normalising; inference; class indices; painting and encoding."""
COMPUTE_PHASES = PHASES[1:4]
"""Phases that count for the frame rate."""
MIN_FRAME_RATIO = 0.9
"""Ratio of decoded to declared frames below which a video is reported as cut off."""

app = new_app()


def known_legends() -> list[Legend]:
    """Return class names and colours of the built-in datasets."""
    from ..profiler.deployment.painting import Legend
    from ..search.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

    return [Legend(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE), Legend(CAMVID_CLASSES, CAMVID_PALETTE)]


@dataclass
class PredictionSummary:
    """Statistics of the images segmented so far.

    Attributes:
        files: written files.
        pixels: number of pixels per class.
        phases_ms: milliseconds of each phase, one value per image.
    """

    files: list[str] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    phases_ms: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})

    def add(self, labels: Labels, read_ms: float, durations: SegmentationTime, write_ms: float) -> None:
        """Add an image."""
        import numpy as np

        counts = np.bincount(labels.ravel())
        self.pixels.update({int(index): int(counts[index]) for index in counts.nonzero()[0]})
        values = (read_ms, durations.before_ms, durations.network_ms, durations.after_ms, write_ms)
        for phase, ms in zip(PHASES, values, strict=True):
            self.phases_ms[phase].append(ms)

    @property
    def images(self) -> int:
        """Number of images, including frames of videos."""
        return len(self.phases_ms["network"])

    def result(self, legend: Legend) -> dict[str, Any]:
        """Return the content of `--json`; times are medians."""
        import numpy as np

        total = sum(self.pixels.values())
        shares = dict.fromkeys(legend.names, 0.0)
        for index, count in sorted(self.pixels.items()):
            shares[legend.name(index)] = shares.get(legend.name(index), 0.0) + 100 * count / total
        medians = {phase: float(np.median(values)) for phase, values in self.phases_ms.items()}
        fps = 1000 / sum(medians[phase] for phase in COMPUTE_PHASES)
        return {"files": self.files, "images": self.images, "classes": shares, "ms_per_image": medians, "fps": fps}


@app.command()
def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.onnx|RUN", help="Exported network: a .onnx or .engine file, or a run folder with export/."
        ),
    ],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders of images, or videos.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder for masks and overlays.")],
    device: Annotated[str | None, make_device_option("of the network", "cpu; cuda:0 for an .engine file")] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Inference backend: onnxruntime, onnxruntime-tensorrt or tensorrt.",
            show_default="onnxruntime; tensorrt for an .engine file",
        ),
    ] = None,
    threads: ThreadsOption = 1,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the colours in overlays.")] = 0.5,
    ids: Annotated[
        bool, typer.Option("--ids", help="Also write the class indices of images as 8-bit PNG: NAME-ids.png.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment images, folders of images and videos with an exported network.

    Example: lgc-predict runs/street photos/ --out predicted
    """
    from ..files import ensure_folder
    from ..profiler.deployment.inputs import list_media
    from ..profiler.deployment.painting import Legend, Painter
    from ..profiler.deployment.segmenter import Segmenter

    file = find_exported_file(source)
    media = list_media(inputs, out, ids=ids)
    with Segmenter.open(file, device=device, backend=backend, threads=threads) as segmenter:
        for remark in segmenter.remarks:
            say(remark)
        legend = Legend.of(segmenter.network, known_legends())
        ensure_folder(out)
        summary, painter = PredictionSummary(), Painter(legend, alpha, ids)
        with progress_bar() as on_progress:
            try:
                _segment(media, segmenter, painter, summary, make_step_progress("segmenting", on_progress))
            except DataError as error:
                kept = f"; {len(summary.files)} complete files are kept in {out}" if summary.files else ""
                raise DataError(f"{error}{kept}") from error
        result = {**summary.result(legend), "target": str(segmenter.target)}
    noun = "images" if all(item.clip is None for item in media) else "images and frames"
    title = f"{summary.images} {noun} segmented, {len(summary.files)} files written to {out}"
    emit(result, as_json, *_make_tables(title, result, summary, legend))


def find_exported_file(source: Path) -> Path:
    """Return an exported file; in a run folder the newest of scope dense, else the newest.

    Raises:
        UsageError: the run folder has no exported file.
    """
    if not source.is_dir():
        return source
    files = sorted((source / "export").glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UsageError(f"no exported file in {source}: write one with lgc-export {source}")
    file = ([path for path in files if path.stem.endswith("-dense")] or files)[-1]
    say(f"using {file}")
    return file


def _segment(
    media: list[MediaFile],
    segmenter: Segmenter,
    painter: Painter,
    summary: PredictionSummary,
    on_step: Callable[[int, int], None],
) -> None:
    """Segment every file; `on_step` gets the number of finished and of declared images and frames."""
    total, finished = sum(item.frames for item in media), 0
    for item in media:
        count = 0
        with painter.writing(item) as write:
            start = time.perf_counter()
            for count, pixels in enumerate(item.read(), start=1):
                read_end = time.perf_counter()
                labels, durations = _infer(segmenter, pixels, item.path)
                write_start = time.perf_counter()
                write(pixels, labels)
                end = time.perf_counter()
                summary.add(labels, 1000 * (read_end - start), durations, 1000 * (end - write_start))
                on_step(finished + min(count, item.frames), total)
                start = time.perf_counter()
        if count < MIN_FRAME_RATIO * item.frames:
            say(f"warning: {item.path} has {count} of {item.frames} frames: the file seems to be cut off")
        summary.files += [str(path) for path in item.outputs(painter.ids).values()]
        finished += item.frames


def _infer(segmenter: Segmenter, pixels: RGBImage, path: Path) -> tuple[Labels, SegmentationTime]:
    """Return class indices and durations of an image.

    Raises:
        MeasurementError: inference failed; the message names network and image.
    """
    try:
        return segmenter.timed(pixels)
    except MeasurementError as error:
        raise MeasurementError(f"{segmenter.network.where}, on {path}: {error}") from error


def _make_tables(title: str, result: dict[str, Any], summary: PredictionSummary, legend: Legend) -> list[Any]:
    """Return the legend with the share of each class, and lines on the times."""
    from rich.text import Text

    table = grid(title, "class", "colour", "share", numbers=1)
    total = sum(summary.pixels.values())
    for index, count in summary.pixels.most_common():
        colour = legend.colour(index)
        table.add_row(legend.name(index), Text(f"\u2588\u2588 {colour}", colour), f"{100 * count / total:.1f} %")
    times = {phase: f"{ms:.1f} ms" for phase, ms in result["ms_per_image"].items()}
    return [
        table,
        f"{result['fps']:.1f} images per second on {result['target']}, batch 1 (medians: preprocessing "
        f"{times['before']}, inference {times['network']}, postprocessing {times['after']})",
        f"not included: {times['read']} to read and decode, {times['write']} to paint, encode and write",
    ]


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
