"""`lgc-train`: train the architecture of a run folder, or score its weights."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..device import Device
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
    Precision,
    SeedOption,
    TrainPrecisionOption,
    WorkersOption,
    get_options,
    make_crop_option,
    make_device_option,
    make_steps_option,
    parse_size,
)
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..search.training.results import EvaluationResult, ScoredWeights, TrainResult

app = new_app()


class TrainSplit(StrEnum):
    """Splits to train on."""

    TRAIN = "train"
    TRAIN_EXTRA = "train_extra"


class ScoreSplit(StrEnum):
    """Splits to score on."""

    VAL = "val"
    TEST = "test"
    TRAIN = "train"


OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of weights and result.", show_default="RUN")
]
WarmUpOption = Annotated[
    int, typer.Option(min=0, help="Steps in which the learning rate rises; at most a tenth of all.")
]
EmaOption = Annotated[
    float, typer.Option(min=0, help="Decay of the weights' moving average; 0 for the last step's weights.")
]
InitOption = Annotated[
    str,
    typer.Option(
        metavar="scratch|supernet|FILE", help="Initial weights: random, of the search's supernet, or from a file."
    ),
]
TrainSplitOption = Annotated[
    TrainSplit, typer.Option(help="Split to train on; train_extra is Cityscapes' coarsely labelled one.")
]
DeviceOption = Annotated[
    str | None,
    make_device_option("the GPU of the search's table, else cpu", "to train on"),
]
PredictionsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write the predicted classes as PNG, with --evaluate.")
]


@app.command()
def train(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with an architecture.json.")],
    data: DataOption,
    out: OutOption = None,
    steps: Annotated[int | None, make_steps_option("the training", "200 epochs")] = None,
    batch: BatchOption = 8,
    crop: Annotated[str | None, make_crop_option("the space's input size")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate after the warm-up.")] = 0.01,
    warm_up: WarmUpOption = 1000,
    ohem: Annotated[bool, typer.Option("--ohem/--no-ohem", help="Train on hard pixels only.")] = True,
    balanced: BalancedOption = False,
    aux: Annotated[float, typer.Option(min=0, help="Weight of the auxiliary head's loss; 0 for no such head.")] = 0.4,
    ema: EmaOption = 0.999,
    init: InitOption = "scratch",
    train_split: TrainSplitOption = TrainSplit.TRAIN,
    precision: TrainPrecisionOption = Precision.FP32,
    device: DeviceOption = None,
    workers: WorkersOption = 0,
    seed: SeedOption = 0,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Only score the weights in RUN.")] = False,
    split: Annotated[ScoreSplit, typer.Option(help="Split to score on, with --evaluate.")] = ScoreSplit.VAL,
    predictions: PredictionsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a run's architecture, and score it on the validation images.

    Run the same command again to resume. On several GPUs: torchrun --nproc-per-node 4 --no-python lgc-train RUN --data
    DIR --device cuda

    Example: lgc-train runs/street --data scenes --steps 2000

    Example: lgc-train runs/street --data scenes --evaluate --predictions masks
    """
    share_cores()
    from ..search.training.config import TrainConfig

    options = get_options(context)
    if evaluate:
        _reject_options(context, {*TrainConfig.model_fields, "out"} - {"workers"}, "without --evaluate")
        result: ScoredWeights = _evaluate(options)
    else:
        _reject_options(context, {"split", "predictions"}, "with --evaluate")
        result = _train(options)
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
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            raise UsageError(f"--{name.replace('_', '-')} can only be used {mode}")


def _train(options: dict[str, Any]) -> TrainResult:
    from ..search.training.config import TrainConfig
    from ..search.training.train import default_training_steps
    from ..search.training.train import train as run_train

    settings = {name: options[name] for name in TrainConfig.model_fields if name in options}
    settings["crop"] = None if options["crop"] is None else parse_size(options["crop"])
    if options["steps"] is None:
        batch = options["batch"] * count_processes()
        settings["steps"] = default_training_steps(options["source"], options["data"], batch, options["train_split"])
    config = TrainConfig(**settings)
    device = pick_device(options["device"], _table_devices(options["source"]), "training")
    with progress_bar() as on_progress:
        scoring = cache(lambda: make_step_progress("scoring", on_progress))  # the clock starts with the scoring
        result = run_train(
            options["source"],
            options["data"],
            config,
            out=options["out"],
            device=device,
            on_step=make_step_progress("training", on_progress),
            on_score=lambda step, steps: scoring()(step, steps),
        )
    if result.from_scratch:
        parts = ", ".join(result.from_scratch)
        say(f"initialised from scratch, as {options['init']} has other shapes for them: {parts}")
    return result


def _evaluate(options: dict[str, Any]) -> EvaluationResult:
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
            on_step=make_step_progress("scoring", on_progress),
        )


def _make_table(result: ScoredWeights) -> Table:
    scored_at = result.scored_at
    size = scored_at if isinstance(scored_at, str) else f"{scored_at[0]}x{scored_at[1]}"
    table = grid(f"{result.scored_images} {result.scored_on} images, scored at {size}", "", "IoU %", numbers=1)
    for name, iou in result.per_class.items():
        table.add_row(name, "absent" if iou is None else f"{iou:.2f}")
    table.add_section()
    for name, score in (("mean (mIoU)", result.miou), ("pixel accuracy", result.pixel_accuracy)):
        table.add_row(name, "no labels" if score is None else f"{score:.2f}")
    return table


def main() -> None:
    """Run the command."""
    run(app, RESUMES_FROM_CHECKPOINT)
