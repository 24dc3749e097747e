"""`lgc-export`: an architecture as ONNX and as a TensorRT engine, timed and held against its prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .console import JsonFlag, emit, grid, new_app, parse_percent, progress_bar, run, say

if TYPE_CHECKING:
    from ..lut.table import LatencyTable
    from ..lut.target import Target
    from ..profiler.deploy import Network, Result

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
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    scope: Annotated[
        str, typer.Option(help="core: to the logits. dense: to the class of every pixel of the input.")
    ] = "dense",
    tolerance: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Exit with 1 if a prediction is off by more, say 5%.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for which each backend is measured.")] = 10.0,
    compute_capability: Annotated[
        str | None, typer.Option(metavar="X.Y", help="GPU to build the engine for where none is here; 8.9 if left out.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Write an architecture as ONNX, compare it with torch, time it, and hold its latency against the prediction.

    Example: lgc-export runs/street --onnx --ort --tolerance 5%
    """
    from ..lut.target import PRECISIONS
    from ..models.plan import SCOPES
    from ..profiler import deploy

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if scope not in SCOPES:
        raise UsageError(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
    limit = None if tolerance is None else parse_percent(tolerance)
    network, folder = _load(source, out, scope)
    table = _table(lut, network)
    names = [name for name, wanted in (("onnxruntime", ort), ("torch", torch)) if wanted]
    targets = _targets(table, names, trt, device, threads, precision)
    if table is not None and lut is not None:
        deploy.matching(table, targets)
    content: dict[str, Any] = {"onnx": str(deploy.write_onnx(network, folder)), "engine": None}
    say(f"wrote {content['onnx']}")
    results: list[Result] = []
    with progress_bar() as on_progress:
        for target in targets:
            if target.backend == "tensorrt":
                content["engine"] = str(deploy.build_here(network, folder, target))
            using = table if table is not None and table.target == target else None
            if table is not None and using is None:
                say(f"no prediction for {target}: {table.path} is of {table.target}")
            results.append(deploy.time_network(network, target, using, seconds=seconds, on_progress=on_progress))
    if trt and content["engine"] is None:
        engine, built = deploy.build_ahead(network, folder, precision, compute_capability)
        content["engine"] = str(engine)
        results.append(built)
    if table is not None:
        table.close()
    content["results"] = [vars(result) for result in results]
    emit(content, as_json, *_tables(content, results))
    return _verdict(results, limit)


def _load(source: Path, out: Path | None, scope: str) -> tuple[Network, Path]:
    """The network to deploy, with trained weights where there are any, and the folder for its files."""
    from ..models.architecture import ARCHITECTURE, Architecture
    from ..models.weights import WEIGHTS, load_weights
    from ..profiler.deploy import Network

    run = source if source.is_dir() else source.parent
    architecture = Architecture.load(source / ARCHITECTURE if source.is_dir() else source)
    weights = run / WEIGHTS
    trained = load_weights(weights, architecture) if source.is_dir() and weights.exists() else None
    if trained is None:
        say("the network has random weights: its latency is real, its output is not")
    return Network(architecture, trained, scope), out or run / "export"


def _table(lut: Path | None, network: Network) -> LatencyTable | None:
    """The table named, or the one that the search used if it is still there."""
    from ..lut.table import LatencyTable

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
    from ..profiler.devices import check_device, list_devices

    own_device, own_threads = (table.target.device, table.target.threads) if table is not None else ("cpu", 1)
    targets = []
    for backend in backends:
        place = check_device(device or own_device)
        targets.append(Target(place, backend, precision, (threads or own_threads) if place == "cpu" else 1))
    gpus = [name for name in list_devices() if name.startswith("cuda")]
    if trt and (gpus or (device is not None and device != "cpu")):
        wished = device or own_device
        targets.append(Target(check_device(gpus[0] if wished == "cpu" else wished), "tensorrt", precision))
    return targets


def _tables(content: dict[str, Any], results: list[Result]) -> list[Any]:
    """What people see."""
    from .lut import drift_line

    lines: list[Any] = [f"onnx    {content['onnx']}"]
    if content["engine"]:
        lines.append(f"engine  {content['engine']}")
    if not results:
        return lines
    numbers = ("table ms", "predicted ms", "90 % interval", "measured ms", "error", "FPS", "p90 ms", "p99 ms")
    table = grid("predicted against measured", "backend", "device", "precision", "scope", *numbers, numbers=8)
    for result in results:
        cells = (
            _number(result.table_ms, ".3f"),
            _number(result.predicted_ms, ".3f"),
            _interval(result),
            _number(result.measured_ms, ".3f"),
            _number(result.error_pct, "+.1f", " %"),
            _number(result.fps, ".1f"),
            _number(result.p90_ms, ".3f"),
            _number(result.p99_ms, ".3f"),
        )
        table.add_row(result.backend, result.device, result.precision, result.scope, *cells)
    lines.append(table)
    for result in results:
        if result.note:
            lines.append(f"{result.backend}: {result.note}")
        if result.max_abs_diff is not None:
            lines.append(
                f"{result.backend}: logits within {result.max_abs_diff:.1e} of torch's, "
                f"{result.argmax_agreement_pct:.2f} % of pixels of the same class"
            )
        if result.predicted_ms is not None:
            lines.append(drift_line(result.drift_pct))
    if any(result.fps for result in results):
        lines.append("FPS = 1000 / median ms of all runs; measured ms is the table's statistic, so that it compares.")
    return lines


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _interval(result: Result) -> str:
    if result.predicted_low_ms is None:
        return "-"
    return f"{result.predicted_low_ms:.3f} to {result.predicted_high_ms:.3f}"


def _verdict(results: list[Result], limit: float | None) -> int:
    """Exit code: 1 if an output is not torch's, or a prediction beyond the tolerance."""
    code = 0
    if limit is not None and all(result.error_pct is None for result in results):
        raise UsageError(
            "--tolerance has nothing to check: no prediction was held against a measurement; "
            "run a backend (--ort, --torch, or --trt on a GPU) that the table of --lut was measured on"
        )
    for result in results:
        if not result.equals_torch():
            say(
                f"{result.backend} on {result.device} does not give torch's output: max |difference| "
                f"{result.max_abs_diff:.2e}, {result.argmax_agreement_pct:.2f} % of pixels agree"
            )
            code = 1
        if limit is not None and not result.within(limit):
            say(
                f"{result.backend} on {result.device}: predicted {result.predicted_ms:.3f} ms, measured "
                f"{result.measured_ms:.3f} ms, off by {result.error_pct:+.1f} %, more than {limit:g} %"
            )
            code = 1
    return code


def main() -> None:
    """Run the command."""
    run(app)
