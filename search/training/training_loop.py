"""The steps of a training: gradient descent from any step on, to the same bits on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import TrainingError
from ..data.datasets import SegmentationDataset
from ..runtime import checkpoint
from ..runtime.batches import Batch, load_batches
from ..runtime.fabric import synchronise_norms
from ..runtime.metrics_log import MetricsLog
from ..runtime.run_folder import CHECKPOINT_S, OnStep, RunFolder
from .auxiliary import TrainingNetwork
from .config import TrainConfig
from .ema import WeightAverage
from .losses import ohem_loss, upsampled_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOMENTUM = 0.9


class TrainingLoop:
    """A network on its way: weights, their mean, and what the optimiser remembers.

    Attributes:
        step: steps made.

    Args:
        trainee: the network with its auxiliary head; moved to Fabric's device.
        config: settings.
        fabric: device, precision and processes.
        weights: of the classes, [C]; None weighs all alike.
    """

    def __init__(
        self, trainee: TrainingNetwork, config: TrainConfig, fabric: Fabric, weights: torch.Tensor | None = None
    ) -> None:
        synchronise_norms(trainee, fabric)
        self.config, self.fabric, self.step = config, fabric, 0
        self._trainee = trainee
        self._optimiser = torch.optim.SGD(decay_groups(trainee, config.weight_decay), config.lr, momentum=MOMENTUM)
        # Fabric's wrappers: they compute in its precision, and average gradients over its processes.
        self._model, self._stepper = fabric.setup(trainee, self._optimiser)
        self._model.train()
        self._mean = WeightAverage(trainee.network, config.ema) if config.ema else None
        self._loss_of = partial(ohem_loss if config.ohem else upsampled_loss, fabric=fabric, weights=weights)

    @property
    def network(self) -> nn.Module:
        """The network to score and to save: of the mean weights, unless there is no mean."""
        return self._trainee.network if self._mean is None else self._mean.network

    def advance(self, batch: Batch) -> dict[str, Any]:
        """Make a step on this process's part of a batch; its record, means over all processes.

        Raises:
            TrainingError: the loss is no number.
        """
        config, fabric = self.config, self.fabric
        images, labels = (part.to(fabric.device, non_blocking=True) for part in batch)
        lr = config.lr * config.factor(self.step)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        logits, coarse = self._model(images)
        loss = total = self._loss_of(logits, labels)
        parts = {"loss": loss}
        if coarse is not None:
            parts["aux_loss"] = self._loss_of(coarse, labels)
            total = loss + config.aux * parts["aux_loss"]
        record = self._means(parts)
        self._stepper.zero_grad(set_to_none=True)
        fabric.backward(total)
        self._stepper.step()
        if self._mean is not None:
            self._mean.update(self._trainee.network, self.step)
        self.step += 1
        return {"step": self.step - 1, **record, "lr": lr}

    def _means(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        """Losses over all processes, which so stop together where one has to."""
        here = torch.stack([loss.detach() for loss in losses.values()])
        means = self.fabric.all_reduce(here, reduce_op="mean")
        assert isinstance(means, torch.Tensor)
        for name, value in zip(losses, means.tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(f"the {name} is {value} at step {self.step}; {self._advice()}")
        return dict(zip(losses, means.tolist(), strict=True))

    def _advice(self) -> str:
        other = "" if self.config.precision == "fp32" else f", or take --precision fp32, not {self.config.precision}"
        return f"the last checkpoint is kept. Lower --lr from {self.config.lr:g}{other}"

    def snapshot(self) -> dict[str, Any]:
        """What `restore` takes up again.

        Raises:
            TrainingError: the weights are no numbers any more.
        """
        if not all(bool(value.isfinite().all()) for value in self._trainee.state_dict().values()):
            raise TrainingError(f"weights are not finite after step {self.step - 1}; {self._advice()}")
        return {
            "step": self.step,
            "trainee": self._trainee.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "mean": None if self._mean is None else self._mean.network.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def restore(self, before: dict[str, Any]) -> None:
        """Take a snapshot up again."""
        self.step = before["step"]
        self._trainee.load_state_dict(before["trainee"])
        self._optimiser.load_state_dict(before["optimiser"])
        if self._mean is not None:
            self._mean.network.load_state_dict(before["mean"])
        self.fabric.strategy.precision.load_state_dict(before["precision"])


def run_training(descent: TrainingLoop, dataset: SegmentationDataset, run: RunFolder, on_step: OnStep) -> float:
    """Make the steps that are left, with a checkpoint every `CHECKPOINT_S`.

    Returns:
        Seconds spent on all of them, earlier calls' included.

    Raises:
        TrainingError: the loss is no number.
        DataError: a file of the data set is damaged or holds foreign values.
    """
    config, fabric, spent = descent.config, descent.fabric, 0.0
    before = fabric.broadcast(checkpoint.load(run.checkpoint) if run.active else None)
    if before is not None:
        descent.restore(before)
        spent = before["seconds"]
    begun = saved = time.monotonic()
    loaded = load_batches(
        dataset,
        config.batch,
        config.seed,
        start=descent.step,
        stop=config.steps,
        workers=config.workers,
        share=(fabric.global_rank, fabric.world_size),
        pin=fabric.device.type == "cuda",
    )
    with _autotune_kernels(), MetricsLog(run.path, run.stage, descent.step, active=run.active) as journal:
        for batch in loaded:
            journal.add(descent.advance(batch))
            on_step(descent.step, config.steps)
            if run.active and (time.monotonic() - saved > CHECKPOINT_S or descent.step == config.steps):
                saved = time.monotonic()
                state = descent.snapshot() | {"seconds": spent + saved - begun}
                journal.flush()
                checkpoint.save(run.checkpoint, state)
    return spent + time.monotonic() - begun


@contextmanager
def _autotune_kernels() -> Iterator[None]:
    """Context in which cuDNN looks for its fastest kernels by timing them: all batches are of one size.

    `torch.backends.cudnn.flags` would also write the old switch of TF32, which the new one forbids.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: convolution weights with weight decay, norms and biases without."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
