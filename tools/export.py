"""`lgc-export`: write a network as ONNX and TensorRT, compare it with torch, time it, check the prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from ..models.space.protocol import DENSE
from .cli.console import RESTARTS, emit, new_app, run, say
from .cli.export_table import make_export_tables
from .cli.network_options import NetworkOption, PrecisionListOption, ScopeOption
from .cli.options import (
    JsonOption,
    SecondsOption,
    make_backend_option,
    make_device_option,
    parse_percent,
    parse_seconds,
)
from .cli.progress import progress_bar

app = new_app()

ALIASES = {"ort": "onnxruntime", "torch": "torch", "trt": "tensorrt"}
"""Short option -> backend."""


def _make_alias_option(name: str) -> Any:
    return typer.Option(f"--{name}", help=f"Same as --backend {ALIASES[name]}.")


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
        metavar="DIR",
        help="Dataset folder (Cityscapes, CamVid) or folder of images: for the ranges of int8, and for the "
        "comparison with torch.",
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
    source: Annotated[Path, typer.Argument(metavar="RUN|architecture.json", help="Run folder, or architecture file.")],
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
    data: DataOption = None,
    tolerance: ToleranceOption = None,
    layers: LayersOption = False,
    seconds: SecondsOption = "10s",
    compute_capability: ComputeCapabilityOption = None,
    as_json: JsonOption = False,
) -> int:
    """Export a network to ONNX and TensorRT, compare it with torch, time it, and check the predicted latency.

    Exit code 1 if an output differs from torch, or a prediction error exceeds --tolerance.

    Example: lgc-export runs/street --backend onnxruntime --tolerance 5%
    """
    from ..models.nets.sources import load_source
    from ..profiler.deployment.export import ExportSettings, export_network

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
        precisions=tuple(dict.fromkeys(precision or ["fp32"])),
        scope=scope,
        calibration_images=calibration_images,
        comparison_images=comparison_images,
        tolerance_pct=tolerance_pct,
        layers=layers,
        seconds=duration_s,
        compute_capability=compute_capability,
        network=None if network is None else load_source(network),
    )
    with progress_bar() as on_progress:
        result = export_network(settings, on_progress=on_progress, log=say)
    emit(result.as_dict(), as_json, *make_export_tables(result))
    failures = result.list_failures(tolerance_pct)
    for failure in failures:
        say(failure)
    return 1 if failures else 0


def _list_images(data: Path) -> tuple[list[Path], list[Path]]:
    """Return the training and validation images of a dataset; of a plain folder, every other image each.

    Raises:
        DataError: the folder has no images.
    """
    from ..models.images import list_images
    from ..search.data.layouts import list_pairs

    try:
        train, val = ([pair.image for pair in list_pairs(data, split)[1]] for split in ("train", "val"))
    except DataError:
        files = list(list_images(data))
        return files[::2], files[1::2] or files
    return train, val


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
