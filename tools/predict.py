"""`lgc-predict`: images, folders and videos through an exported file; coloured masks and overlays come out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileFormatError, UsageError
from .console import JsonFlag, emit, grid, new_app, progress_bar, run, say, step_progress

if TYPE_CHECKING:
    from ..lut.target import Target
    from ..models.images import Pixels
    from ..models.onnx_model import OnnxModel
    from ..models.palettes import Palette
    from ..profiler.inference import Labels, Segmenter, Spent

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
"""Files that count as videos."""

app = new_app()


@dataclass
class Seen:
    """What came out so far."""

    files: list[str] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    spent: list[Spent] = field(default_factory=list)

    def add(self, labels: Labels, spent: Spent) -> None:
        """Count one image."""
        import numpy as np

        classes, counts = np.unique(labels, return_counts=True)
        self.pixels.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
        self.spent.append(spent)


@app.command()
def predict(
    source: Annotated[
        Path, typer.Argument(metavar="FILE.onnx|RUN", help="An exported file, or a run folder with one in export/.")
    ],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders of images, or videos.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where masks and overlays go.")],
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    backend: Annotated[
        str | None, typer.Option(help="onnxruntime, onnxruntime-tensorrt or tensorrt; onnxruntime if left out.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16; a quantised file runs in int8.")] = "fp32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Weight of the colours in overlays.")] = 0.5,
    ids: Annotated[
        bool, typer.Option("--ids", help="Also write the class of every pixel, 8 bits, NAME-ids.png.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Segment images, folders of images and videos with an exported network, as an application would.

    Example: lgc-predict runs/street photos/ --out predicted
    """
    from ..files import ensure_folder
    from ..lut.target import Target
    from ..models.onnx_model import OnnxModel
    from ..profiler.devices import check_device
    from ..profiler.inference import Segmenter

    place = check_device(device)
    model = OnnxModel.load(_file(source))
    target = Target(place, backend or "onnxruntime", precision, threads if place == "cpu" else 1)
    names, palette = legend_of(model)
    jobs = list(_jobs(inputs, out))
    seen, paint = Seen(), Paint(palette, alpha, ids)
    with progress_bar() as on_progress, Segmenter(model, target) as segmenter:
        ensure_folder(out)
        on_step = step_progress("segmenting", on_progress)
        for number, (path, stem) in enumerate(jobs, start=1):
            work = _video if path.suffix.lower() in VIDEOS else _image
            work(path, stem, segmenter, paint, seen)
            on_step(number, len(jobs))
    emit(_result(seen, names, segmenter.target), as_json, *_tables(seen, names, out))


