"""`lgc-export`: write an architecture as ONNX and TensorRT engine, time it, compare it with its prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..device import CPU
from ..errors import DataError, FileFormatError, MeasurementError, UsageError
from .cli.console import RESTARTS, emit, new_app, run, say
from .cli.export_table import check_results, make_export_tables
from .cli.options import (
    ExportScopeOption,
    JsonOption,
    NetworkPrecisionsOption,
    make_device_option,
    make_threads_option,
    parse_percent,
)
from .cli.progress import progress_bar

if TYPE_CHECKING:
    from ..lut.table.table import LatencyTable
    from ..lut.target import Target
    from ..models.images import RGBImage
    from ..profiler.deployment.deploy import TargetResult
    from ..profiler.deployment.network import Network
    from ..profiler.timing.rounds import OnProgress

MAX_IMAGES = 32
"""Maximum number of images for int8 calibration, and of other images for the comparison with torch."""

TRT = "tensorrt"

app = new_app()


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|architecture.json", help="Run folder or architecture file.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder.", show_default="export/ in the run folder")
    ] = None,
    lut: Annotated[
        Path | None,
        typer.Option(metavar="T.lut", help="Latency table for the prediction.", show_default="the search's table"),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write the ONNX file (always on).")] = False,
    ort: Annotated[bool, typer.Option("--ort", help="Time the network under ONNX Runtime.")] = False,
    torch: Annotated[bool, typer.Option("--torch", help="Time the network under torch.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="Build a TensorRT engine and, on a GPU, time it.")] = False,
    device: Annotated[str | None, make_device_option("of the timing", "the table's device, else cpu")] = None,
    threads: Annotated[int | None, make_threads_option("as in the table, else 1")] = None,
    precision: NetworkPrecisionsOption = None,
    scope: ExportScopeOption = "dense",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images for int8 calibration and for the comparison with torch: Cityscapes, CamVid, or any folder of "
            "images.",
        ),
    ] = None,
    tolerance: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Exit with 1 if a prediction is off by more, e.g. 5%.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time layers too and compare them with the table's entries.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measuring time per backend in seconds.")] = 10.0,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y",
            help="Build the engine ahead of time for GPUs of this compute capability, e.g. 8.6.",
            show_default="GPU of this machine",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Write an architecture as ONNX, compare its outputs with torch, and compare its latency with the prediction.

    Exit code 1 if the outputs differ from torch, or a prediction is off by more than --tolerance.

    Example: lgc-export runs/street --onnx --ort --tolerance 5%
    """
    from ..profiler.deployment import deploy
    from ..profiler.deployment.network import FILE_PRECISIONS

    precisions = list(dict.fromkeys(precision or ["fp32"]))
    _check_choices(precisions, scope)
    limit = None if tolerance is None else parse_percent(tolerance)
    network, folder = _load(source, out, scope)
    table = _open_table(lut, network)
    names = [name for name, requested in (("onnxruntime", ort), ("torch", torch)) if requested]
    local_engine = trt and compute_capability is None
    targets = [
        target for each in precisions for target in _choose_targets(table, names, local_engine, device, threads, each)
    ]
    if table is not None and lut is not None:
        deploy.select_targets(table, targets)
    if compute_capability is not None and not trt:
        raise UsageError("--compute-capability is only for TensorRT engines: add --trt")
    if not (names or local_engine) and (device is not None or threads is not None):
        raise UsageError("--device and --threads need a backend to time: add --ort, --torch or --trt")
    if limit is not None or layers:
        _require_comparable("--tolerance" if limit is not None else "--layers", table, targets, scope)
    network, compared_on = _with_images(network, data, "int8" in precisions)
    network = replace(network, table=None if table is None else deploy.compute_table_fingerprint(table, scope))
    files = [
        deploy.export_file(network, folder, each, compared_on)
        for each in dict.fromkeys(FILE_PRECISIONS[name] for name in precisions)
    ]
    for file in files:
        say(f"wrote {file['onnx']}")
    with progress_bar() as on_progress:
        results = [
            _run(network, target, table, folder, seconds, layers, limit, on_progress=on_progress) for target in targets
        ]
    if trt and not any(target.backend == TRT for target in targets):
        results += [deploy.build_engine_ahead(network, folder, each, compute_capability) for each in precisions]
    if table is not None:
        table.close()
    content = {"onnx": files[0]["onnx"], "files": files, "results": [result.as_dict() for result in results]}
    emit(content, as_json, *make_export_tables(files, results))
    return check_results(files, results, limit)


def _require_comparable(option: str, table: LatencyTable | None, targets: list[Target], scope: str) -> None:
    """Check that a prediction can be compared with a measurement.

    Raises:
        UsageError: no result has a prediction; the message gives the reason.
    """
    from ..models.space.plan import SCOPES

    fix = "time the backend (--ort, --torch, or --trt on a GPU) that the table of --lut was measured on"
    if scope not in SCOPES:
        raise UsageError(f"{option} needs a prediction: tables predict the scopes {' and '.join(SCOPES)}, not {scope}")
    if table is None:
        raise UsageError(f"{option} needs a prediction, but there is no latency table: {fix}")
    if table.target not in targets:
        listed = "; ".join(map(str, targets)) or "no backend"
        raise UsageError(
            f"{option} needs a prediction: {table.path} was measured on {table.target}, the network runs on {listed}; "
            f"{fix}"
        )


