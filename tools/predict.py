"""`lgc-predict`: segment images, folders and videos with an exported network into coloured masks and overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..profiler.inference.output_values import OUTPUT_VALUES
from .cli.console import emit, format_count, grid, new_app, run, say
from .cli.network_options import (
    BgrOption,
    LayoutOption,
    MeanOption,
    OutputNameOption,
    RangeOption,
    StdOption,
    parse_channels,
)
from .cli.options import (
    JsonOption,
    ThreadsOption,
    make_backend_option,
    make_choice_option,
    make_device_option,
    make_range_option,
    parse_size,
)
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..profiler.inference.media import MediaFile
    from ..profiler.inference.painting import Legend
    from ..profiler.inference.prediction import Prediction
    from ..profiler.inference.segmenter import Segmenter

INTERRUPTED = "interrupted: finished files are complete; run the same command again to write all of them again"
app = new_app()


SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE.onnx|RUN", help="Exported file (.onnx or .engine), or run folder with export/."),
]
InputsArgument = Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images, folders of images, or videos.")]
SizeOption = Annotated[
    str | None, typer.Option("--input", metavar="HxW", help="Image size of a network with dynamic axes.")
]
ValuesOption = Annotated[
    str | None,
    make_choice_option(
        "--output-values", OUTPUT_VALUES, "Values of an output with one channel.", "from the last operator"
    ),
]
OutputLayoutOption = Annotated[
    str | None,
    make_choice_option("--output-layout", ("nchw", "nhwc"), "Order of the axes of the output.", "by its proportions"),
]
ThresholdOption = Annotated[
    float | None,
    make_range_option(
        "--threshold",
        "Probability of the foreground in an output with one channel.",
        {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "0.5",
    ),
]
PaletteOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="YAML file with a line per class, name: [red, green, blue], or a dataset.yaml of such classes.",
        show_default="from the network's file",
    ),
]
IdsOption = Annotated[
    bool, typer.Option("--ids", help="Also write the class ids of images, 8 bits per pixel: NAME-ids.png.")
]


@app.command()
def predict(
    source: SourceArgument,
    inputs: InputsArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder of masks and overlays.")],
    device: Annotated[str | None, make_device_option("cpu; cuda:0 for an engine", "to run on")] = None,
    backend: Annotated[str | None, make_backend_option("onnxruntime; tensorrt for an engine")] = None,
    threads: ThreadsOption = 1,
    input_size: SizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    value_range: RangeOption = None,
    bgr: BgrOption = False,
    layout: LayoutOption = None,
    output_name: OutputNameOption = None,
    output_layout: OutputLayoutOption = None,
    output_values: ValuesOption = None,
    threshold: ThresholdOption = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the colours in overlays.")] = 0.5,
    palette: PaletteOption = None,
    ids: IdsOption = False,
    as_json: JsonOption = False,
) -> int:
    """Segment images, folders of images and videos with an exported network.

    Files of other programs do not specify their normalisation: ImageNet's is assumed, and a message says so, unless
    --mean, --std or --range are given. Exit code 1 if an input file is unreadable; the others are segmented.

    Example: lgc-predict runs/street photos/ --out predicted
    """
    from ..files import ensure_folder
    from ..profiler.inference.media import list_media
    from ..profiler.inference.outputs import OutputOptions
    from ..profiler.inference.painting import Painter
    from ..profiler.inference.pipeline import PipelineOptions
    from ..profiler.inference.prediction import find_exported_file, segment_media
    from ..profiler.inference.preprocessing import InputOptions
    from ..profiler.inference.segmenter import Segmenter

    file = find_exported_file(source, say)
    layout_name = layout.upper() if layout else None
    options = PipelineOptions(
        parse_size(input_size) if input_size else None,
        output_name,
        InputOptions(parse_channels("--mean", mean), parse_channels("--std", std), value_range, bgr, layout_name),
        OutputOptions(output_values, threshold, output_layout.upper() if output_layout else None),
    )
    media, errors = list_media(inputs, out, ids=ids, datasets=list_datasets(inputs), log=say)
    with Segmenter.open(file, device=device, backend=backend, threads=threads, options=options) as segmenter:
        legend = make_legend(segmenter, palette)
        ensure_folder(out)
        for remark in (*([f"using {file}"] if file != source else []), *segmenter.remarks):
            say(remark)
        with progress_bar() as on_progress:
            on_step = make_step_progress("segmenting", on_progress)
            painter = Painter(legend, alpha, ids)
            prediction = segment_media(media, segmenter, painter, errors=errors, on_step=on_step, log=say)
        target = str(segmenter.target)
    picture = write_legend(prediction, legend, out) if any(file.clip is None for file in media) else None
    result = {**prediction.as_dict(legend), "target": target, "legend": None if picture is None else str(picture)}
    lines = [] if picture is None else [f"legend of the colours: {picture}"]
    emit(result, as_json, *_make_tables(prediction, legend, media, out, target), *lines)
    return report_errors(prediction.errors)


def list_datasets(inputs: Sequence[Path]) -> dict[Path, set[Path]]:
    """Return the images of the folders that have a `dataset.yaml` or a known layout, and say which they are.

    Raises:
        FileFormatError: a `dataset.yaml` is invalid.
        DataError: a list of images has an error.
    """
    from ..search.data.description import DATASET_FILES, read_dataset
    from ..search.data.layouts import detect_layout

    datasets = {}
    for folder in filter(Path.is_dir, inputs):
        if not any((folder / name).is_file() for name in DATASET_FILES) and detect_layout(folder) is None:
            continue  # read_dataset would read all labels of a folder of images and labels
        spec = read_dataset(folder)
        images = {
            name: {_shorten_path(path, folder) for path, _ in split.entries} for name, split in spec.splits.items()
        }
        inside = {name: {path for path in paths if path.is_relative_to(folder)} for name, paths in images.items()}
        if chosen := set[Path]().union(*inside.values()):
            counts = ", ".join(f"{name} {len(paths)}" for name, paths in inside.items() if paths)
            say(f"{folder} is a dataset ({spec.name}): its images are segmented, not its labels: {counts}")
            datasets[folder] = chosen
            if outside := set[Path]().union(*images.values()) - chosen:
                count = format_count(len(outside), "image")
                say(f"{folder}: {count} of the dataset outside the folder not segmented, e.g. {min(outside)}")
    return datasets


def _shorten_path(path: Path, folder: Path) -> Path:
    """Return a path without `..`: below `folder` if it is inside, else absolute; others are kept, with their links."""
    if not path.is_relative_to(folder) or ".." not in path.relative_to(folder).parts:
        return path
    resolved, root = path.resolve(), folder.resolve()
    return folder / resolved.relative_to(root) if resolved.is_relative_to(root) else resolved


def report_errors(errors: Mapping[Path, str]) -> int:
    """Print the messages of unreadable files and folders on stderr, and return the exit code."""
    if errors:
        say(f"not segmented: {format_count(len(errors), 'input')}")
    for message in errors.values():
        say(message)
    return 1 if errors else 0


def make_legend(segmenter: Segmenter, palette: Path | None) -> Legend:
    """Return names and colours of a network's classes, from a file if given; report those of an assumed dataset."""
    from ..profiler.inference.painting import Legend

    network, num_classes = segmenter.network, segmenter.num_classes
    if palette is not None:
        legend = Legend.read(palette)
        legend.check_network(network, num_classes)
        return replace(legend, background=0 if segmenter.is_mask else None)
    legend = Legend.for_network(network, num_classes, list_legends(), is_mask=segmenter.is_mask, log=say)
    if legend.dataset and network.class_names != legend.names:
        say(f"{network.where} does not name its {num_classes} classes: those of {legend.dataset} are assumed")
    return legend


