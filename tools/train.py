"""`lgc-train`: train the architecture of a run folder, or score its weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..device import Device
from ..errors import UsageError
from ..search.training.config import TrainConfig
from .cli.console import (
    RESUMES_FROM_CHECKPOINT,
    count_processes,
    emit,
    format_count,
    grid,
    new_app,
    pick_device,
    run,
    say,
    share_cores,
)
from .cli.model_options import add_options
from .cli.options import DataOption, JsonOption, is_given, make_device_option
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..search.training.results import EvaluationResult, ScoredWeights, TrainResult

app = new_app()

TRAIN_FIELDS = ("steps", "batch", "crop", "lr", "warm_up", "ohem", "balanced", "aux", "ema", "init", "teacher",
          "teacher_weight", "temperature", "train_split", "precision", "workers", "seed")  # fmt: skip
"""Fields of `TrainConfig` that are options."""


OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of weights and result.", show_default="RUN")
]
DeviceOption = Annotated[
    str | None,
    make_device_option("the GPU of the search's table, else cpu", "to train on"),
]
SplitOption = Annotated[Literal["val", "test", "train"], typer.Option(help="Split to evaluate on, with --evaluate.")]
PredictionsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write the predicted classes as PNG, with --evaluate.")
]


@app.command()
@add_options(TrainConfig, *TRAIN_FIELDS, steps="200 epochs")
def train(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with an architecture.json.")],
    data: DataOption,
    out: OutOption = None,
    device: DeviceOption = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Only evaluate the weights in RUN.")] = False,
    split: SplitOption = "val",
    predictions: PredictionsOption = None,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a run's architecture, and evaluate it on the validation images.

    Run the same command again to resume. On several GPUs: torchrun --nproc-per-node 4 --no-python lgc-train RUN --data
    DIR --device cuda

    Example: lgc-train runs/street --data scenes --steps 2000

    Example: lgc-train runs/street --data scenes --evaluate --predictions masks
    """
    share_cores()
    if evaluate:
        _reject_options(context, {*TrainConfig.model_fields, "out"} - {"workers"}, "without --evaluate")
        result: ScoredWeights = _evaluate(source, data, split, predictions, device, settings["workers"])
    else:
        _reject_options(context, {"split", "predictions"}, "with --evaluate")
        if settings["teacher"] is None:
            _reject_options(context, {"teacher_weight", "temperature"}, "with --teacher")
        result = _train(source, data, out, device, settings)
    lines = [f"{name:12} {path}" for name in ("weights", "predictions") if (path := getattr(result, name, None))]
    emit(result.as_dict(), as_json, _make_table(result), *lines)


def _table_devices(source: Path) -> list[Device]:
    """Return the devices of the tables that the architecture was searched with; empty if unknown.

    Raises:
        FileFormatError: the architecture is missing or damaged.
    """
    from ..models.space.protocol import ARCHITECTURE_FILE, Architecture

    devices = Architecture.load(source / ARCHITECTURE_FILE).provenance.get("devices")
    return [Device(str(name)) for name in devices] if isinstance(devices, list) else []


def _reject_options(context: typer.Context, names: set[str], mode: str) -> None:
    """Raise an error for options on the command line that only the other mode uses."""
    for name in sorted(names):
        if is_given(context, name):
            raise UsageError(f"--{name.replace('_', '-')} can only be used {mode}")


def _train(source: Path, data: Path, out: Path | None, requested: str | None, settings: dict[str, Any]) -> TrainResult:
    from ..search.training.train import default_training_steps
    from ..search.training.train import train as run_train

    if settings["steps"] is None:
        batch = settings["batch"] * count_processes()
        settings["steps"] = default_training_steps(source, data, batch, settings["train_split"])
    config = TrainConfig(**settings)
    device = pick_device(requested, _table_devices(source), "training")
    with progress_bar() as on_progress:
        evaluating = cache(lambda: make_step_progress("evaluating", on_progress))  # the clock starts at its first image
        return run_train(
            source,
            data,
            config,
            out=out,
            device=device,
            on_step=make_step_progress("training", on_progress),
            on_score=lambda step, steps: evaluating()(step, steps),
            on_remark=say,
        )


def _evaluate(
    source: Path, data: Path, split: str, predictions: Path | None, requested: str | None, workers: int
) -> EvaluationResult:
    from ..search.training.evaluation import evaluate_run

    device = pick_device(requested, _table_devices(source), "evaluating")
    with progress_bar() as on_progress:
        return evaluate_run(
            source,
            data,
            split,
            predictions=predictions,
            workers=workers,
            device=device,
            on_step=make_step_progress("evaluating", on_progress),
        )


def _make_table(result: ScoredWeights) -> Table:
    scored_at = result.scored_at
    size = scored_at if isinstance(scored_at, str) else f"{scored_at[0]}x{scored_at[1]}"
    table = grid(
        f"{format_count(result.scored_images, f'{result.scored_on} image')}, evaluated at {size}",
        "",
        "IoU %",
        numbers=1,
    )
    for name, iou in result.per_class.items():
        table.add_row(name, "absent" if iou is None else f"{iou:.2f}")
    table.add_section()
    for name, score in (("mean (mIoU)", result.miou), ("pixel accuracy", result.pixel_accuracy)):
        table.add_row(name, "no labels" if score is None else f"{score:.2f}")
    return table


def main() -> None:
    """Run the command."""
    run(app, RESUMES_FROM_CHECKPOINT)
