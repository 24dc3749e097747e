"""`lgc-train`: train a network, of a run folder or a new one, or score its weights."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..device import Device
from ..errors import UsageError
from ..search.training.config import DISTILLATION_FIELDS, LEARNING_RATES, WEIGHT_DECAYS, TrainConfig
from .cli.console import (
    RESUMES_FROM_CHECKPOINT,
    announce_dataset,
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
from .cli.model_options import CACHE_DEFAULT, WORKERS_DEFAULT, add_options, describe_defaults
from .cli.network_options import OUTPUT_OPTION, NetworkOption
from .cli.options import (
    DataOption,
    JsonOption,
    PluginOption,
    is_given,
    load_operators,
    make_device_option,
    parse_size,
)
from .cli.progress import announce_resumption, make_repeated_progress, make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..models.nets.definition import RunNetwork
    from ..models.nets.sources import NetworkSource
    from ..search.training.results import EvaluationResult, ScoredWeights, TrainResult

app = new_app()

TRAIN_FIELDS = ("steps", "batch", "crop", "optimiser", "lr", "weight_decay", "warm_up", "ohem", "balanced", "aux",
          "aux_heads", "ema", "init", "teacher", "teacher_weight", "temperature", "train_split", "val_interval", "keep",
          "sync_bn", "precision", "workers", "cache", "seed")  # fmt: skip
"""Fields of `TrainConfig` that are options."""


SourceOption = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Run folder of a search or a training; not for a new --network."),
]
InputOption = Annotated[
    str | None,
    typer.Option("--input", metavar="HxW", help="Image size of a new --network.", show_default=False),
]
MainOutputOption = Annotated[
    str | None,
    typer.Option(
        OUTPUT_OPTION,
        metavar="NAME",
        help="Main output of your --network, if it returns several: key, or position from 0.",
        show_default="by its name, see docs/networks.md",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of weights and result.", show_default="RUN")
]
EpochsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Passes over the training images, instead of --steps.", show_default="200"),
]
DeviceOption = Annotated[
    str | None,
    make_device_option("the GPU of the search's table, else cpu", "to train on"),
]
SplitOption = Annotated[
    str, typer.Option(metavar="NAME", help="Split to evaluate on, any of the dataset, with --evaluate.")
]
TeacherNetworkOption = Annotated[
    str | None,
    typer.Option(
        metavar="REF", help="Your function that built the network of --teacher, FILE.py:NAME or package.module:NAME."
    ),
]
PredictionsOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write the predicted classes as PNG, with --evaluate.")
]


@app.command()
@add_options(
    TrainConfig,
    *TRAIN_FIELDS,
    steps="200 epochs",
    lr=describe_defaults(LEARNING_RATES),
    weight_decay=describe_defaults(WEIGHT_DECAYS),
    val_interval="a tenth of the steps, at least an epoch",
    workers=WORKERS_DEFAULT,
    cache=CACHE_DEFAULT,
)
def train(
    context: typer.Context,
    data: DataOption,
    source: SourceOption = None,
    network: NetworkOption = None,
    size: InputOption = None,
    output_name: MainOutputOption = None,
    teacher_network: TeacherNetworkOption = None,
    out: OutOption = None,
    epochs: EpochsOption = None,
    device: DeviceOption = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Only evaluate the weights in RUN.")] = False,
    split: SplitOption = "val",
    predictions: PredictionsOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a network, and evaluate it on the validation images: that of a run, or a new one by --network.

    Run the same command again to resume. On several GPUs: torchrun --nproc-per-node 4 --no-python lgc-train RUN --data
    DIR --device cuda

    Example: lgc-train runs/street --data scenes --steps 2000

    Example: lgc-train runs/street --data scenes --evaluate --predictions masks

    Example: lgc-train --network peer:pidnet-s --data scenes --input 256x512 --out runs/pidnet
    """
    share_cores()
    if count_processes() > 1:  # each would print torch's remark on the speed of finding unused parameters
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    load_operators(plugin)
    if evaluate:
        _reject_options(
            context,
            {*TrainConfig.model_fields, "teacher_network", "out", "epochs", "size", "output_name"} - {"workers"},
            "without --evaluate",
        )
        chosen = _choose_network(source, network, None, None)
        result: ScoredWeights = _evaluate(chosen, data, split, predictions, device, settings["workers"])
    else:
        _reject_options(context, {"split", "predictions"}, "with --evaluate")
        if epochs is not None:
            _reject_options(context, {"steps"}, "without --epochs")
        if settings["teacher"] is None:
            _reject_options(context, {*DISTILLATION_FIELDS, "teacher_network"}, "with --teacher")
        chosen = replace(
            _choose_network(source, network, size, out), teacher=_load_factory(teacher_network), output=output_name
        )
        given = {name: value for name, value in settings.items() if is_given(context, name)}
        result = _train(chosen, data, out, device, epochs, given)
    lines = [f"{name:12} {path}" for name in ("weights", "predictions") if (path := getattr(result, name, None))]
    emit(result.as_dict(), as_json, _make_table(result), *lines, *_describe_step(result))


