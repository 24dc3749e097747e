"""`lgc-train`: train the architecture of a run folder, or evaluate its trained weights."""

from __future__ import annotations

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
    SeedOption,
    TrainPrecisionOption,
    WorkersOption,
    make_crop_option,
    make_device_option,
    make_steps_option,
    parse_size,
)
from .cli.progress import make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

app = new_app()


@app.command()
def train(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with an architecture.json.")],
    data: DataOption,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder for the weights.", show_default="RUN")
    ] = None,
    steps: Annotated[int | None, make_steps_option("of the training", "200 epochs")] = None,
    batch: BatchOption = 8,
    crop: Annotated[str | None, make_crop_option("the space's input size")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate, reached at the end of the warm-up.")] = 0.01,
    warm_up: Annotated[
        int, typer.Option(min=0, help="Warm-up steps of the learning rate; at most a tenth of all steps.")
    ] = 1000,
    ohem: Annotated[bool, typer.Option("--ohem/--no-ohem", help="Compute the loss on hard pixels only (OHEM).")] = True,
    balanced: BalancedOption = False,
    aux: Annotated[
        float, typer.Option(min=0, help="Weight of the auxiliary head's loss; 0 trains without the head.")
    ] = 0.4,
    ema: Annotated[
        float, typer.Option(min=0, help="Decay of the exponential moving average of the weights; 0 disables it.")
    ] = 0.999,
    init: Annotated[
        str,
        typer.Option(
            metavar="scratch|supernet|FILE",
            help="Initial weights: random, from the search's supernet, or from a .safetensors file.",
        ),
    ] = "scratch",
    train_split: Annotated[
        str, typer.Option(help="Training split: train, or train_extra (coarse labels of Cityscapes).")
    ] = "train",
    precision: TrainPrecisionOption = "fp32",
    device: Annotated[
        str | None,
        make_device_option(
            "for training (under torchrun: cpu or cuda)", "GPU of the search's table if present, else cpu"
        ),
    ] = None,
    workers: WorkersOption = 0,
    seed: SeedOption = 0,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Evaluate the weights in RUN instead of training.")
    ] = False,
    split: Annotated[str, typer.Option(help="With --evaluate: split to score, val, test or train.")] = "val",
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --evaluate: output folder for the predicted classes as PNG."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a run's architecture and score it on the validation images.

    Run the same command again to resume an interrupted training. On several GPUs: torchrun --nproc-per-node 4
    --no-python lgc-train RUN --data DIR --device cuda

    Example: lgc-train runs/street --data scenes --steps 2000

    Example: lgc-train runs/street --data scenes --evaluate --predictions predicted
    """
    share_cores()
    from ..search.training.config import TrainConfig

    options = context.params
    if evaluate:
        _reject_options(context, {*TrainConfig.model_fields, "out"} - {"workers"}, "without --evaluate")
        result = _evaluate(options)
    else:
        _reject_options(context, {"split", "predictions"}, "with --evaluate")
        result = _train(options)
    lines = [f"{name:12} {result[name]}" for name in ("weights", "predictions") if result.get(name)]
    emit(result, as_json, _make_table(result), *lines)


def _read_table_devices(source: Path) -> list[Device]:
    """Return the devices of the tables that the search used; empty if the architecture does not name them.

    Raises:
        FileFormatError: `source` holds no architecture.
    """
    from ..models.space.lgcnet import ARCHITECTURE_FILE, Architecture

    devices = Architecture.load(source / ARCHITECTURE_FILE).provenance.get("devices")
    return [Device(str(name)) for name in devices] if isinstance(devices, list) else []


def _reject_options(context: typer.Context, names: set[str], condition: str) -> None:
    """Reject options of the command line that have no effect in this mode.

    Raises:
        UsageError: one of the options was given; the message says under which condition it applies.
    """
    for name in sorted(names):
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            raise UsageError(f"--{name.replace('_', '-')} only applies {condition}")


def _train(options: dict[str, Any]) -> dict[str, Any]:
    from ..search.training.config import TrainConfig
    from ..search.training.train import default_training_steps
    from ..search.training.train import train as run_train

    settings = {name: options[name] for name in TrainConfig.model_fields if name in options}
    settings["crop"] = None if options["crop"] is None else parse_size(options["crop"])
    if options["steps"] is None:
        total_batch = options["batch"] * count_processes()
        settings["steps"] = default_training_steps(
            options["source"], options["data"], total_batch, options["train_split"]
        )
    config = TrainConfig(**settings)
    device = pick_device(options["device"], _read_table_devices(options["source"]), "training")
    with progress_bar() as on_progress:
        start_scoring = cache(lambda: make_step_progress("scoring", on_progress))  # its clock starts at the first call
        result = run_train(
            options["source"],
            options["data"],
            config,
            out=options["out"],
            device=device,
            on_step=make_step_progress("training", on_progress),
            on_score=lambda step, steps: start_scoring()(step, steps),
        )
    if result["from_scratch"]:
        parts = ", ".join(result["from_scratch"])
        say(f"initialized at random, as the shapes differ from the weights of {options['init']}: {parts}")
    return result


def _evaluate(options: dict[str, Any]) -> dict[str, Any]:
    from ..search.training.evaluation import evaluate_run

    device = pick_device(options["device"], _read_table_devices(options["source"]), "scoring")
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


def _make_table(result: dict[str, Any]) -> Table:
    size = result["scored_at"]
    resolution = size if isinstance(size, str) else f"{size[0]}x{size[1]}"
    title = f"{result['scored_images']} {result['scored_on']} images, scored at {resolution}"
    table = grid(title, "", "IoU %", numbers=1)
    for name, iou in result["per_class"].items():
        table.add_row(name, "absent" if iou is None else f"{iou:.2f}")
    table.add_section()
    for name, key in (("mean (mIoU)", "miou"), ("pixel accuracy", "pixel_accuracy")):
        table.add_row(name, "no labels" if result[key] is None else f"{result[key]:.2f}")
    return table


def main() -> None:
    """Run the command."""
    run(app, RESUMES_FROM_CHECKPOINT)
