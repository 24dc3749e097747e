"""`lgc-train`: train the architecture of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import JsonFlag, emit, grid, new_app, progress_bar, run, share_cores, step_progress

app = new_app()


@app.command()
def train(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with an architecture.json.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of Cityscapes or CamVid.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; 200 epochs if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 8,
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up.")] = 0.01,
    init: Annotated[str, typer.Option(help="scratch, or supernet: start from the search's weights.")] = "scratch",
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Train a run's architecture, and score it on the validation images.

    An interrupted training is gone on with by the same call.

    Example: lgc-train runs/street --data scenes --steps 2000
    """
    share_cores()
    from ..errors import UsageError
    from ..profiler.devices import check_device
    from ..search.config import TrainConfig
    from ..search.training import default_steps
    from ..search.training import train as run_train

    if init not in ("scratch", "supernet"):
        raise UsageError(f"unknown --init {init!r}; known: scratch, supernet")
    config = TrainConfig(
        steps=steps or default_steps(source, data, batch), batch=batch, lr=lr, init=init, workers=workers, seed=seed
    )
    with progress_bar() as on_progress:
        on_step = step_progress("training", on_progress)
        result = run_train(source, data, config, device=check_device(device), on_step=on_step)
    table = grid(f"mIoU {result['miou']:.2f} % on {result['scored_on']}", "class", "IoU %", numbers=1)
    for name, iou in result["per_class"].items():
        table.add_row(name, "absent" if iou is None else f"{iou:.2f}")
    emit(result, as_json, table, f"weights  {result['weights']}")


def main() -> None:
    """Run the command."""
    run(app)
