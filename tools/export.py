"""`lgc-export`: an architecture as ONNX and as a TensorRT engine, timed and held against its prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..device import CPU
from ..errors import DataError, FileFormatError, MeasurementError, UsageError
from .cli.console import STARTS_ANEW, JsonFlag, emit, new_app, parse_percent, progress_bar, run, say
from .cli.export_table import pages, verdict

if TYPE_CHECKING:
    from ..lut.table.table import LatencyTable
    from ..lut.target import Target
    from ..models.images import RGBImage
    from ..profiler.deployment.deploy import Result
    from ..profiler.deployment.network import Network
    from ..profiler.timing.rounds import OnProgress

IMAGES = 32
"""Images that int8 takes its ranges from, and as many others that outputs are compared on."""

TRT = "tensorrt"

app = new_app()


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|architecture.json", help="A run folder, or an architecture.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; the run folder's export/ if left out.")
    ] = None,
    lut: Annotated[
        Path | None, typer.Option(metavar="T.lut", help="Table to predict from; the one the search used if left out.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write the ONNX file (always done).")] = False,
    ort: Annotated[bool, typer.Option("--ort", help="Run and time it under ONNX Runtime.")] = False,
    torch: Annotated[bool, typer.Option("--torch", help="Run and time it under torch itself.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="Build a TensorRT engine; run and time it on a GPU.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N; the table's if left out.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the table's, or 1.")] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, bf16 or int8; may be repeated. fp32 if left out.")
    ] = None,
    scope: Annotated[
        str,
        typer.Option(help="core: to the logits. dense: to the class of every pixel. end-to-end: from bytes to bytes."),
    ] = "dense",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Cityscapes, CamVid, or a folder of images: for int8, and to compare."),
    ] = None,
    tolerance: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Exit with 1 if a prediction is off by more, say 5%.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time layers too, and hold the table's entries against them.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for which each backend is measured.")] = 10.0,
    compute_capability: Annotated[
        str | None,
        typer.Option(metavar="X.Y", help="Build the engine ahead of time for such a GPU, not for the one here."),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Write an architecture as ONNX, compare it with torch, time it, and hold its latency against the prediction.

    Example: lgc-export runs/street --onnx --ort --tolerance 5%
    """
    from ..profiler.deployment import deploy
    from ..profiler.deployment.network import FILES

    precisions = list(dict.fromkeys(precision or ["fp32"]))
    _check(precisions, scope)
    limit = None if tolerance is None else parse_percent(tolerance)
    network, folder = _load(source, out, scope)
    table = _table(lut, network)
    names = [name for name, wanted in (("onnxruntime", ort), ("torch", torch)) if wanted]
    here = trt and compute_capability is None
    targets = [one for each in precisions for one in _targets(table, names, here, device, threads, each)]
    if table is not None and lut is not None:
        deploy.matching(table, targets)
    if compute_capability is not None and not trt:
        raise UsageError("--compute-capability is an engine's: take --trt too")
    if not (names or here) and (device is not None or threads is not None):
        raise UsageError("--device and --threads say where a backend runs it: name one too (--ort, --torch, --trt)")
    if limit is not None or layers:
        _require_comparable("--tolerance" if limit is not None else "--layers", table, targets, scope)
    network, compared_on = _with_images(network, data, "int8" in precisions)
    network = replace(network, table=None if table is None else deploy.latencies_of(table, scope))
    files = [
        deploy.write_compared(network, folder, each, compared_on)
        for each in dict.fromkeys(FILES[one] for one in precisions)
    ]
    for file in files:
        say(f"wrote {file['onnx']}")
    with progress_bar() as on_progress:
        results = [
            _run(network, target, table, folder, seconds, layers, limit, on_progress=on_progress) for target in targets
        ]
    if trt and not any(target.backend == TRT for target in targets):
        results += [deploy.build_ahead(network, folder, each, compute_capability) for each in precisions]
    if table is not None:
        table.close()
    content = {"onnx": files[0]["onnx"], "files": files, "results": [result.as_dict() for result in results]}
    emit(content, as_json, *pages(files, results))
    return verdict(files, results, limit)


def _require_comparable(option: str, table: LatencyTable | None, targets: list[Target], scope: str) -> None:
    """Show that a prediction will be held against a measurement.

    Raises:
        UsageError: none will; the message says why.
    """
    from ..models.space.plan import SCOPES

    mend = "run a backend (--ort, --torch, or --trt on a GPU) that the table of --lut was measured on"
    if scope not in SCOPES:
        raise UsageError(f"{option} has nothing to check: no table covers scope {scope}, only {' and '.join(SCOPES)}")
    if table is None:
        raise UsageError(f"{option} has nothing to check: there is no table; {mend}")
    if table.target not in targets:
        here = "; ".join(map(str, targets)) or "nothing"
        raise UsageError(f"{option} has nothing to check: {table.path} is of {table.target}, run is {here}; {mend}")


