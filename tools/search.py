"""`lgc-search`: search a space for an architecture under a latency constraint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .console import JsonFlag, emit, grid, new_app, parse_size, progress_bar, run, say, share_cores, step_progress

POOR_MAPE_PCT = 10.0
"""Mean error of a table's predictions above which a search with it warns."""

app = new_app()


@app.command()
def search(
    lut: Annotated[Path, typer.Option(metavar="T.lut", help="Latency table of the device to deploy on.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of Cityscapes or CamVid.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder; an interrupted search in it is gone on with.")],
    space: Annotated[str | None, typer.Option(help="A preset or YAML file; the table's space if left out.")] = None,
    target_ms: Annotated[
        float | None, typer.Option(min=0, help="Latency that the result must not exceed, in milliseconds.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; 80 epochs of half the images if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 16,
    crop: Annotated[str | None, typer.Option(metavar="HxW", help="Training crops; whole images if left out.")] = None,
    arch_lr: Annotated[float, typer.Option(help="Learning rate of the architecture; raise it for short runs.")] = 1e-3,
    beta: Annotated[float, typer.Option(help="Weight of log(latency) where there is no target.")] = 2e-3,
    scope: Annotated[str, typer.Option(help="Scope of the latency: dense or core.")] = "dense",
    device: Annotated[str, typer.Option(help="Where to train the supernet: cpu or cuda:N.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Search a space for an architecture: differentiable, latency from the table, under a target if one is given.

    Example: lgc-search --lut tiny.lut --data scenes --target-ms 5 --steps 200 --out runs/street
    """
    share_cores()
    from ..lut.predictor import Predictor
    from ..lut.table import LatencyTable
    from ..models.space import SearchSpace
    from ..profiler.devices import check_device
    from ..search.config import SearchConfig
    from ..search.engine import default_steps
    from ..search.engine import search as run_search

    with LatencyTable.open(lut) as table:
        chosen = SearchSpace.load(space) if space is not None else table.space
        predictor = Predictor(chosen, table, scope)
        verification = (table.note("verification") or {}).get(scope)
    if not predictor.calibrated:
        say(f"warning: {lut} was never verified on whole networks, so its predictions have an unknown error")
    elif verification and verification["mape_pct"] > POOR_MAPE_PCT:
        say(f"warning: {lut} predicts networks only to {verification['mape_pct']:.0f} %; profile on a quieter machine")
    side = None if crop is None else parse_size(crop)
    _check_crop(side, chosen.input, chosen.plan.stride)
    config = SearchConfig(
        steps=steps or default_steps(data, chosen, batch),
        batch=batch,
        crop=side,
        seed=seed,
        scope=scope,
        target_ms=target_ms,
        beta=beta,
        arch_lr=arch_lr,
        workers=workers,
    )
    with progress_bar() as on_progress:
        on_step = step_progress("searching", on_progress)
        result = run_search(predictor, data, out, config, device=check_device(device), on_step=on_step)
    table_ = grid("found", "target ms", "predicted ms", "90 % interval", "steps", "seconds", numbers=5)
    target = "-" if target_ms is None else f"{target_ms:.3f}"
    low, high = result["predicted_low_ms"], result["predicted_high_ms"]
    interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
    table_.add_row(target, f"{result['predicted_ms']:.3f}", interval, str(result["steps"]), f"{result['seconds']:.0f}")
    reach = f"the space reaches from {result['fastest_ms']:.3f} to {result['slowest_ms']:.3f} ms"
    emit(result, as_json, table_, reach, f"architecture  {result['architecture']}")


def _check_crop(crop: tuple[int, int] | None, image: tuple[int, int], stride: int) -> None:
    if crop is None:
        return
    if any(side % stride or side < 2 * stride for side in crop):
        raise UsageError(
            f"--crop {crop[0]}x{crop[1]}: both must be multiples of the network's stride, {stride}, twice it at least"
        )
    if crop[0] > image[0] or crop[1] > image[1]:
        raise UsageError(f"--crop {crop[0]}x{crop[1]} is larger than the space's input, {image[0]}x{image[1]}")


def main() -> None:
    """Run the command."""
    run(app)