def _file(source: Path) -> Path:
    """The exported file; of a run the newest one that gives classes of the float image."""
    if source.suffix == ".engine":
        raise UsageError(
            f"{source} is an engine: name the ONNX file beside it, and --backend tensorrt, which keeps engines"
        )
    if not source.is_dir():
        return source
    found = sorted((source / "export").glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    wanted = [path for path in found if path.stem.endswith("-dense")] or found
    if not wanted:
        raise UsageError(f"{source} holds no exported file: lgc-export {source} writes one")
    say(f"using {wanted[-1]}")
    return wanted[-1]


def legend_of(model: OnnxModel) -> tuple[list[str], Palette]:
    """Names and colours of a file's classes: those of the data set where it is one that is known."""
    from ..models.onnx_model import CLASSES_KEY
    from ..models.palettes import distinct
    from ..search.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

    try:
        told = json.loads(model.metadata.get(CLASSES_KEY, "null"))
    except ValueError as error:
        raise FileFormatError(f"{model.where} names its classes in a way that cannot be read") from error
    sets = ((CITYSCAPES_CLASSES, CITYSCAPES_PALETTE), (CAMVID_CLASSES, CAMVID_PALETTE))
    count = len(told) if told else model.classes
    for classes, palette in sets:
        if told == list(classes) or (not told and count == len(classes)):
            return list(classes), palette
    names = [str(name) for name in told] if told else [f"class {index}" for index in range(count or 0)]
    return names, distinct(count or 256)


def _jobs(inputs: list[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Every image and video, and where it goes: folders keep what is in them apart."""
    from ..models.images import image_files

    taken: dict[Path, Path] = {}
    for place in inputs:
        for path in image_files(place):
            inside = path.relative_to(place) if place.is_dir() else Path(path.name)
            stem = out / inside.with_suffix("")
            if taken.get(stem, path) != path:
                raise UsageError(f"{taken[stem]} and {path} would be written to the same files: predict them apart")
            if stem not in taken:
                taken[stem] = path
                yield path, stem


@dataclass(frozen=True)
class Paint:
    """How classes are shown."""

    palette: Palette
    alpha: float
    ids: bool

    def mask(self, labels: Labels) -> Pixels:
        """Classes in their colours, [h, w] -> [h, w, 3]."""
        from ..search.data.labels import colourise

        return colourise(labels, self.palette)

    def overlay(self, pixels: Pixels, labels: Labels) -> Pixels:
        """The image with the colours of its classes over it."""
        import numpy as np

        blended = pixels * (1 - self.alpha) + self.mask(labels) * self.alpha
        return np.asarray(np.rint(blended), np.uint8)


def _image(path: Path, stem: Path, segmenter: Segmenter, paint: Paint, seen: Seen) -> None:
    from ..models.images import read_pixels

    pixels = read_pixels(path)
    labels, spent = segmenter.timed(pixels)
    seen.add(labels, spent)
    pictures = {"mask": paint.mask(labels), "overlay": paint.overlay(pixels, labels)}
    if paint.ids:
        pictures["ids"] = labels
    for what, picture in pictures.items():
        target = stem.with_name(f"{stem.name}-{what}.png")
        _write_png(picture, target)
        seen.files.append(str(target))


def _write_png(picture: Pixels, path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    from ..files import write_atomic

    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def _video(path: Path, stem: Path, segmenter: Segmenter, paint: Paint, seen: Seen) -> None:
    from .video import repainted

    def frame(pixels: Pixels) -> Pixels:
        labels, spent = segmenter.timed(pixels)
        seen.add(labels, spent)
        return paint.overlay(pixels, labels)

    target = stem.with_name(f"{stem.name}-overlay.mp4")
    painted: Callable[[Pixels], Pixels] = frame
    repainted(path, target, painted)
    seen.files.append(str(target))


def _result(seen: Seen, names: list[str], target: Target) -> dict[str, Any]:
    import numpy as np

    total = max(sum(seen.pixels.values()), 1)
    spent = [[one.before_ms, one.network_ms, one.after_ms] for one in seen.spent]
    before, network, after = np.median(spent, axis=0).tolist()
    return {
        "files": seen.files,
        "images": len(seen.spent),
        "target": str(target),
        "classes": {_named(names, index): 100 * count / total for index, count in sorted(seen.pixels.items())},
        "ms_per_image": {"before": before, "network": network, "after": after},
        "fps": 1000 / (before + network + after),
    }


def _named(names: list[str], index: int) -> str:
    return names[index] if index < len(names) else f"class {index}"


def _tables(seen: Seen, names: list[str], out: Path) -> list[Any]:
    """What people see."""
    import numpy as np

    table = grid("what the pixels are", "class", "share", numbers=1)
    total = max(sum(seen.pixels.values()), 1)
    for index, count in seen.pixels.most_common():
        table.add_row(_named(names, index), f"{100 * count / total:.1f} %")
    before, network, after = np.median(
        [[one.before_ms, one.network_ms, one.after_ms] for one in seen.spent], axis=0
    ).tolist()
    return [
        table,
        f"{len(seen.spent)} images, {len(seen.files)} files in {out}",
        f"{1000 / (before + network + after):.1f} images a second: {before:.1f} ms to resize and normalise, "
        f"{network:.1f} ms in the network, {after:.1f} ms to bring classes to the image's size (medians; reading, "
        "decoding, painting and writing are not in it)",
    ]


def main() -> None:
    """Run the command."""
    run(app)
