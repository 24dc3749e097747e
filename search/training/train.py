"""Training a found architecture, and keeping its weights; the recipe is docs/training.md's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...device import CPU
from ...errors import OutputError
from ...files import write_atomic
from ...models.nets.weights import WEIGHTS, save_weights
from ...models.space.architecture import ARCHITECTURE, Architecture
from ..data.datasets import load_dataset, require_classes
from ..runtime.fabric import explained_memory, open_fabric
from ..runtime.run_folder import OnStep, RunFolder
from .config import SCRATCH, TrainConfig
from .crops import require_crop
from .evaluation import as_result
from .initial_weights import source_of, start
from .losses import balanced_weights
from .scores import evaluate
from .training_loop import TrainingLoop, optimise

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EPOCHS = 200
"""Epochs of a training where the number of steps is left open."""
SCORED_ON = "val"
_MEMORY = "--batch, --crop or --workers, or take --precision bf16"


def train(
    run_path: Path,
    data: Path,
    config: TrainConfig,
    *,
    out: Path | None = None,
    device: str = CPU,
    on_step: OnStep = lambda step, steps: None,
    on_score: OnStep = lambda step, steps: None,
) -> dict[str, Any]:
    """Train `run_path`/architecture.json, score it on the validation images, and write weights.safetensors.

    An interrupted training is gone on with from its last checkpoint; of a finished one the result is returned. Under
    torchrun every process calls this alike; the first one writes.

    Args:
        run_path: run folder of a search.
        data: folder of Cityscapes or CamVid.
        config: settings.
        out: folder for what the training writes, with a copy of the architecture; None takes `run_path`.
        device: `cpu` or `cuda:N`.
        on_step: told step and number of steps.
        on_score: told the number of scored images, and of all.

    Returns:
        The result: weights (path), miou (percent), per_class, and how the training went.

    Raises:
        FileFormatError: `run_path` holds no architecture, or weights to start from are damaged.
        UsageError: weights to start from are not there, or the crop does not suit the network.
        OutputError: the folder cannot be written, or holds something else.
        DataError: the data cannot be used with this network.
        TrainingError: the loss stopped being a number, or the memory ended.
    """
    architecture = Architecture.load(run_path / ARCHITECTURE)
    space = architecture.space
    require_crop(config.crop, space)
    source = source_of(run_path, config.init)
    dataset = load_dataset(data, config.train_split, space.input, augment=True, seed=config.seed, crop=config.crop)
    held_out = load_dataset(data, SCORED_ON, space.input, full_labels=True)
    require_classes(dataset, space.classes, space.name)
    fabric = open_fabric(device, config.precision)
    run = _claim(run_path, out or run_path, _settings(architecture, data, config, fabric), fabric.is_global_zero)
    weights = run.path / WEIGHTS
    finished = fabric.broadcast(run.result() if run.active else None)
    if finished is not None:
        return finished | {"weights": str(weights)}
    with explained_memory(_MEMORY):
        trainee, fresh = start(architecture, source, config)
        balance = balanced_weights(dataset) if config.balanced else None
        descent = TrainingLoop(trainee, config, fabric, balance)
        seconds = optimise(descent, dataset, run, on_step)
        if fabric.is_global_zero:
            save_weights(descent.network, weights)
        network = descent.network.eval()
        found, size = evaluate(network, held_out, fabric=fabric, workers=config.workers, on_step=on_score)
    told = {"seconds": seconds, "from_scratch": list(fresh), "images": len(dataset), "processes": fabric.world_size}
    return run.finish(
        {"weights": str(weights), **as_result(found, held_out, SCORED_ON, size), **_recipe(config), **told}
    )


def default_steps(run_path: Path, data: Path, batch: int, split: str = "train") -> int:
    """Steps of `EPOCHS` passes over the training images, `batch` at a time in all processes together."""
    space = Architecture.load(run_path / ARCHITECTURE).space
    return EPOCHS * max(len(load_dataset(data, split, space.input)) // batch, 1)


def _recipe(config: TrainConfig) -> dict[str, Any]:
    """The settings by the names that results have."""
    pretrain = "none" if config.init == SCRATCH else config.init
    return {**config.model_dump(mode="json", exclude={"init", "workers"}), "pretrain": pretrain}


def _settings(architecture: Architecture, data: Path, config: TrainConfig, fabric: Fabric) -> dict[str, Any]:
    """What tells this training from another."""
    network = architecture.model_copy(update={"provenance": {}}).to_json()
    return {
        **config.model_dump(mode="json", exclude={"workers"}),
        "space": architecture.space.fingerprint,
        "architecture": hashlib.sha256(network.encode()).hexdigest()[:12],
        "data": str(data.resolve()),
        "processes": fabric.world_size,
    }


def _claim(source: Path, out: Path, settings: dict[str, Any], active: bool) -> RunFolder:
    """The run folder, with the architecture in it."""
    wanted, there = source / ARCHITECTURE, out / ARCHITECTURE
    if active and there.exists() and there.read_bytes() != wanted.read_bytes():
        raise OutputError(f"{there} is another architecture than {wanted}: name another folder with --out")
    run = RunFolder(out, "train", settings, active=active)
    if active and not there.exists():
        write_atomic(there, wanted.read_bytes())
    return run
