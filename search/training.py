"""Training a found architecture, and keeping its weights."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import TrainingError, UsageError
from ..models.architecture import ARCHITECTURE, Architecture
from ..models.network import DenseOutput, LGCNet
from ..models.weights import WEIGHTS, save_weights
from . import checkpoint
from .batches import batches
from .config import TrainConfig
from .data.datasets import SegmentationDataset, load_dataset
from .engine import CHECKPOINT_S, OnStep, require_classes, upsampled_loss
from .runs import RunFolder
from .scores import evaluate

EPOCHS = 200
"""Epochs of a training where the number of steps is left open."""


def train(
    run_path: Path,
    data: Path,
    config: TrainConfig,
    *,
    device: str = "cpu",
    on_step: OnStep = lambda step, steps: None,
) -> dict[str, Any]:
    """Train `run_path`/architecture.json, score it on the validation images, and write weights.safetensors.

    An interrupted training is gone on with from its last checkpoint; of a finished one the result is returned.

    Args:
        run_path: run folder of a search.
        data: folder of Cityscapes or CamVid.
        config: settings.
        device: `cpu` or `cuda:N`.
        on_step: told step and number of steps.

    Returns:
        The result: weights (path), miou (percent), per_class, and how the training went.

    Raises:
        FileFormatError: `run_path` holds no architecture.
        DataError: the data cannot be used with this network.
        TrainingError: the loss stopped being a number.
    """
    architecture = Architecture.load(run_path / ARCHITECTURE)
    space = architecture.space
    dataset = load_dataset(data, "train", space.input, augment=True, seed=config.seed, crop=config.crop)
    held_out = load_dataset(data, "val", space.input)
    require_classes(dataset, space.classes, space.name)
    settings = {
        **config.model_dump(mode="json", exclude={"workers"}),
        "space": space.fingerprint,
        "architecture": list(architecture.choices),
        "data": str(data.resolve()),
    }
    run = RunFolder(run_path, "train", settings)
    finished = run.result()
    if finished is not None:
        return finished | {"weights": str(run_path / WEIGHTS)}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = LGCNet(space, architecture)
    if config.init == "supernet":
        network.load_state_dict(supernet_weights(run_path, network))
    network.to(device)
    seconds = _optimise(network, dataset, run, config, device, on_step)
    found = evaluate(DenseOutput(network).eval(), held_out, device)
    weights = run_path / WEIGHTS
    save_weights(network, weights)
    return run.finish(
        {
            "weights": str(weights),
            "miou": found.miou,
            "per_class": found.per_class,
            "steps": config.steps,
            "seconds": seconds,
            "pretrain": "none" if config.init == "scratch" else config.init,
            "train_split": "train",
            "scored_on": "val",
            "images": len(dataset),
        }
    )


def default_steps(run_path: Path, data: Path, batch: int) -> int:
    """Steps of `EPOCHS` passes over the training images."""
    space = Architecture.load(run_path / ARCHITECTURE).space
    return EPOCHS * max(len(load_dataset(data, "train", space.input)) // batch, 1)


def _optimise(
    network: LGCNet,
    dataset: SegmentationDataset,
    run: RunFolder,
    config: TrainConfig,
    device: str,
    on_step: OnStep,
) -> float:
    """Run the steps that are left; seconds spent on all of them, earlier calls' included."""
    optimiser = torch.optim.SGD(decay_groups(network, config.weight_decay), config.lr, momentum=0.9)
    warm_up = min(config.warm_up, config.steps // 10)

    def factor(step: int) -> float:
        rise = (step + 1) / warm_up if step < warm_up else 1.0
        return float(min(rise, 1.0) * (1 - step / config.steps) ** 0.9)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    start = saved = time.monotonic()
    step, spent = 0, 0.0
    before = checkpoint.load(run.checkpoint)
    if before is not None:
        step, spent = before["step"], before["seconds"]
        network.load_state_dict(before["network"])
        optimiser.load_state_dict(before["optimiser"])
        schedule.load_state_dict(before["schedule"])
    network.train()
    records: list[dict[str, Any]] = []
    for images, labels in batches(
        dataset, config.batch, config.seed, start=step, stop=config.steps, workers=config.workers
    ):
        loss = upsampled_loss(network(images.to(device)), labels.to(device))
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss is {loss.item()} at step {step}; the last checkpoint is kept. Lower --lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        records.append({"step": step, "loss": loss.item(), "lr": schedule.get_last_lr()[0]})
        schedule.step()
        step += 1
        on_step(step, config.steps)
        if time.monotonic() - saved > CHECKPOINT_S or step == config.steps:
            saved = time.monotonic()
            run.append_log(records, records[0]["step"])
            records = []
            state = {"step": step, "seconds": spent + saved - start, "network": network.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            checkpoint.save(run.checkpoint, state)
    return spent + time.monotonic() - start


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: convolution weights with weight decay, norms and biases without."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def supernet_weights(run_path: Path, network: LGCNet) -> dict[str, torch.Tensor]:
    """The run's supernet weights for the operators that `network` has.

    Raises:
        UsageError: the run has no finished supernet.
    """
    state = checkpoint.load(run_path / "search.ckpt")
    if state is None:
        raise UsageError(f"{run_path} holds no supernet to start from (search.ckpt); train with --init scratch")
    return {name: state["net"][name] for name in network.state_dict()}
