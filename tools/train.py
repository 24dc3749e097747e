"""`lgc-train`: train the architecture of a run folder, or score what was trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..device import Device
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

app = new_app()


@app.command()
def train(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with an architecture.json.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of Cityscapes or CamVid.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the weights; RUN itself if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; 200 epochs if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, of each process.")] = 8,
    crop: Annotated[str | None, typer.Option(metavar="HxW", help="Training crops; the space's input size.")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up.")] = 0.01,
    warm_up: Annotated[int, typer.Option(min=0, help="Steps in which it rises; a tenth of all at most.")] = 1000,
    ohem: Annotated[bool, typer.Option("--ohem/--no-ohem", help="Learn from hard pixels only.")] = True,
    balanced: Annotated[bool, typer.Option("--balanced", help="Let rare classes weigh more.")] = False,
    aux: Annotated[float, typer.Option(min=0, help="Weight of the auxiliary head; 0 leaves it out.")] = 0.4,
    ema: Annotated[float, typer.Option(min=0, help="Decay of the weights' mean; 0 takes the last weights.")] = 0.999,
    init: Annotated[
        str,
        typer.Option(metavar="scratch|supernet|FILE", help="Start from the search's weights, or from a file."),
    ] = "scratch",
    train_split: Annotated[str, typer.Option(help="train, or Cityscapes' coarse train_extra.")] = "train",
    precision: Annotated[str, typer.Option(help="Of the training: fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda:N; under torchrun, cpu or cuda. The search table's GPU if left out, else cpu."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Only score the weights that RUN holds.")] = False,
    split: Annotated[str, typer.Option(help="Images to score, with --evaluate: val, test or train.")] = "val",
    predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --evaluate: write the predicted classes, as PNG.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a run's architecture, and score it on the validation images.

    An interrupted training is gone on with by the same call. On several GPUs: torchrun --nproc-per-node 4 --no-python
    lgc-train RUN --data DIR --device cuda

    Example: lgc-train runs/street --data scenes --steps 2000

    Example: lgc-train runs/street --data scenes --evaluate --predictions seen
    """
    share_cores()
    from ..search.training.config import TrainConfig

    options = context.params
    if evaluate:
        _refuse(context, {*TrainConfig.model_fields, "out"} - {"workers"}, "without --evaluate")
        result = _evaluate(options)
    else:
        _refuse(context, {"split", "predictions"}, "with --evaluate")
        result = _train(options)
    lines = [f"{name:12} {result[name]}" for name in ("weights", "predictions") if result.get(name)]
    emit(result, as_json, _table(result), *lines)


def _table_devices(source: Path) -> list[Device]:
    """Return the devices of the tables that the architecture was searched with; empty where it does not name them.

    Raises:
        FileFormatError: `source` holds no architecture.
    """
    from ..models.space.lgcnet import ARCHITECTURE_FILE, Architecture

    devices = Architecture.load(source / ARCHITECTURE_FILE).provenance.get("devices")
    return [Device(str(name)) for name in devices] if isinstance(devices, list) else []


def _refuse(context: typer.Context, names: set[str], belongs: str) -> None:
    """Refuse options that were given, but only mean something in the other use of the command."""
    for name in sorted(names):
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            raise UsageError(f"--{name.replace('_', '-')} only makes sense {belongs}")


def _train(options: dict[str, Any]) -> dict[str, Any]:
    from ..search.training.config import TrainConfig
    from ..search.training.train import default_training_steps
    from ..search.training.train import train as run_train

    settings = {name: options[name] for name in TrainConfig.model_fields if name in options}
    settings["crop"] = None if options["crop"] is None else parse_size(options["crop"])
    if options["steps"] is None:
        together = options["batch"] * processes()
        settings["steps"] = default_training_steps(options["source"], options["data"], together, options["train_split"])
    config = TrainConfig(**settings)
    device = pick_device(options["device"], _table_devices(options["source"]), "training")
    with progress_bar() as on_progress:
        scoring = cache(lambda: step_progress("scoring", on_progress))  # its clock starts with the scoring
        result = run_train(
            options["source"],
            options["data"],
            config,
            out=options["out"],
            device=device,
            on_step=step_progress("training", on_progress),
            on_score=lambda step, steps: scoring()(step, steps),
        )
    if result["from_scratch"]:
        parts = ", ".join(result["from_scratch"])
        say(f"started from scratch, since the weights of {options['init']} have another shape: {parts}")
    return result


def _evaluate(options: dict[str, Any]) -> dict[str, Any]:
    from ..search.training.evaluation import evaluate_run

    device = pick_device(options["device"], _table_devices(options["source"]), "scoring")
    with progress_bar() as on_progress:
        return evaluate_run(
            options["source"],
            options["data"],
            options["split"],
            predictions=options["predictions"],
            workers=options["workers"],
            device=device,
            on_step=step_progress("scoring", on_progress),
        )


def _table(result: dict[str, Any]) -> Table:
    at = result["scored_at"]
    where = at if isinstance(at, str) else f"{at[0]}x{at[1]}"
    table = grid(f"{result['scored_images']} {result['scored_on']} images, scored at {where}", "", "IoU %", numbers=1)
    for name, iou in result["per_class"].items():
        table.add_row(name, "absent" if iou is None else f"{iou:.2f}")
    table.add_section()
    for name, key in (("mean (mIoU)", "miou"), ("pixel accuracy", "pixel_accuracy")):
        table.add_row(name, "no labels" if result[key] is None else f"{result[key]:.2f}")
    return table


def main() -> None:
    """Run the command."""
    run(app, FROM_CHECKPOINT)