def _run(
    network: Network,
    target: Target,
    table: LatencyTable | None,
    folder: Path,
    seconds: float,
    layers: bool,
    limit: float | None,
    on_progress: OnProgress,
) -> Result:
    """The network timed on a target, with its engine's file; with the times of layers where asked for, or needed."""
    from ..models.space.plan import SCOPES
    from ..profiler.deployment import deploy

    covered = network.scope in SCOPES
    using = table if table is not None and table.target == target and covered else None
    if table is not None and not covered:
        say(f"no prediction: no table covers scope {network.scope}")
    elif table is not None and using is None:
        say(f"no prediction for {target}: {table.path} is of {table.target}")
    found = deploy.time_network(network, target, using, seconds=seconds, on_progress=on_progress)
    if target.backend == TRT:
        engine, remarks = deploy.build_here(network, folder, target)  # the one that has run
        found = replace(found, engine=str(engine), note="; ".join(remarks) or None)
    if using is None or not (layers or (limit is not None and not found.within(limit))):
        return found
    try:
        return deploy.with_layers(network, target, using, found, folder)
    except MeasurementError as error:  # no reason to be had; what was measured stands
        say(f"no reason by slot: {error}")
        return found


def _check(precisions: list[str], scope: str) -> None:
    from ..models.space.plan import EXPORT_SCOPES
    from ..profiler.deployment.network import EXPORT_PRECISIONS

    for name in precisions:
        if name not in EXPORT_PRECISIONS:
            raise UsageError(f"unknown precision {name!r}; known: {', '.join(EXPORT_PRECISIONS)}")
    if scope not in EXPORT_SCOPES:
        raise UsageError(f"unknown scope {scope!r}; known: {', '.join(EXPORT_SCOPES)}")


def _load(source: Path, out: Path | None, scope: str) -> tuple[Network, Path]:
    """The network to deploy, with trained weights where there are any, and the folder for its files."""
    from ..models.nets.weights import WEIGHTS_FILE, load_weights
    from ..models.space.lgcnet import ARCHITECTURE_FILE, Architecture
    from ..profiler.deployment.network import Network

    run = source if source.is_dir() else source.parent
    architecture = Architecture.load(source / ARCHITECTURE_FILE if source.is_dir() else source)
    weights = run / WEIGHTS_FILE
    trained = load_weights(weights, architecture) if source.is_dir() and weights.exists() else None
    if trained is None:
        say("the network has random weights: its latency is real, its output is not")
        return Network(architecture, None, scope), out or run / "export"
    return Network(architecture, trained, scope, _classes(run)), out or run / "export"


def _classes(run: Path) -> tuple[str, ...] | None:
    """Names of the classes that the run's training scored; None where it left no result."""
    path = run / "train-result.json"
    if not path.exists():
        return None
    try:
        return tuple(json.loads(path.read_text())["per_class"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is no result of a training; delete it, or train again") from error


def _with_images(network: Network, data: Path | None, needed: bool) -> tuple[Network, list[RGBImage]]:
    """The network with images for int8's ranges, and other images that outputs are compared on."""
    from ..models.images import read_pixels
    from ..search.data.layouts import list_pairs

    if data is None:
        if needed:
            raise UsageError("int8 takes its ranges from images: name a data set or a folder of images with --data DIR")
        return network, []
    try:
        splits = [[pair.image for pair in list_pairs(data, split)[1]] for split in ("train", "val")]
    except DataError:
        from ..models.images import list_images

        everything = list(list_images(data))  # of a plain folder, every other image each
        splits = [everything[::2], everything[1::2] or everything]
    size = network.architecture.space.input
    ranges, others = ([read_pixels(path, size) for path in _some(paths)] for paths in splits)
    return replace(network, images=tuple(ranges)), others


def _some(paths: list[Path]) -> list[Path]:
    """At most `IMAGES` of them, spread over the list: neighbours show the same street."""
    step = max(len(paths) / IMAGES, 1)
    return [paths[int(index * step)] for index in range(min(len(paths), IMAGES))]


def _table(lut: Path | None, network: Network) -> LatencyTable | None:
    """The table named, or the one that the search used if it is still there."""
    from ..lut.table.table import LatencyTable

    if lut is not None:
        table = LatencyTable.open(lut)
        table.require(space=network.architecture.space)
        return table
    used = network.architecture.provenance.get("table")
    if not isinstance(used, str) or not Path(used).exists():
        say("no prediction: name the table with --lut")
        return None
    table = LatencyTable.open(used)
    if table.space.fingerprint == network.architecture.space.fingerprint:
        return table
    table.close()
    say(f"no prediction: {used} is of another space by now; name a table with --lut")
    return None


def _targets(
    table: LatencyTable | None,
    backends: list[str],
    trt: bool,
    device: str | None,
    threads: int | None,
    precision: str,
) -> list[Target]:
    """The targets to run on. An engine runs only where there is a GPU; it is built ahead of time elsewhere."""
    from ..lut.target import Target
    from ..profiler.backends import require_backend
    from ..profiler.machine.devices import check_device, list_devices

    own_device, own_threads = (table.target.device, table.target.threads) if table is not None else (CPU, 1)
    targets = []
    for backend in backends:
        place = check_device(device or own_device)
        targets.append(Target(place, backend, precision, place.num_threads(threads or own_threads)))
    gpus = [found for found in list_devices() if not found.is_cpu]
    if trt and (gpus or (device is not None and device != "cpu")):
        wished = device or own_device
        targets.append(Target(check_device(gpus[0] if wished == "cpu" else wished), TRT, precision))
    for target in targets:  # before anything is written
        require_backend(target)
    return targets


def main() -> None:
    """Run the command."""
    run(app, STARTS_ANEW)
