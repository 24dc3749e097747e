"""`lgc-search`: search a space for architectures under latency targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .cli.console import (
    FROM_CHECKPOINT,
    JsonFlag,
    emit,
    grid,
    new_app,
    parse_size,
    pick_device,
    processes,
    progress_bar,
    run,
    say,
    share_cores,
    step_progress,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ..lut.predictor import Predictor

POOR_MAPE_PCT = 10.0
"""Mean error of a table's predictions above which a search with it warns."""
COLLAPSED = 0.6
"""Share of edges that compute nothing above which a result is remarked on."""

app = new_app()


@app.command()
def search(
    lut: Annotated[
        list[Path], typer.Option(metavar="T.lut", help="Latency table of a device to deploy on; may be repeated.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of Cityscapes or CamVid.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder; an interrupted search in it is gone on with.")],
    space: Annotated[str | None, typer.Option(help="A preset or YAML file; the table's space if left out.")] = None,
    target_ms: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Latency that the result must not exceed; repeated: one a table, or a front."),
    ] = None,
    target_fps: Annotated[
        list[float] | None, typer.Option(min=0, help="The same as frames a second: 1000 / FPS milliseconds.")
    ] = None,
    quantile: Annotated[
        float | None, typer.Option(help="Hold this quantile of the prediction against the target, say 0.9.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="gradient, random or evolution: same target, same computation.")] = (
        "gradient"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; 80 epochs of half the images if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, in each process.")] = 16,
    crop: Annotated[str | None, typer.Option(metavar="HxW", help="Training crops; whole images if left out.")] = None,
    cells: Annotated[str, typer.Option(help="independent, or shared: all cells of a kind are alike.")] = "independent",
    communication: Annotated[
        str | None, typer.Option(help="gcn, linear or none: how a cell is informed by the one before.")
    ] = None,
    fusion: Annotated[str, typer.Option(help="searched or fixed: the dense-connected fusion cell.")] = "searched",
    latency_term: Annotated[bool, typer.Option(help="Whether the loss has a latency term.")] = True,
    balanced: Annotated[bool, typer.Option("--balanced", help="Let rare classes weigh more in the loss.")] = False,
    arch_lr: Annotated[
        float | None, typer.Option(help="Learning rate of the architecture; by the number of steps if left out.")
    ] = None,
    warm_up: Annotated[float, typer.Option(help="Share of the steps before the architecture is learnt.")] = 0.3,
    trials: Annotated[
        int, typer.Option(min=0, help="Best architectures that are compared by short trainings at the end.")
    ] = 4,
    beta: Annotated[float, typer.Option(help="Weight of log(latency) where there is no target.")] = 2e-3,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the result on the table's device, here, and land by that.")
    ] = False,
    scope: Annotated[str, typer.Option(help="Scope of the latency: dense or core.")] = "dense",
    device: Annotated[
        str | None,
        typer.Option(help="Where to train the supernet: cpu or cuda:N; the table's GPU if left out, else cpu."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the supernet's training: fp32, bf16 or fp16.")] = "fp32",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Search a space for an architecture: differentiable, latency from the table, under a target if one is given.

    Several targets share the warm-up and give a front; several tables give a result that meets a target on each.

    Example: lgc-search --lut tiny.lut --data scenes --target-ms 5 --steps 200 --out runs/street
    """
    share_cores()
    from ..profiler.deployment.deploy import drift_reference
    from ..search.config import SearchConfig
    from ..search.engine import default_search_steps
    from ..search.engine import search as run_search

    predictors = [_open(path, space, scope) for path in lut]
    chosen = predictors[0].space
    side = None if crop is None else parse_size(crop)
    settings: dict[str, Any] = {
        "batch": batch,
        "crop": side,
        "seed": seed,
        "scope": scope,
        "targets_ms": _points(target_ms, target_fps, len(lut)),
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
    config = SearchConfig(steps=steps or default_search_steps(data, chosen, batch * processes()), **settings)
    place = pick_device(device, [predictor.device for predictor in predictors], "searching")
    with progress_bar() as on_progress:
        on_step = step_progress("searching", on_progress)
        ruler = drift_reference(lut[0], scope) if measure else None
        result = run_search(
            predictors, data, out, config, device=place, precision=precision, measure=ruler, on_step=on_step
        )
    results = result.get("front", [result])
    for one in results:
        _remark(one)
    emit(result, as_json, _table(results), *_closing(results))


def _open(path: Path, space: str | None, scope: str) -> Predictor:
    """The predictor of a table; a table that nobody should trust blindly is remarked on."""
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable
    from ..models.space.lgcnet import SearchSpace

    with LatencyTable.open(path) as table:
        predictor = Predictor(SearchSpace.load(space) if space is not None else table.space, table, scope)
        verification = (table.metadata("verification") or {}).get(scope)
    if not predictor.calibrated:
        say(f"warning: {path} was never verified on whole networks, so its predictions have an unknown error")
    elif verification and verification["mape_pct"] > POOR_MAPE_PCT:
        say(f"warning: {path} predicts networks only to {verification['mape_pct']:.0f} %; profile on a quieter machine")
    return predictor


def _points(
    target_ms: list[float] | None, target_fps: list[float] | None, tables: int
) -> tuple[tuple[float, ...], ...]:
    """Targets as points of the front, one target a table each, in the order given."""
    if target_ms and target_fps:
        raise UsageError("give --target-ms or --target-fps, not both")
    for name, values in (("--target-ms", target_ms), ("--target-fps", target_fps)):
        if not all(value > 0 for value in values or ()):
            raise UsageError(f"{name} must be above 0")
    targets = [1000 / fps for fps in target_fps] if target_fps else (target_ms or [])
    if len(targets) % tables:
        raise UsageError(f"targets for {tables} tables: {len(targets)}; each point of a front needs one for each table")
    return tuple(tuple(targets[first : first + tables]) for first in range(0, len(targets), tables))


def _remark(result: dict[str, Any]) -> None:
    """Say it where a search ended with hardly anything."""
    edges = sum(result["operators"].values())
    idle = sum(count for name, count in result["operators"].items() if name in ("zero", "skip"))
    if idle > COLLAPSED * edges:
        say(
            f"warning: {idle} of {edges} edges of {result['architecture']} are zero or skip: the target leaves no "
            f"room, or the search collapsed; try a longer --warm-up, more --steps, or --strategy evolution"
        )


def _table(results: list[dict[str, Any]]) -> Table:
    names = ("target ms", "predicted ms", "90 % interval", "loss", "steps", "seconds")
    table = grid("found", *names, numbers=len(names))
    for one in results:
        targets = [row["target_ms"] for row in one["tables"]] if "tables" in one else [one["target_ms"]]
        predicted = [row["predicted_ms"] for row in one["tables"]] if "tables" in one else [one["predicted_ms"]]
        low, high = one["predicted_low_ms"], one["predicted_high_ms"]
        table.add_row(
            " / ".join("-" if target is None else f"{target:.3f}" for target in targets),
            " / ".join(f"{ms:.3f}" for ms in predicted),
            "-" if low is None else f"{low:.3f} to {high:.3f}",
            f"{one['loss_after']:.3f}",
            str(one["steps"]),
            f"{one['seconds']:.0f}",
        )
    return table


def _closing(results: list[dict[str, Any]]) -> list[str]:
    first = results[0]
    lines = [f"the space reaches from {first['fastest_ms']:.3f} to {first['slowest_ms']:.3f} ms"]
    for one in results:
        operators = ", ".join(f"{count} {name}" for name, count in one["operators"].items() if count)
        lines += [
            f"architecture  {one['architecture']}",
            f"  {operators}; head of {one['head_channels']} channels",
            *([] if "measured_ms" not in one else [_landed(one)]),
            *(["  dominated: another point is faster and has a lower loss"] if one.get("dominated") else []),
            f"  loss in the supernet {one['loss_after']:.3f}; of paths as they were drawn {one['loss_before']:.3f}"
            + ("" if one["loss_likeliest"] is None else f", of the likeliest architecture {one['loss_likeliest']:.3f}"),
        ]
    return lines


def _landed(one: dict[str, Any]) -> str:
    off = (one["measured_ms"] / one["target_ms"] - 1) * 100
    return (
        f"  measured {one['measured_ms']:.3f} ms at the table's speed, {off:+.1f} % from the target, after "
        f"{one['landings']} landings; the table alone predicts {one['predicted_ms']:.3f} ms"
    )


def main() -> None:
    """Run the command."""
    run(app, FROM_CHECKPOINT)