def write_legend(prediction: Prediction, legend: Legend, out: Path) -> Path:
    """Write the names and colours of the predicted classes, the largest first, as a picture; return its path."""
    from ..profiler.inference.media import LEGEND_FILE
    from ..profiler.inference.painting import Legend, write_png
    from ..report.overlays import draw_overlays

    ranking = prediction.pixels.most_common()
    total = sum(prediction.pixels.values())
    colours = [legend.palette[index] if index < len(legend.palette) else (0, 0, 0) for index, _ in ranking]
    shown = Legend(tuple(legend.name(index) for index, _ in ranking), tuple(colours))
    path = out / LEGEND_FILE
    shares = [f"{100 * count / total:.1f} %" for _, count in ranking]
    write_png(draw_overlays([], shown, shares, [index for index, _ in ranking]), path)
    return path


def list_legends() -> list[Legend]:
    """Return names and colours of the known datasets."""
    from ..profiler.inference.painting import Legend
    from ..search.data.layouts import load_layout

    classes = {name: load_layout(name.lower()).classes for name in ("Cityscapes", "CamVid")}
    return [Legend(tuple(colours), tuple(colours.values()), name) for name, colours in classes.items()]


def _make_tables(
    prediction: Prediction, legend: Legend, media: Sequence[MediaFile], out: Path, target: str
) -> list[Table | str]:
    """Return the legend with the share of each class, largest first, and lines of the times."""
    from rich.text import Text

    only_images = all(file.clip is None for file in media)
    images = format_count(prediction.images, "image") if only_images else f"{prediction.images} images and frames"
    title = f"{images}; {format_count(len(prediction.files), 'file')} written to {out}"
    table = grid(title, "id", "class", "colour", "share", numbers=1)
    total = sum(prediction.pixels.values())
    for index, count in prediction.pixels.most_common():
        colour = legend.colour(index)
        table.add_row(
            str(index), legend.name(index), Text(f"\u2588\u2588 {colour}", colour), f"{100 * count / total:.1f} %"
        )
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
