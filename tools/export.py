"""`lgc-export`: write a network as ONNX and TensorRT, compare it with torch, time it, check the prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..models.space.protocol import DENSE
from .cli.console import RESTARTS, announce_dataset, emit, new_app, run, say
from .cli.network_options import (
    BgrOption,
    LayoutOption,
    MeanOption,
    NetworkOption,
    OutputNameOption,
    PrecisionListOption,
    RangeOption,
    ScopeOption,
    StdOption,
    parse_channels,
)
from .cli.options import (
    JsonOption,
    PluginOption,
    SecondsOption,
    is_given,
    load_operators,
    make_backend_option,
    make_device_option,
    parse_percent,
    parse_seconds,
    parse_size,
)
from .cli.progress import progress_bar
from .cli.tables.export_table import make_export_tables

app = new_app()

RUN_OPTIONS = ("lut", "scope", "tolerance", "layers")
FILE_OPTIONS = ("input_size", "output_name", "layout", "mean", "std", "value_range", "bgr")
"""Parameters that only one kind of source takes."""
FLAGS = {"input_size": "--input", "output_name": "--output-name", "value_range": "--range"}
"""Parameter -> its option, where the names differ."""

ALIASES = {"ort": "onnxruntime", "torch": "torch", "trt": "tensorrt"}
"""Short option -> backend."""


def _make_alias_option(name: str) -> Any:
    return typer.Option(f"--{name}", help=f"Same as --backend {ALIASES[name]}.")


SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN|architecture.json|FILE.onnx", help="Run folder, architecture file, or any ONNX file."),
]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="HxW", help="Image size of an ONNX file with dynamic axes.")
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Output folder.", show_default="export/ in the run folder")
]
LutOption = Annotated[
    Path | None,
    typer.Option(metavar="T.lut", help="Latency table for the prediction.", show_default="table of the search"),
]
BackendOption = Annotated[
    list[str] | None,
    make_backend_option(False, "; repeatable. Without a GPU, tensorrt only builds the engine"),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads per operator.", show_default="the table's, else 1")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        help="Dataset (see lgc-train) or folder of images: for the ranges of int8, and for the comparison with torch.",
    ),
]
ToleranceOption = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="Exit with code 1 if the prediction error is larger.")
]
LayersOption = Annotated[
    bool, typer.Option("--layers", help="Time the layers too, and compare the table's entries with them.")
]
ComputeCapabilityOption = Annotated[
    str | None,
    typer.Option(metavar="X.Y", help="Build TensorRT engines for this GPU, ahead of time, without running them."),
]


@app.command()
def export(
    context: typer.Context,
    source: SourceArgument,
    network: NetworkOption = None,
    out: OutOption = None,
    lut: LutOption = None,
    backend: BackendOption = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write the ONNX file; always done.")] = False,
    ort: Annotated[bool, _make_alias_option("ort")] = False,
    torch: Annotated[bool, _make_alias_option("torch")] = False,
    trt: Annotated[bool, _make_alias_option("trt")] = False,
    device: Annotated[str | None, make_device_option("the table's, else cpu", "to run on")] = None,
    threads: ThreadsOption = None,
    precision: PrecisionListOption = None,
    scope: ScopeOption = DENSE,
    input_size: InputOption = None,
    output_name: OutputNameOption = None,
    layout: LayoutOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    value_range: RangeOption = None,
    bgr: BgrOption = False,
    data: DataOption = None,
    tolerance: ToleranceOption = None,
    layers: LayersOption = False,
    seconds: SecondsOption = "10s",
    compute_capability: ComputeCapabilityOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> int:
    """Export a network to ONNX and TensorRT, compare it with torch, time it, and check the predicted latency.

    Exit code 1 if an output differs from torch, or a prediction error exceeds --tolerance. An ONNX file is written
    self-contained, with fixed sizes and simplified, compared with the original, and timed, without a prediction.

    Example: lgc-export runs/street --backend onnxruntime --tolerance 5%
    """
    from ..models.nets.sources import load_source
    from ..profiler.deployment.export import ExportSettings, export_network
    from ..profiler.deployment.foreign import ForeignOptions, export_foreign
    from ..profiler.inference.preprocessing import InputOptions

    load_operators(plugin)
    is_file = source.suffix.lower() == ".onnx"
    _check_options(context, is_file)
    aliases = [ALIASES[name] for name, chosen in (("ort", ort), ("torch", torch), ("trt", trt)) if chosen]
    tolerance_pct = None if tolerance is None else parse_percent(tolerance)
    duration_s = parse_seconds(seconds)
    calibration_images, comparison_images = ([], []) if data is None else _list_images(data)
    settings = ExportSettings(
        source=source,
        out=out,
        table=lut,
        backends=tuple(dict.fromkeys([*(backend or ()), *aliases])),
        device=device,
        threads=threads,
        precisions=tuple(dict.fromkeys(precision or ([] if is_file else ["fp32"]))),
        scope=scope,
        calibration_images=calibration_images,
        comparison_images=comparison_images,
        tolerance_pct=tolerance_pct,
        layers=layers,
        seconds=duration_s,
        compute_capability=compute_capability,
        network=None if network is None else load_source(network),
    )
    channels = parse_channels("--mean", mean), parse_channels("--std", std)
    preprocessing = InputOptions(*channels, value_range, bgr, layout.upper() if layout else None)
    options = ForeignOptions(parse_size(input_size) if input_size else None, output_name, preprocessing)
    with progress_bar() as on_progress:
        if is_file:
            result = export_foreign(settings, options, on_progress=on_progress, log=say)
        else:
            result = export_network(settings, on_progress=on_progress, log=say)
    emit(result.as_dict(), as_json, *make_export_tables(result))
    failures = result.list_failures(tolerance_pct)
    for failure in failures:
        say(failure)
    return 1 if failures else 0


def _check_options(context: typer.Context, is_file: bool) -> None:
    """Check that the options fit the kind of source.

    Raises:
        UsageError: an option is for runs only, or for ONNX files only.
    """
    for name in RUN_OPTIONS if is_file else FILE_OPTIONS:
        if is_given(context, name):
            kinds = "runs and architectures, not for ONNX files" if is_file else "ONNX files"
            raise UsageError(f"{FLAGS.get(name, '--' + name)} is only for {kinds}")


def _list_images(data: Path) -> tuple[list[Path], list[Path]]:
    """Return the training and validation images of a dataset; of a plain folder, every other image each, no labels.

    Raises:
        DataError: the folder has no images, or cannot be read in full, or the dataset has an error.
    """
    from ..models.image_folders import describe_files, find_labels, list_images
    from ..search.data.description import UnknownLayoutError

    try:
        spec = announce_dataset(data)
    except UnknownLayoutError:
        files = list_images(data, lambda remark: say(f"skipped: {remark}"))
        if labels := find_labels(data, files):
            say(f"skipped in folder {data}, labels: {describe_files(data, labels)}")
            files = sorted({*files}.difference(labels))
        return files[::2], files[1::2] or files
    train, val = ([pair.image for pair in spec.pairs(split)] for split in ("train", "val"))
    return train, val


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
