"""`lgc-profile`: measure a search space's operators on a device into a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli.console import emit, grid, new_app, run, say
from .cli.options import (
    JsonOption,
    ThreadsOption,
    make_seed_option,
    make_space_option,
    parse_seconds,
    parse_size,
)
from .cli.progress import progress_bar
from .cli.report_tables import make_report_tables

if TYPE_CHECKING:
    from ..device import Device
    from ..lut.target import Target
    from ..models.space.lgcnet import SearchSpace
    from ..profiler.profile import ProfileResult

app = new_app()


@app.command()
def profile(
    device: Annotated[
        list[str], typer.Option(help="Device: cpu or cuda:N; repeat to share the work among identical GPUs.")
    ],
    backend: Annotated[
        str | None,
        typer.Option(
            help="Inference backend: torch, onnxruntime, onnxruntime-tensorrt or tensorrt.",
            show_default="CPU: onnxruntime; GPU: tensorrt if installed, else torch",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision of the operators: fp32, fp16 or bf16.")] = "fp32",
    threads: ThreadsOption = 1,
    space: Annotated[str, make_space_option()] = "lgcnet-cityscapes",
    input_size: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="HxW",
            help="Height and width of the network input in pixels.",
            show_default="the space's input size",
        ),
    ] = None,
    networks: Annotated[
        int, typer.Option(help="Random networks to measure for calibration and verification; 0 skips both.")
    ] = 24,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Maximum sample batches per benchmark.", show_default="until the confidence interval is narrow enough"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time limit, e.g. 90s or 4m; unfinished entries stay pending."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="Measuring context of an operator. carriers: between convolutions, as in a network; isolated: alone.",
            show_default="carriers",
        ),
    ] = None,
    seed: Annotated[int, make_seed_option("of the network sample and the measuring order")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="T.lut",
            help="Latency table to write.",
            show_default="named after space, input size, device, backend and precision",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Measure every operator of a search space on a device and write a latency table.

    The table is calibrated and verified with whole networks. Run the same command again to resume; a finished table is
    not measured again.

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
    path = out or _name_table(chosen, target)
    _announce(chosen, target, devices[1:], path)
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
    _print_result(path, target, result, as_json)
    return 1 if result.failed else 0


def _name_table(space: SearchSpace, target: Target) -> Path:
    """Return the default file name of a table."""
    height, width = space.input
    device = target.device.replace(":", "")
    return Path(f"{space.name}-{height}x{width}-{device}-{target.backend}-{target.precision}.lut")


def _announce(space: SearchSpace, target: Target, others: list[Device], path: Path) -> None:
    height, width = space.input
    devices = f" and {', '.join(others)}" if others else ""
    say(f"profiling {space.name} {height}x{width} on {target}{devices}, into {path}")


def _print_result(path: Path, target: Target, result: ProfileResult, as_json: bool) -> None:
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
        say(f"another process is measuring {result.elsewhere} benchmarks of {path}")
    if result.pending:
        say(f"{result.pending} entries are pending: run the same command again to measure them")
    for remark in result.remarks:
        say(remark)
    for key, reason in result.failed.items():
        say(f"failed: {key}: {reason}")
    counts = ("entries", "measured", "noisy", "interpolated", "pending", "failed")
    table = grid(f"{path}: {target}", *counts, "seconds", numbers=7)
    table.add_row(*(str(content[name]) for name in counts), f"{result.seconds:.1f}")
    emit(content, as_json, table, *make_report_tables(result.verification))


def main() -> None:
    """Run the command."""
    run(app)
