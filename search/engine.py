"""The search: first-order bi-level optimisation of a supernet's weights and of its architecture parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError, TrainingError
from ..lut.predictor import Predictor
from ..models.architecture import ARCHITECTURE, Architecture
from ..models.space import SearchSpace
from . import checkpoint
from .batches import batches
from .config import SearchConfig
from .data.datasets import SegmentationDataset, load_dataset, split_halves
from .data.labels import IGNORE
from .derive import derive
from .gumbel import temperature_at
from .latency import ExpectedLatency, Target, TradeOff, require_reachable
from .runs import RunFolder
from .supernet import Supernet, batch_statistics

CHECKPOINT_S = 10.0
"""Seconds between checkpoints."""
EPOCHS = 80
"""Epochs of a search where the number of steps is left open. Assumption: as in GAS."""
FINALIST_BATCHES = 4
"""Batches over which finalists are compared."""

OnStep = Callable[[int, int], None]


@dataclass
class _State:
    """What a search carries from step to step."""

    net: Supernet
    weights: torch.optim.SGD
    schedule: torch.optim.lr_scheduler.LRScheduler
    arch: torch.optim.Adam
    latency: ExpectedLatency
    constraint: Target | TradeOff
    noise: torch.Generator
    step: int = 0


def search(
    predictor: Predictor,
    data: Path,
    out: Path,
    config: SearchConfig,
    *,
    device: str = "cpu",
    on_step: OnStep = lambda step, steps: None,
) -> dict[str, Any]:
    """Search the predictor's space for an architecture, and write it to `out`/architecture.json.

    An interrupted search in `out` is gone on with from its last checkpoint; of a finished one the result is returned.

    Args:
        predictor: space and latencies.
        data: folder of Cityscapes or CamVid.
        out: run folder.
        config: settings.
        device: where the supernet is trained, `cpu` or `cuda:N`; need not be the table's device.
        on_step: told step and number of steps.

    Returns:
        The result: architecture (path), target_ms, predicted_ms and its 90 % interval, steps, seconds, and how the
        search went.

    Raises:
        UsageError: no architecture of the space reaches the target.
        OutputError: `out` holds something else.
        DataError: the data cannot be used with this space.
        TrainingError: the loss stopped being a number.
    """
    space = predictor.space
    if config.target_ms is not None:
        require_reachable(predictor, config.target_ms)
    halves = open_halves(predictor, data, config)
    settings = {
        **config.model_dump(mode="json", exclude={"workers"}),
        "space": space.fingerprint,
        "data": str(data.resolve()),
        "latency": predictor.fingerprint,
    }
    run = RunFolder(out, "search", settings)
    finished = run.result()
    path = out / ARCHITECTURE
    if finished is not None:
        return finished | {"architecture": str(path)}
    state = _start(predictor, config, device)
    before = checkpoint.load(run.checkpoint)
    spent = _restore(state, before) if before is not None else 0.0
    seconds = _optimise(state, halves, run, config, on_step, spent)
    architecture = _derive(state, halves[1], predictor, config)
    interval = predictor.interval(architecture)
    common = {
        "target_ms": config.target_ms,
        "predicted_ms": predictor.predict(architecture),
        "predicted_low_ms": interval.low_ms if interval else None,
        "predicted_high_ms": interval.high_ms if interval else None,
        "steps": config.steps,
        "scope": predictor.scope,
    }
    table = str(predictor.table_path.resolve())
    provenance = {"found_by": "lgc-search", "table": table, "seed": config.seed, **common}
    architecture.model_copy(update={"provenance": provenance}).save(path)
    return run.finish(
        {
            "architecture": str(path),
            **common,
            "seconds": seconds,
            "fastest_ms": predictor.predict(predictor.fastest),
            "slowest_ms": predictor.predict(predictor.slowest),
        }
    )


def default_steps(data: Path, space: SearchSpace, batch: int) -> int:
    """Steps of `EPOCHS` passes over half of the training images."""
    half = len(load_dataset(data, "train", space.input)) // 2
    return EPOCHS * max(half // batch, 1)


def open_halves(
    predictor: Predictor, data: Path, config: SearchConfig
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The two halves of the training images: for the weights, and for the architecture."""
    space = predictor.space

    def opened() -> SegmentationDataset:
        return load_dataset(data, "train", space.input, augment=True, seed=config.seed, crop=config.crop)

    require_classes(opened(), space.classes, space.name)
    return split_halves(opened(), config.seed)[0], split_halves(opened(), config.seed)[1]


def require_classes(dataset: SegmentationDataset, classes: int, space: str) -> None:
    """Show that data and network tell the same number of classes apart.

    Raises:
        DataError: they do not.
    """
    if dataset.num_classes != classes:
        raise DataError(
            f"the data set ({dataset.layout}) has {dataset.num_classes} classes, space {space} has {classes}: "
            f"take a space with classes: {dataset.num_classes}"
        )


