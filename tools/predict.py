"""`lgc-predict`: images, folders and videos through an exported file; coloured masks and overlays come out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, MeasurementError, UsageError
from .cli.console import JsonFlag, emit, grid, make_step_progress, new_app, progress_bar, run, say

if TYPE_CHECKING:
    from ..models.images import RGBImage
    from ..profiler.deployment.inputs import MediaFile
    from ..profiler.deployment.painting import Legend, Painter
    from ..profiler.deployment.segmenter import Labels, SegmentationTime, Segmenter

PARTS = ("read", "before", "network", "after", "write")
"""Of the time that an image takes: decoding; resizing and normalising; the network; classes; painting, encoding."""
COMPUTING = PARTS[1:4]
"""Those that the frame rate is of."""

INTERRUPTED = "interrupted; files that are written are whole, the same command writes all of them again"
CUT_OFF = 0.9
"""Of the frames that a video says it has: with fewer, it is said to be cut off."""

app = new_app()


def known_legends() -> list[Legend]:
    """Return names and colours of the data sets that lgc knows."""
    from ..profiler.deployment.painting import Legend
    from ..search.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

    return [Legend(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE), Legend(CAMVID_CLASSES, CAMVID_PALETTE)]


@dataclass
class Seen:
    """What came out so far: files, pixels of each class, milliseconds of each part of each image."""

    files: list[str] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    spent: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def add(self, labels: Labels, read_ms: float, spent: SegmentationTime, write_ms: float) -> None:
        """Count one image."""
        import numpy as np

        counts = np.bincount(labels.ravel())
        self.pixels.update({int(index): int(counts[index]) for index in counts.nonzero()[0]})
        took = (read_ms, spent.before_ms, spent.network_ms, spent.after_ms, write_ms)
        for part, ms in zip(PARTS, took, strict=True):
            self.spent[part].append(ms)

    @property
    def images(self) -> int:
        """How many, frames of videos among them."""
        return len(self.spent["network"])

    def result(self, legend: Legend) -> dict[str, Any]:
        """As promised for `--json`; times are medians."""
        import numpy as np

        total = sum(self.pixels.values())
        shares = dict.fromkeys(legend.names, 0.0)
        for index, count in sorted(self.pixels.items()):
            shares[legend.name(index)] = shares.get(legend.name(index), 0.0) + 100 * count / total
        took = {part: float(np.median(values)) for part, values in self.spent.items()}
        fps = 1000 / sum(took[part] for part in COMPUTING)
        return {"files": self.files, "images": self.images, "classes": shares, "ms_per_image": took, "fps": fps}


@app.command()
def predict(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE.onnx|RUN", help="An exported file (.engine too), or a run with one in export/."),
    ],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders of images, or videos.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where masks and overlays go.")],
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N; cpu if left out, for an engine cuda:0.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="onnxruntime (if left out), onnxruntime-tensorrt or tensorrt.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in overlays.")] = 0.5,
    ids: Annotated[
        bool, typer.Option("--ids", help="Also write the class of every pixel of an image, 8 bits: NAME-ids.png.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Segment images, folders of images and videos with an exported network, as an application would.

    Example: lgc-predict runs/street photos/ --out predicted
    """
    from ..files import ensure_folder
    from ..profiler.deployment.inputs import list_media
    from ..profiler.deployment.painting import Legend, Painter
    from ..profiler.deployment.segmenter import Segmenter

    file = exported(source)
    jobs = list_media(inputs, out, ids=ids)
    with Segmenter.open(file, device=device, backend=backend, threads=threads) as segmenter:
        for remark in segmenter.remarks:
            say(remark)
        legend = Legend.of(segmenter.network, known_legends())
        ensure_folder(out)
        seen, painter = Seen(), Painter(legend, alpha, ids)
        with progress_bar() as on_progress:
            try:
                _segment(jobs, segmenter, painter, seen, make_step_progress("segmenting", on_progress))
            except DataError as error:
                kept = f"; {len(seen.files)} files are written and whole, in {out}" if seen.files else ""
                raise DataError(f"{error}{kept}") from error
        result = {**seen.result(legend), "target": str(segmenter.target)}
    of_what = "images" if all(job.clip is None for job in jobs) else "images and frames"
    title = f"{seen.images} {of_what}; written to {out}: {len(seen.files)}"
    emit(result, as_json, *_tables(title, result, seen, legend))


def exported(source: Path) -> Path:
    """The file itself; of a run the newest that gives the class of every pixel, or the newest of any."""
    if not source.is_dir():
        return source
    found = sorted((source / "export").glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    wanted = [path for path in found if path.stem.endswith("-dense")] or found
    if not wanted:
        raise UsageError(f"{source} holds no exported file: lgc-export {source} writes one")
    say(f"using {wanted[-1]}")
    return wanted[-1]


def _segment(
    jobs: list[MediaFile], segmenter: Segmenter, painter: Painter, seen: Seen, on_step: Callable[[int, int], None]
) -> None:
    """Do every job; `on_step` is told how many images of how many are done, a video's by what it says of itself."""
    total, before = sum(job.frames for job in jobs), 0
    for job in jobs:
        count = 0
        with painter.writing(job) as write:
            start = time.perf_counter()
            for count, pixels in enumerate(job.read(), start=1):
                read = time.perf_counter()
                labels, spent = _timed(segmenter, pixels, job.path)
                begun = time.perf_counter()
                write(pixels, labels)
                end = time.perf_counter()
                seen.add(labels, 1000 * (read - start), spent, 1000 * (end - begun))
                on_step(before + min(count, job.frames), total)
                start = time.perf_counter()
        if count < CUT_OFF * job.frames:
            say(f"{job.path} gave {count} of {job.frames} frames: it seems to be cut off")
        seen.files += [str(path) for path in job.outputs(painter.ids).values()]
        before += job.frames


def _timed(segmenter: Segmenter, pixels: RGBImage, path: Path) -> tuple[Labels, SegmentationTime]:
    """The network's answer to an image; an error of it says which network's, and to which image."""
    try:
        return segmenter.timed(pixels)
    except MeasurementError as error:
        raise MeasurementError(f"{segmenter.network.where}, of {path}: {error}") from error


def _tables(title: str, result: dict[str, Any], seen: Seen, legend: Legend) -> list[Any]:
    """What people see: the legend with the share of each class, and the times."""
    from rich.text import Text

    table = grid(title, "class", "colour", "share", numbers=1)
    total = sum(seen.pixels.values())
    for index, count in seen.pixels.most_common():
        colour = legend.colour(index)
        table.add_row(legend.name(index), Text(f"\u2588\u2588 {colour}", colour), f"{100 * count / total:.1f} %")
    took = {part: f"{ms:.1f} ms" for part, ms in result["ms_per_image"].items()}
    return [
        table,
        f"{result['fps']:.1f} images a second on {result['target']}, one by one: {took['before']} to resize and "
        f"normalise, {took['network']} in the network, {took['after']} for classes at the image's size (medians)",
        f"not in it: {took['read']} to read and decode, {took['write']} to paint, encode and write",
    ]


def main() -> None:
    """Run the command."""
    run(app, INTERRUPTED)
