"""Training of a searched architecture; docs/training.md is the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...device import CPU
from ...errors import OutputError
from ...files import write_atomic
from ...models.nets.weights import WEIGHTS_FILE, save_weights
from ...models.space.lgcnet import LGCNetSpace
from ...models.space.protocol import ARCHITECTURE_FILE, Architecture
from ..data.datasets import SegmentationDataset, load_dataset, require_classes
from ..runtime.fabric import explain_out_of_memory, open_fabric
from ..runtime.run_folder import OnStep, RunFolder
from .config import TrainConfig
from .crops import require_crop
from .distillation import describe_teacher, load_teacher
from .evaluation import describe_scores
from .initial_weights import build_initial_network, find_initial_weights
from .losses import compute_class_weights
from .network_trainer import NetworkTrainer, run_training
from .results import ScoredWeights, TrainResult
from .scores import evaluate_network

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from pydantic import JsonValue

TRAINING_EPOCHS = 200
"""Default length of a training, in epochs."""
VALIDATION_SPLIT = "val"
OnRemark = Callable[[str], None]
"""Receives remarks, one line each."""
_MEMORY_ADVICE = "--batch, --crop or --workers, or use --precision bf16"


def train(
    run_path: Path,
    data: Path,
    config: TrainConfig,
    *,
    out: Path | None = None,
    device: str = CPU,
    on_step: OnStep = lambda step, steps: None,
    on_score: OnStep = lambda step, steps: None,
    on_remark: OnRemark = lambda remark: None,
) -> TrainResult:
    """Train `run_path`/architecture.json, evaluate it on the validation images, and write weights.safetensors.

    An interrupted training resumes from its last checkpoint; a finished one returns its result. Under torchrun every
    process makes the same call; the first one writes.

    Args:
        run_path: run folder of a search.
        data: folder of Cityscapes or CamVid.
        config: settings.
        out: folder for the training's files, with a copy of the architecture; None for `run_path`.
        device: `cpu` or `cuda:N`.
        on_step: callback for the number of finished steps and the total.
        on_score: callback for the number of evaluated images and the total.
        on_remark: callback for lines on the initial weights and the teacher.

    Returns:
        The path of the weights, their scores, the settings, and statistics of the training.

    Raises:
        FileFormatError: `run_path` has no architecture, or initial weights or the teacher are damaged.
        UsageError: initial weights do not exist or do not fit, the teacher has other classes, or the crop does not suit
            the network.
        OutputError: the folder cannot be written, or holds other files.
        DataError: the data do not suit this network.
        TrainingError: the loss is NaN or infinite, or memory ran out.
    """
    architecture = Architecture.load(run_path / ARCHITECTURE_FILE)
    source = find_initial_weights(run_path, config.init)
    space = LGCNetSpace.require(architecture.space)
    dataset, validation = _load_images(data, space, config)
    fabric = open_fabric(device, config.precision)
    teacher = (
        None
        if config.teacher is None
        else load_teacher(Path(config.teacher), dataset.classes, config.crop or space.input)
    )
    settings = _list_settings(architecture, data, config, fabric) | describe_teacher(teacher)
    run = _open_run_folder(run_path, out or run_path, settings, fabric.is_global_zero)
    weights = run.path / WEIGHTS_FILE
    finished = fabric.broadcast(run.read_result(TrainResult) if run.active else None)
    if finished is not None:
        return replace(finished, weights=weights)
    with explain_out_of_memory(_MEMORY_ADVICE):
        network, transfer = build_initial_network(architecture, source, config)
        for remark in [*(transfer.describe() if transfer else ()), *(teacher.remarks if teacher else ())]:
            on_remark(remark)
        class_weights = compute_class_weights(dataset) if config.balanced else None
        trainer = NetworkTrainer(network, config, fabric, class_weights, teacher)
        run_training(trainer, dataset, run, on_step)
        scored = _save_and_score(trainer, weights, validation, on_score)
    return run.finish(
        TrainResult(
            **vars(scored),
            config=config,
            seconds=trainer.seconds,
            from_scratch=transfer.random_parts if transfer else (),
            images=len(dataset),
            processes=fabric.world_size,
        )
    )


def _load_images(
    data: Path, space: LGCNetSpace, config: TrainConfig
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Return the training and the validation images, after checks of crop and classes."""
    require_crop(config.crop, space)
    dataset = load_dataset(data, config.train_split, space.input, augment=True, seed=config.seed, crop=config.crop)
    validation = load_dataset(data, VALIDATION_SPLIT, space.input, full_labels=True)
    require_classes(dataset, space.classes, space.name)
    return dataset, validation


def _save_and_score(
    trainer: NetworkTrainer, weights: Path, validation: SegmentationDataset, on_score: OnStep
) -> ScoredWeights:
    """Save the trained weights, and evaluate them on the validation images."""
    if trainer.fabric.is_global_zero:
        save_weights(trainer.network, weights)
    scores, size = evaluate_network(
        trainer.network.eval(), validation, fabric=trainer.fabric, workers=trainer.config.workers, on_step=on_score
    )
    return describe_scores(weights, scores, validation, VALIDATION_SPLIT, size)


def default_training_steps(run_path: Path, data: Path, batch: int, split: str = "train") -> int:
    """Return the steps of `TRAINING_EPOCHS` passes over the training images; `batch` is that of all processes."""
    space = Architecture.load(run_path / ARCHITECTURE_FILE).space
    return TRAINING_EPOCHS * max(len(load_dataset(data, split, space.input)) // batch, 1)


def _list_settings(architecture: Architecture, data: Path, config: TrainConfig, fabric: Fabric) -> dict[str, JsonValue]:
    """Return the settings that identify this training in its run folder."""
    network = architecture.with_provenance({}).to_json()
    return {
        **config.list_settings(),
        "space": architecture.space.fingerprint,
        "architecture": hashlib.sha256(network.encode()).hexdigest()[:12],
        "data": str(data.resolve()),
        "processes": fabric.world_size,
    }


def _open_run_folder(source: Path, out: Path, settings: Mapping[str, JsonValue], active: bool) -> RunFolder:
    """Return the run folder, with a copy of the architecture in it."""
    original, copy = source / ARCHITECTURE_FILE, out / ARCHITECTURE_FILE
    if active and copy.exists() and copy.read_bytes() != original.read_bytes():
        raise OutputError(f"{copy} differs from {original}: choose another folder with --out")
    run = RunFolder(out, "train", settings, active=active)
    if active and not copy.exists():
        write_atomic(copy, original.read_bytes())
    return run
