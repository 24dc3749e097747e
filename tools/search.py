"""`lgc-search`: search a space for architectures under latency targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .cli.console import (
    RESUMES_FROM_CHECKPOINT,
    count_processes,
    emit,
    grid,
    new_app,
    pick_device,
    run,
    say,
    share_cores,
)
from .cli.options import (
    BalancedOption,
    BatchOption,
    DataOption,
    JsonOption,
    LutScopeOption,
    SeedOption,
    TrainPrecisionOption,
    WorkersOption,
    make_crop_option,
    make_device_option,
    make_space_option,
    make_steps_option,
    parse_size,
)
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..lut.predictor import Predictor

MAX_MAPE_PCT = 10.0
"""Mean absolute error of a table's predictions above which the search warns."""
MAX_IDLE_SHARE = 0.6
"""Share of edges with zero or skip above which a result is warned about."""

app = new_app()


@app.command()
def search(
    lut: Annotated[list[Path], typer.Option(metavar="T.lut", help="Latency table of a deployment device; repeatable.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder; run the same command again to resume in it.")],
    space: Annotated[str | None, make_space_option("the table's space")] = None,
    target_ms: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            help="Latency target in ms, an upper bound; repeat for a front of architectures, or once per table.",
        ),
    ] = None,
    target_fps: Annotated[
        list[float] | None, typer.Option(min=0, help="Frame rate target, used as --target-ms of 1000 / FPS.")
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(help="Quantile of the prediction that must meet the target, e.g. 0.9.", show_default="the mean"),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="Search strategy, with equal compute: gradient, random or evolution.")
    ] = "gradient",
    steps: Annotated[int | None, make_steps_option("of the search", "80 epochs of half the images")] = None,
    batch: BatchOption = 16,
    crop: Annotated[str | None, make_crop_option("whole images")] = None,
    cells: Annotated[
        str, typer.Option(help="Cell architectures. independent: one per cell; shared: one per kind of cell.")
    ] = "independent",
    communication: Annotated[
        str | None,
        typer.Option(
            help="Communication of architecture parameters from cell to cell: gcn, linear or none.",
            show_default="gcn for independent cells, none for shared cells",
        ),
    ] = None,
    fusion: Annotated[str, typer.Option(help="Dense-connected fusion cell: searched or fixed.")] = "searched",
    latency_term: Annotated[bool, typer.Option(help="Include the latency term in the loss.")] = True,
    balanced: BalancedOption = False,
    arch_lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the architecture parameters.", show_default="depends on the number of steps"
        ),
    ] = None,
    warm_up: Annotated[
        float, typer.Option(help="Share of the steps that train the weights only, before the architecture.")
    ] = 0.3,
    trials: Annotated[
        int, typer.Option(min=0, help="Number of best architectures compared by a short training at the end.")
    ] = 4,
    beta: Annotated[float, typer.Option(help="Weight of log(latency) in the loss without a target.")] = 2e-3,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure the result on this machine and refine it until the measurement meets the target."
        ),
    ] = False,
    scope: LutScopeOption = "dense",
    device: Annotated[
        str | None, make_device_option("for the supernet's training", "GPU of the table if present, else cpu")
    ] = None,
    precision: TrainPrecisionOption = "fp32",
    workers: WorkersOption = 0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Search a space for an architecture by gradient descent, with the latency predicted from a table.

    Several targets share the warm-up and give a front of architectures. Several tables give an architecture that meets
    the target of each table.

    Example: lgc-search --lut tiny.lut --data scenes --target-ms 5 --steps 200 --out runs/street
    """
    share_cores()
    from ..profiler.deployment.deploy import make_latency_meter
    from ..search.config import SearchConfig
    from ..search.engine import default_search_steps
    from ..search.engine import search as run_search

    predictors = [_open_predictor(path, space, scope) for path in lut]
    chosen = predictors[0].space
    settings: dict[str, Any] = {
        "batch": batch,
        "crop": None if crop is None else parse_size(crop),
        "seed": seed,
        "scope": scope,
        "targets_ms": _group_targets(target_ms, target_fps, len(lut)),
        "quantile": quantile,
        "strategy": strategy,
        "cells": cells,
        "communication": communication,
        "fusion": fusion,
        "latency_term": latency_term,
        "balanced": balanced,
        "arch_lr": arch_lr,
        "warm_up": warm_up,
        "trials": trials,
        "beta": beta,
        "workers": workers,
    }
    config = SearchConfig(steps=steps or default_search_steps(data, chosen, batch * count_processes()), **settings)
    place = pick_device(device, [predictor.device for predictor in predictors], "searching")
    with progress_bar() as on_progress:
        on_step = make_step_progress("searching", on_progress)
        meter = make_latency_meter(lut[0], scope) if measure else None
        result = run_search(
            predictors, data, out, config, device=place, precision=precision, measure=meter, on_step=on_step
        )
    results = result.get("front", [result])
    for row in results:
        _warn_of_collapse(row)
    emit(result, as_json, _make_table(results), *_format_results(results))


def _open_predictor(path: Path, space: str | None, scope: str) -> Predictor:
    """Return the predictor of a table; warn if its error is unknown or large."""
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable
    from ..models.space.lgcnet import SearchSpace

    with LatencyTable.open(path) as table:
        predictor = Predictor(SearchSpace.load(space) if space is not None else table.space, table, scope)
        verification = (table.metadata("verification") or {}).get(scope)
    if not predictor.calibrated:
        say(f"warning: {path} is not verified on whole networks: the error of its predictions is unknown")
    elif verification and verification["mape_pct"] > MAX_MAPE_PCT:
        say(
            f"warning: the predictions of {path} are off by {verification['mape_pct']:.0f} % on average; profile on an "
            f"idle machine"
        )
    return predictor


def _group_targets(
    target_ms: list[float] | None, target_fps: list[float] | None, num_tables: int
) -> tuple[tuple[float, ...], ...]:
    """Return the targets in milliseconds as points of the front, each with a target per table.

    Raises:
        UsageError: the targets are not positive, have two units, or do not match the number of tables.
    """
    if target_ms and target_fps:
        raise UsageError("give --target-ms or --target-fps, not both")
    for name, values in (("--target-ms", target_ms), ("--target-fps", target_fps)):
        if not all(value > 0 for value in values or ()):
            raise UsageError(f"{name} must be above 0")
    targets = [1000 / fps for fps in target_fps] if target_fps else (target_ms or [])
    if len(targets) % num_tables:
        raise UsageError(f"{len(targets)} targets for {num_tables} tables: give a target per table and point")
    return tuple(tuple(targets[first : first + num_tables]) for first in range(0, len(targets), num_tables))


def _warn_of_collapse(result: dict[str, Any]) -> None:
    """Warn if most edges of the architecture are zero or skip."""
    edges = sum(result["operators"].values())
    idle = sum(count for name, count in result["operators"].items() if name in ("zero", "skip"))
    if idle > MAX_IDLE_SHARE * edges:
        say(
            f"warning: {idle} of {edges} edges of {result['architecture']} are zero or skip: the target is too tight, "
            f"or the search collapsed; try a longer --warm-up, more --steps, or --strategy evolution"
        )


def _make_table(results: list[dict[str, Any]]) -> Table:
    names = ("target ms", "predicted ms", "90 % interval", "loss", "steps", "seconds")
    table = grid("search results", *names, numbers=len(names))
    for result in results:
        rows = result.get("tables", [result])
        low, high = result["predicted_low_ms"], result["predicted_high_ms"]
        table.add_row(
            " / ".join("-" if row["target_ms"] is None else f"{row['target_ms']:.3f}" for row in rows),
            " / ".join(f"{row['predicted_ms']:.3f}" for row in rows),
            "-" if low is None else f"{low:.3f} to {high:.3f}",
            f"{result['loss_after']:.3f}",
            str(result["steps"]),
            f"{result['seconds']:.0f}",
        )
    return table


def _format_results(results: list[dict[str, Any]]) -> list[str]:
    """Return lines on the space's latency range and on each architecture."""
    lines = [f"latency range of the space: {results[0]['fastest_ms']:.3f} to {results[0]['slowest_ms']:.3f} ms"]
    for result in results:
        operators = ", ".join(f"{count} {name}" for name, count in result["operators"].items() if count)
        lines += [
            f"architecture  {result['architecture']}",
            f"  {operators}; head of {result['head_channels']} channels",
            *([] if "measured_ms" not in result else [_format_measurement(result)]),
            *(["  dominated: another point is faster and has a lower loss"] if result.get("dominated") else []),
            f"  supernet loss {result['loss_after']:.3f}; sampled paths {result['loss_before']:.3f}"
            + ("" if result["loss_likeliest"] is None else f"; likeliest architecture {result['loss_likeliest']:.3f}"),
        ]
    return lines


def _format_measurement(result: dict[str, Any]) -> str:
    error_pct = (result["measured_ms"] / result["target_ms"] - 1) * 100
    return (
        f"  measured {result['measured_ms']:.3f} ms (corrected for drift), {error_pct:+.1f} % from the target, after "
        f"{result['landings']} refinements; the table predicts {result['predicted_ms']:.3f} ms"
    )


def main() -> None:
    """Run the command."""
    run(app, RESUMES_FROM_CHECKPOINT)
