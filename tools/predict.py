"""`lgc-predict`: segment images, folders and videos with an exported network into coloured masks and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli.console import emit, format_count, grid, new_app, run, say
from .cli.options import JsonOption, ThreadsOption, make_backend_option, make_device_option
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..profiler.inference.media import MediaFile
    from ..profiler.inference.painting import Legend
    from ..profiler.inference.prediction import Prediction

INTERRUPTED = "interrupted: finished files are complete; run the same command again to write all of them again"

app = new_app()


@app.command()
def predict(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE.onnx|RUN", help="Exported file (.onnx or .engine), or run folder with export/."),
    ],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders of images, or videos.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder of masks and overlays.")],
    device: Annotated[str | None, make_device_option("cpu; cuda:0 for an engine", "to run on")] = None,
    backend: Annotated[str | None, make_backend_option("onnxruntime; tensorrt for an engine")] = None,
    threads: ThreadsOption = 1,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the colours in overlays.")] = 0.5,
    ids: Annotated[
        bool, typer.Option("--ids", help="Also write the class ids of images, 8 bits per pixel: NAME-ids.png.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment images, folders of images and videos with an exported network.

    Example: lgc-predict runs/street photos/ --out predicted
    """
    from ..files import ensure_folder
    from ..profiler.inference.media import list_media
    from ..profiler.inference.painting import Legend, Painter
    from ..profiler.inference.prediction import find_exported_file, segment_media
    from ..profiler.inference.segmenter import Segmenter

    file = find_exported_file(source)
    media = list_media(inputs, out, ids=ids)
    with Segmenter.open(file, device=device, backend=backend, threads=threads) as segmenter:
        legend = Legend.for_network(segmenter.network, list_legends())
        ensure_folder(out)
        for remark in (*([f"using {file}"] if file != source else []), *segmenter.remarks):
            say(remark)
        with progress_bar() as on_progress:
            on_step = make_step_progress("segmenting", on_progress)
            prediction = segment_media(media, segmenter, Painter(legend, alpha, ids), on_step=on_step, log=say)
        target = str(segmenter.target)
    result = {**prediction.as_dict(legend), "target": target}
    emit(result, as_json, *_make_tables(prediction, legend, media, out, target))


def list_legends() -> list[Legend]:
    """Return names and colours of the known datasets."""
    from ..profiler.inference.painting import Legend
    from ..search.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

    return [Legend(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE), Legend(CAMVID_CLASSES, CAMVID_PALETTE)]


def _make_tables(
    prediction: Prediction, legend: Legend, media: Sequence[MediaFile], out: Path, target: str
) -> list[Table | str]:
    """Return the legend with the share of each class, largest first, and lines of the times."""
    from rich.text import Text

    only_images = all(file.clip is None for file in media)
    images = format_count(prediction.images, "image") if only_images else f"{prediction.images} images and frames"
    title = f"{images}; {format_count(len(prediction.files), 'file')} written to {out}"
    table = grid(title, "class", "colour", "share", numbers=1)
    total = sum(prediction.pixels.values())
    for index, count in prediction.pixels.most_common():
        colour = legend.colour(index)
        table.add_row(legend.name(index), Text(f"\u2588\u2588 {colour}", colour), f"{100 * count / total:.1f} %")
    times = {part: f"{ms:.1f} ms" for part, ms in prediction.median_ms.items()}
    return [
        table,
        f"{prediction.fps:.1f} images per second on {target}, one by one; medians: {times['before']} to resize and "
        f"normalise, {times['network']} in the network, {times['after']} for classes at the image's size",
        f"not included: {times['read']} to read and decode, {times['write']} to paint, encode and write",
    ]


def main() -> None:
    """Run the command."""
    run(app, INTERRUPTED)
