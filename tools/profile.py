"""`lgc-profile`: measure a search space's operators on a device into a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli.console import JsonFlag, emit, grid, new_app, parse_seconds, parse_size, progress_bar, run, say

if TYPE_CHECKING:
    from ..lut.statistics.calibration import PredictionReport
    from ..lut.target import Target
    from ..profiler.profile import ProfileResult

app = new_app()


@app.command()
def profile(
    device: Annotated[
        list[str], typer.Option(help="cpu, or cuda:N; several times for equal devices that share the work.")
    ],
    backend: Annotated[
        str | None,
        typer.Option(
            help="torch, onnxruntime, onnxruntime-tensorrt or tensorrt; by default onnxruntime on a CPU, on a GPU "
            "tensorrt if installed, else torch."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(help="CPU threads inside an operator.")] = 1,
    space: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "lgcnet-cityscapes",
    input_size: Annotated[
        str | None, typer.Option("--input", metavar="HxW", help="Input size, if not the space's own.")
    ] = None,
    networks: Annotated[
        int, typer.Option(help="Whole networks measured among the operators, to calibrate and verify.")
    ] = 24,
    rounds: Annotated[
        int | None, typer.Option(help="Visits to anything at most; by default by its confidence interval.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin nothing after this time, say 90s or 4m.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="carriers: operators between convolutions, as in a network (default); isolated: alone."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the networks and the visiting order.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="T.lut", help="The table; named by device, backend and precision if left out."),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Measure every operator of a search space on a device, and write a calibrated, verified latency table.

    An interrupted call is gone on with by the same call. A finished table is left as it is.

    Example: lgc-profile --device cpu --space tiny --out tiny.lut
    """
    from ..lut.target import Target
    from ..models.space.lgcnet import SearchSpace
    from ..profiler import profile as profiler
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device
    from ..profiler.table.multi_device import profile_on

    chosen = SearchSpace.load(space)
    if input_size is not None:
        chosen = chosen.with_input(*parse_size(input_size))
    devices = [check_device(name) for name in device]
    first = devices[0]
    target = Target(first, backend or default_backend(first), precision, first.num_threads(threads))
    height, width = chosen.input
    named = f"{chosen.name}-{height}x{width}-{first.replace(':', '')}-{target.backend}-{precision}.lut"
    path = out or Path(named)
    beside = f" and {', '.join(devices[1:])}" if devices[1:] else ""
    say(f"profiling {chosen.name} {height}x{width} on {target}{beside}, into {path}")
    options: dict[str, Any] = {
        "networks": networks,
        "rounds": rounds,
        "budget_s": None if budget is None else parse_seconds(budget),
        "seed": seed,
        "context": context,
    }
    with progress_bar() as on_progress:
        if len(devices) > 1:
            result = profile_on(devices, chosen, target, path, on_progress=on_progress, **options)
        else:
            result = profiler.profile(chosen, target, path, on_progress=on_progress, **options)
    _show(path, target, result, as_json)
    return 1 if result.failed else 0


def _show(path: Path, target: Target, result: ProfileResult, as_json: bool) -> None:
    content: dict[str, Any] = {
        "lut": str(path),
        "entries": result.entries,
        "measured": result.measured,
        "interpolated": result.interpolated,
        "noisy": result.noisy,
        "pending": result.pending,
        "failed": len(result.failed),
        "seconds": result.seconds,
        "verification": result.verification.as_dict() if result.verification else None,
    }
    if result.elsewhere:
        say(f"{result.elsewhere} subjects of {path} are being measured by another process")
    if result.pending:
        say(f"{result.pending} entries have no latency yet; the same command goes on with them")
    for remark in result.remarks:
        say(remark)
    for key, reason in result.failed.items():
        say(f"failed: {key}: {reason}")
    counts = ("entries", "measured", "noisy", "interpolated", "pending", "failed")
    table = grid(f"{path}: {target}", *counts, "seconds", numbers=7)
    table.add_row(*(str(content[name]) for name in counts), f"{result.seconds:.1f}")
    emit(content, as_json, table, *report_tables(result.verification))


def report_tables(report: PredictionReport | None) -> list[Any]:
    """Tables, or a line, that show a verification report to people."""
    if report is None:
        return ["Not verified: too few networks were measured. Predictions of this table have an unknown error."]
    table = grid("prediction of unseen networks", "", "prediction", "half of the loads by the other", numbers=2)
    table.add_row("networks", str(report.networks), "")
    table.add_row("mean absolute error", f"{report.mape_pct:.1f} %", f"{report.split_half_mape_pct:.1f} %")
    if report.worst_pct == report.worst_pct:  # not told by tables of schema 1
        table.add_row("greatest error", f"{report.worst_pct:.1f} %", "")
    table.add_row("bias", f"{report.bias_pct:+.1f} %", "")
    table.add_row("within 5 % / 10 %", f"{report.within_5_pct:.0f} % / {report.within_10_pct:.0f} %", "")
    table.add_row("Kendall tau", f"{report.kendall_tau:.2f}", f"{report.split_half_kendall_tau:.2f}")
    table.add_row("Spearman rho", f"{report.spearman_rho:.2f}", "")
    return [table]


def main() -> None:
    """Run the command."""
    run(app)
