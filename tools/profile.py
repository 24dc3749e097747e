"""`lgc-profile`: measure the operators of a search space on a device into a latency table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import FileFormatError, UsageError
from ..precisions import Precision
from .cli.console import announce_dataset, emit, grid, new_app, run, say
from .cli.lut_show import format_range, make_report_tables, warn_of_error
from .cli.options import (
    JsonOption,
    PluginOption,
    ThreadsOption,
    load_operators,
    make_backend_option,
    make_seed_option,
    make_space_option,
    parse_seconds,
    parse_size,
    suggest_command,
)
from .cli.progress import progress_bar

if TYPE_CHECKING:
    from ..lut.target import Target
    from ..models.space.protocol import SearchSpace
    from ..profiler.profile import ProfileResult

app = new_app()


DeviceOption = Annotated[
    list[str],
    typer.Option(help="Device to measure: cpu or cuda:N; repeatable for identical devices that share the work."),
]
BackendOption = Annotated[
    str | None, make_backend_option("onnxruntime on a CPU; on a GPU tensorrt if it runs there, else torch")
]
InputSizeOption = Annotated[
    str | None,
    typer.Option("--input", metavar="HxW", help="Input size in pixels.", show_default="the space's own"),
]
NetworksOption = Annotated[
    int, typer.Option(help="Number of whole networks for calibration and verification; 0 skips both.")
]
RoundsOption = Annotated[
    int | None,
    typer.Option(
        min=4,
        help="Maximum number of sample batches per benchmark.",
        show_default="until its confidence interval is small",
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Time limit, e.g. 90s or 4m; unfinished entries stay pending."),
]
ContextOption = Annotated[
    Literal["carriers", "isolated"] | None,
    typer.Option(
        help="Measuring context. carriers: operators between convolutions, as in a network; isolated: alone.",
        show_default="the table's; carriers for a new table",
    ),
]
ClassesOption = Annotated[
    int | None,
    typer.Option(min=2, max=255, help="Number of classes.", show_default="the dataset's, else the space's own"),
]
ClassesDataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE|DIR", help="Dataset whose number of classes the table is for."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="T.lut", help="Latency table to write.", show_default="SPACE-HxW-DEVICE-BACKEND-PRECISION.lut"
    ),
]


@app.command()
def profile(
    device: DeviceOption,
    backend: BackendOption = None,
    precision: Annotated[Precision, typer.Option(help="Precision of the operators.")] = "fp32",
    threads: ThreadsOption = 1,
    space: Annotated[str, make_space_option()] = "lgcnet-cityscapes",
    input_size: InputSizeOption = None,
    classes: ClassesOption = None,
    data: ClassesDataOption = None,
    networks: NetworksOption = 24,
    rounds: RoundsOption = None,
    budget: BudgetOption = None,
    context: ContextOption = None,
    seed: Annotated[int, make_seed_option("the network sample and the measuring order")] = 0,
    plugin: PluginOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Measure every operator of a search space on a device, and write a calibrated, verified latency table.

    Run the same command again to resume; a finished table stays unchanged. Exit code 1 if an operator failed, or if
    most entries are noisy without --rounds or --budget.

    Example: lgc-profile --device cpu --space tiny --out tiny.lut
    """
    from ..lut.table.spaces import load_space
    from ..lut.target import Target
    from ..models.space.protocol import SearchSpace
    from ..profiler import profile as profiler
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device
    from ..profiler.table.multi_device import profile_on

    load_operators(plugin)
    own, count = load_space(space), _count_classes(classes, data)
    chosen = own if count is None else SearchSpace.require(own).with_classes(count)
    changed = chosen.fingerprint != own.fingerprint
    if input_size is not None:
        chosen = _resize(SearchSpace.require(chosen), input_size)
    devices = [check_device(name) for name in device]
    first = devices[0]
    backend_name = backend or default_backend(first)
    target = Target(first, backend_name, precision, first.num_threads(threads))
    marked = f"{chosen.name}-{count}classes" if changed else chosen.name
    title = chosen.title.replace(chosen.name, marked, 1).replace(" ", "-")
    path = out or Path(f"{title}-{first.replace(':', '')}-{backend_name}-{precision}.lut")
    others = f" and {', '.join(devices[1:])}" if devices[1:] else ""
    budget_s = None if budget is None else parse_seconds(budget)
    settings = profiler.ProfileSettings(networks, rounds, budget_s, seed, context)

    def announce() -> None:
        say(f"profiling {chosen.title}{f' with {count} classes' if changed else ''} on {target}{others} into {path}")

    measure = profiler.profile if len(devices) == 1 else partial(profile_on, devices)
    with progress_bar() as on_progress:
        result = measure(chosen, target, path, settings=settings, on_open=announce, on_progress=on_progress)
    _print_result(path, target, result, as_json, data)
    is_limited = rounds is not None or budget is not None
    if result.is_unreliable:
        _warn_of_noise(result, has_rounds=rounds is not None, has_budget=budget is not None)
    return 1 if result.failed or (result.is_unreliable and not is_limited) else 0