def _choose_network(source: Path | None, network: str | None, size: str | None, out: Path | None) -> RunNetwork:
    """Return the network that the command line names.

    Raises:
        UsageError: there is none, or the options of a new network are incomplete.
        PluginError: `--network` names code that cannot be loaded.
    """
    from ..models.nets.definition import RunNetwork

    if source is None and network is None:
        raise UsageError("no network: pass a run folder, or --network with --input and --out")
    if source is None and out is None:
        raise UsageError("no run folder: a new --network needs --out DIR; to evaluate a training, pass its folder")
    if source is not None and size is not None:
        raise UsageError(f"--input is only for a new --network: the network of {source} has its own size")
    parsed_size = None if size is None else parse_size(size)
    return RunNetwork(source, _load_factory(network), parsed_size)


def _load_factory(reference: str | None) -> NetworkSource | None:
    """Return the network that an option names; None without it."""
    from ..models.nets.sources import load_source

    return None if reference is None else load_source(reference)


def _table_devices(source: Path | None) -> list[Device]:
    """Return the devices of the tables that the architecture was searched with; empty if unknown.

    Raises:
        FileFormatError: the architecture is missing or damaged.
    """
    from ..models.nets.definition import NETWORK_FILE
    from ..models.space.protocol import ARCHITECTURE_FILE, Architecture

    if source is None or ((source / NETWORK_FILE).exists() and not (source / ARCHITECTURE_FILE).exists()):
        return []
    devices = Architecture.load(source / ARCHITECTURE_FILE).provenance.get("devices")
    return [Device(str(name)) for name in devices] if isinstance(devices, list) else []


def _reject_options(context: typer.Context, names: set[str], mode: str) -> None:
    """Raise an error for options on the command line that only the other mode uses."""
    for name in sorted(names):
        if is_given(context, name):
            flag = "input" if name == "size" else name.replace("_", "-")
            raise UsageError(f"--{flag} can only be used {mode}")


def _train(
    source: RunNetwork,
    data: Path,
    out: Path | None,
    requested: str | None,
    epochs: int | None,
    given: dict[str, Any],
) -> TrainResult:
    """Train a network with the settings given on the command line, those of its run if it has begun, and defaults."""
    from ..search.runtime.run_folder import is_finished, suggest_longer_training
    from ..search.runtime.run_settings import resume_settings
    from ..search.training.train import TRAINING_EPOCHS, count_training_steps
    from ..search.training.train import train as run_train

    device = pick_device(requested, _table_devices(source.run), "training")
    folder = source.choose_folder(out)
    settings = resume_settings(TrainConfig, given, folder, "train", say)
    config = TrainConfig(**{"steps": 1, **settings})
    if epochs is not None or "steps" not in settings:
        steps = count_training_steps(data, epochs or TRAINING_EPOCHS, config.batch, config.train_split)
        config = config.model_copy(update={"steps": steps})
    finished = is_finished(folder, "train")
    announce_dataset(data, None if finished else config.train_split)
    with progress_bar() as on_progress:
        result = run_train(
            source,
            data,
            config,
            out=out,
            device=device,
            on_step=announce_resumption(make_step_progress("training", on_progress)),
            on_score=make_repeated_progress("evaluating", on_progress),
            on_cache=make_step_progress("decoding", on_progress),
            log=say,
        )
    if finished:
        say(f"{folder} is finished: nothing was trained; {suggest_longer_training(folder)}")
    return result


def _evaluate(
    source: RunNetwork, data: Path, split: str, predictions: Path | None, requested: str | None, workers: int | None
) -> EvaluationResult:
    from ..search.training.evaluation import evaluate_run

    device = pick_device(requested, _table_devices(source.run), "evaluating")
    announce_dataset(data, split)
    with progress_bar() as on_progress:
        return evaluate_run(
            source,
            data,
            split,
            predictions=predictions,
            workers=workers,
            device=device,
            on_step=make_step_progress("evaluating", on_progress),
            log=say,
        )


def _describe_step(result: ScoredWeights) -> list[str]:
    """Return a line on the step whose weights a training keeps; none of an evaluation, or without validations."""
    from ..search.training.results import TrainResult

    if not isinstance(result, TrainResult) or not result.curve:
        return []
    of_all = "the best" if result.kept_step == result.best_step else "the last"
    count = format_count(len(result.curve), "validation")
    others = {"best": result.best_step, "last": result.config.steps}
    scores = {point.step: point.miou for point in result.curve}
    rest = "".join(
        f"; {name} (step {step}): {scores[step]:.2f}"
        for name, step in others.items()
        if step not in (None, result.kept_step) and scores[step] is not None
    )
    return [f"{'step':12} {result.kept_step} of {result.config.steps}, {of_all} of {count}{rest}"]


def _make_table(result: ScoredWeights) -> Table:
    scored_at = result.scored_at
    size = scored_at if isinstance(scored_at, str) else f"{scored_at[0]}x{scored_at[1]}"
    table = grid(
        f"{format_count(result.scored_images, f'{result.scored_on} image')}, evaluated at {size}",
        "class",
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