def _start(predictor: Predictor, config: SearchConfig, device: str) -> _State:
    """Everything as it is before the first step."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        net = Supernet(predictor.space, config.gamma, config.embedding).to(device)
    weights = torch.optim.SGD(net.weight_parameters(), config.weight_lr, momentum=0.9, weight_decay=config.weight_decay)
    arch = torch.optim.Adam(
        net.architecture_parameters(), config.arch_lr, betas=(0.5, 0.999), weight_decay=config.arch_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(weights, config.steps, config.weight_lr_end)
    constraint = TradeOff(config.beta) if config.target_ms is None else Target(config.target_ms, config.multiplier_lr)
    noise = torch.Generator().manual_seed(config.seed)
    return _State(net, weights, schedule, arch, ExpectedLatency(predictor).to(device), constraint, noise)


def _optimise(
    state: _State,
    halves: tuple[SegmentationDataset, SegmentationDataset],
    run: RunFolder,
    config: SearchConfig,
    on_step: OnStep,
    spent: float,
) -> float:
    """Run the steps that are left; seconds spent on all of them, earlier calls' included."""
    start = saved = time.monotonic()
    first = state.step
    span = {"start": first, "stop": config.steps, "workers": config.workers}
    pairs = zip(
        batches(halves[0], config.batch, config.seed, **span),
        batches(halves[1], config.batch, config.seed + 1, **span),
        strict=True,
    )
    records: list[dict[str, Any]] = []
    state.net.train()
    for weight_batch, arch_batch in pairs:
        records.append(_step(state, weight_batch, arch_batch, config))
        on_step(state.step, config.steps)
        if time.monotonic() - saved > CHECKPOINT_S or state.step == config.steps:
            saved = time.monotonic()
            run.append_log(records, records[0]["step"])
            records = []
            checkpoint.save(run.checkpoint, _snapshot(state, spent + saved - start))
    return spent + time.monotonic() - start


def _step(
    state: _State, weight_batch: tuple[Tensor, Tensor], arch_batch: tuple[Tensor, Tensor], config: SearchConfig
) -> dict[str, Any]:
    """One step: a batch for the weights, then one for the architecture."""
    net, progress = state.net, state.step / config.steps
    temperature = temperature_at(progress, config.temperature, config.temperature_end)
    with torch.no_grad():
        gates = net.sample(temperature, state.noise)
    weight_loss = segmentation_loss(net, gates, weight_batch)
    state.weights.zero_grad(set_to_none=True)
    _backward(weight_loss, "weights", state.step)
    torch.nn.utils.clip_grad_norm_(net.weight_parameters(), 5.0)
    state.weights.step()
    state.schedule.step()
    record: dict[str, Any] = {"step": state.step, "weight_loss": weight_loss.item(), "temperature": temperature}
    if progress >= config.warm_up:
        arch_loss = segmentation_loss(net, net.sample(temperature, state.noise), arch_batch)
        expected = state.latency(net.probabilities())
        state.arch.zero_grad(set_to_none=True)
        _backward(arch_loss + state.constraint.penalty(expected), "architecture", state.step)
        state.arch.step()
        state.constraint.update(expected.item())
        record |= {"arch_loss": arch_loss.item(), "expected_ms": expected.item()}
        record["multiplier"] = state.constraint.multiplier
    record["entropy"] = _entropy(net)
    state.step += 1
    return record


def segmentation_loss(net: Supernet, gates: list[Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of a path on a batch (images [N, 3, H, W], labels [N, H, W]), at the labels' resolution."""
    device = net.alpha[0].device
    images, labels = (part.to(device) for part in batch)
    return upsampled_loss(net(images, gates), labels)


def upsampled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, C, h, w], upsampled bilinearly, with labels [N, H, W].

    Pixels labelled 255 are ignored; where all are, the loss is 0.
    """
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(full, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


def _backward(loss: Tensor, what: str, step: int) -> None:
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"the loss of the {what} is {loss.item()} at step {step}; the last checkpoint is kept. "
            f"Lower the learning rate, or look at the images of that step"
        )
    loss.backward()  # type: ignore[no-untyped-call]


def _entropy(net: Supernet) -> float:
    """Mean entropy of the edges' operator probabilities, in nats."""
    with torch.no_grad():
        p = net.probabilities()
        return float(-(p * p.clamp_min(1e-12).log()).sum(-1).mean())


def _derive(state: _State, half: SegmentationDataset, predictor: Predictor, config: SearchConfig) -> Architecture:
    """The final architecture; finalists are compared on fixed batches of the architecture's half."""
    net = state.net
    kept = list(batches(half, config.batch, config.seed, start=0, stop=FINALIST_BATCHES, workers=config.workers))

    def loss_of(architecture: Architecture) -> float:
        with batch_statistics(net):
            gates = net.one_hot(architecture)
            return sum(segmentation_loss(net, gates, batch).item() for batch in kept) / len(kept)

    with torch.no_grad():
        log_p = net.probabilities().clamp_min(1e-12).log().cpu().double().numpy()
    return derive(
        np.asarray(log_p),
        predictor,
        loss_of,
        target_ms=config.target_ms,
        samples=config.samples,
        finalists=config.finalists,
        seed=config.seed,
    )


def _snapshot(state: _State, seconds: float) -> dict[str, Any]:
    return {
        "step": state.step,
        "seconds": seconds,
        "net": state.net.state_dict(),
        "weights": state.weights.state_dict(),
        "schedule": state.schedule.state_dict(),
        "arch": state.arch.state_dict(),
        "multiplier": state.constraint.multiplier,
        "noise": state.noise.get_state(),
    }


def _restore(state: _State, before: dict[str, Any]) -> float:
    """Take a snapshot up again; the seconds spent before it."""
    state.step = before["step"]
    for name in ("net", "weights", "schedule", "arch"):
        getattr(state, name).load_state_dict(before[name])
    state.constraint.multiplier = before["multiplier"]
    state.noise.set_state(before["noise"])
    return float(before["seconds"])