def _resize(space: SearchSpace, size: str) -> SearchSpace:
    """Return the space for the images of --input.

    Raises:
        UsageError: the size is invalid for the space.
    """
    try:
        return space.with_input(*parse_size(size))
    except FileFormatError as error:
        raise UsageError(f"invalid --input: {error}") from error


def _warn_of_noise(result: ProfileResult, *, has_rounds: bool, has_budget: bool) -> None:
    """Print how many entries are noisy, and how to measure a table with fewer."""
    from ..lut.statistics.estimates import NOISY_PCT

    steps = ["profile into another file on a quieter machine"]
    if has_rounds:
        steps.insert(0, "allow more --rounds")
    elif has_budget:
        steps.insert(0, "run the same command again to continue")
    say(
        f"{'warning: ' if has_rounds or has_budget else ''}{result.noisy} of {result.measured} entries are noisy "
        f"(confidence interval wider than {NOISY_PCT:g} %): {', or '.join(steps)}"
    )


def _count_classes(classes: int | None, data: Path | None) -> int | None:
    """Return the number of classes that the options ask for; None without them.

    Raises:
        UsageError: the options contradict each other.
        DataError: the dataset cannot be read.
    """
    if data is None:
        return classes
    counted = announce_dataset(data).num_classes
    if classes not in (None, counted):
        raise UsageError(
            f"--classes {classes} contradicts --data {data}, which has {counted} classes: give one of them"
        )
    return counted


def _print_result(path: Path, target: Target, result: ProfileResult, as_json: bool, data: Path | None) -> None:
    content = {
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
    if result.verification and (warning := warn_of_error(path, result.verification.mape_pct)):
        say(warning)
    counts = ("entries", "measured", "noisy", "interpolated", "pending", "failed")
    table = grid(f"{path}: {target}", *counts, "seconds", numbers=7)
    table.add_row(*(str(content[name]) for name in counts), f"{result.seconds:.1f}")
    lines = [] if as_json or result.pending or result.failed else _suggest_search(path, data)
    emit(content, as_json, table, *make_report_tables(result.verification), *lines)


def _suggest_search(path: Path, data: Path | None) -> list[str]:
    """Return lines on the range of a table's predictions, and the command that searches its space."""
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable
    from ..models.space.lgcnet import LGCNetSpace
    from ..models.space.protocol import DENSE

    with LatencyTable.open(path) as table:
        lines, latencies = format_range(table), table.network_latencies(DENSE)
        if not lines or not latencies or not isinstance(table.space, LGCNetSpace):
            return lines
        low, high = Predictor(table.space, table).range_ms
    middle = median(latencies)
    target_ms = middle if low <= middle <= high else (low + high) / 2  # without calibration, the predictions are off
    given = ("--lut", path, "--data", data or "DIR", "--target-ms", f"{target_ms:.4g}", "--out", "RUN")
    return [*lines, suggest_command("lgc-search", *given)]


def main() -> None:
    """Run the command."""
    run(app)