def _run(
    network: Network,
    target: Target,
    table: LatencyTable | None,
    folder: Path,
    seconds: float,
    layers: bool,
    limit: float | None,
    on_progress: OnProgress,
) -> TargetResult:
    """Time the network on a target and write its engine; add layer times if requested, or if the prediction is off."""
    from ..models.space.plan import SCOPES
    from ..profiler.deployment import deploy

    covered = network.scope in SCOPES
    using = table if table is not None and table.target == target and covered else None
    if table is not None and not covered:
        say(f"no prediction: tables do not predict scope {network.scope}")
    elif table is not None and using is None:
        say(f"no prediction for {target}: {table.path} was measured on {table.target}")
    result = deploy.time_network(network, target, using, seconds=seconds, on_progress=on_progress)
    if target.backend == TRT:
        engine, remarks = deploy.build_target_engine(network, folder, target)  # the timed engine
        result = replace(result, engine=str(engine), note="; ".join(remarks) or None)
    if using is None or not (layers or (limit is not None and not result.within(limit))):
        return result
    try:
        return deploy.add_layer_times(network, target, using, result, folder)
    except MeasurementError as error:  # the result is valid without layer times
        say(f"no layer times: {error}")
        return result


def _check_choices(precisions: list[str], scope: str) -> None:
    from ..models.space.plan import EXPORT_SCOPES
    from ..profiler.deployment.network import EXPORT_PRECISIONS

    for name in precisions:
        if name not in EXPORT_PRECISIONS:
            raise UsageError(f"unknown precision {name!r}; known: {', '.join(EXPORT_PRECISIONS)}")
    if scope not in EXPORT_SCOPES:
        raise UsageError(f"unknown scope {scope!r}; known: {', '.join(EXPORT_SCOPES)}")


def _load(source: Path, out: Path | None, scope: str) -> tuple[Network, Path]:
    """Return the network, with trained weights if the run has them, and its output folder."""
    from ..models.nets.weights import WEIGHTS_FILE, load_weights
    from ..models.space.lgcnet import ARCHITECTURE_FILE, Architecture
    from ..profiler.deployment.network import Network

    run = source if source.is_dir() else source.parent
    architecture = Architecture.load(source / ARCHITECTURE_FILE if source.is_dir() else source)
    weights = run / WEIGHTS_FILE
    trained = load_weights(weights, architecture) if source.is_dir() and weights.exists() else None
    if trained is None:
        say(
            "warning: no trained weights: the network is exported with random weights; its latency is valid, its "
            "output is not"
        )
        return Network(architecture, None, scope), out or run / "export"
    return Network(architecture, trained, scope, _classes(run)), out or run / "export"


def _classes(run: Path) -> tuple[str, ...] | None:
    """Return the class names in the training result of a run; None without a result."""
    path = run / "train-result.json"
    if not path.exists():
        return None
    try:
        return tuple(json.loads(path.read_text())["per_class"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is not a valid training result: delete it, or train again") from error


def _with_images(network: Network, data: Path | None, needed: bool) -> tuple[Network, list[RGBImage]]:
    """Return the network with images for int8 calibration, and other images for the comparison with torch."""
    from ..models.images import read_pixels
    from ..search.data.layouts import list_pairs

    if data is None:
        if needed:
            raise UsageError("int8 needs images for calibration: add --data DIR, a dataset or a folder of images")
        return network, []
    try:
        splits = [[pair.image for pair in list_pairs(data, split)[1]] for split in ("train", "val")]
    except DataError:
        from ..models.images import list_images

        paths = list(list_images(data))  # a plain folder: alternate between the two uses
        splits = [paths[::2], paths[1::2] or paths]
    size = network.architecture.space.input
    ranges, others = ([read_pixels(path, size) for path in _sample(paths)] for paths in splits)
    return replace(network, images=tuple(ranges)), others


def _sample(paths: list[Path]) -> list[Path]:
    """Return at most `MAX_IMAGES` paths, evenly spaced: neighbours show the same street."""
    step = max(len(paths) / MAX_IMAGES, 1)
    return [paths[int(index * step)] for index in range(min(len(paths), MAX_IMAGES))]


def _open_table(lut: Path | None, network: Network) -> LatencyTable | None:
    """Return the table of --lut, else the search's table if it still exists and fits, else None."""
    from ..lut.table.table import LatencyTable

    if lut is not None:
        table = LatencyTable.open(lut)
        table.require(space=network.architecture.space)
        return table
    used = network.architecture.provenance.get("table")
    if not isinstance(used, str) or not Path(used).exists():
        say("no prediction: choose a latency table with --lut")
        return None
    table = LatencyTable.open(used)
    if table.space.fingerprint == network.architecture.space.fingerprint:
        return table
    table.close()
    say(f"no prediction: {used} now belongs to another space; choose a latency table with --lut")
    return None


def _choose_targets(
    table: LatencyTable | None,
    backends: list[str],
    trt: bool,
    device: str | None,
    threads: int | None,
    precision: str,
) -> list[Target]:
    """Return the usable targets; without a GPU, TensorRT has none, as the engine is only built ahead of time."""
    from ..lut.target import Target
    from ..profiler.backends import require_backend
    from ..profiler.machine.devices import check_device, list_devices

    own_device, own_threads = (table.target.device, table.target.threads) if table is not None else (CPU, 1)
    targets = []
    for backend in backends:
        place = check_device(device or own_device)
        targets.append(Target(place, backend, precision, place.num_threads(threads or own_threads)))
    gpus = [name for name in list_devices() if not name.is_cpu]
    if trt and (gpus or (device is not None and device != "cpu")):
        requested = device or own_device
        targets.append(Target(check_device(gpus[0] if requested == "cpu" else requested), TRT, precision))
    for target in targets:  # fail before writing any file
        require_backend(target)
    return targets


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
