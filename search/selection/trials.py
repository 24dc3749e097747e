"""Trials: short training runs from scratch that compare the best few architectures of a search.

A supernet rates an architecture with shared weights, not by its own training. DARTS (arXiv 1806.09055, section 3.1)
therefore chooses among the cells of four runs by a short training run of each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...models.nets.network import LGCNet, get_geometry
from ...models.random_state import seed_generators
from ...models.space.protocol import Architecture
from ..data.datasets import SegmentationDataset
from ..runtime.batches import Batch
from ..runtime.fabric import average_over_processes
from ..training.auxiliary import TrainingNetwork
from ..training.config import SINGLE, Heads, TrainConfig
from ..training.losses import SegmentationLoss
from ..training.network_trainer import NetworkTrainer, keep_generators, load_training_batches
from ..training.scores import compute_scores, count_confusions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_ROLE = int.from_bytes(b"trial", "big")
"""Role of a trial's seed among those derived from the seed of the run."""


@dataclass(frozen=True)
class Trial:
    """Result of a trial on the held-out images.

    Attributes:
        seed: seed of its initial weights, of the order of its images and of their views.
        loss: mean cross-entropy; None if the training diverged.
        miou: mIoU in percent; None if the training diverged, and without a labelled pixel.
        heads: kind of the auxiliary heads; missing in trials of earlier versions.
    """

    seed: int
    loss: float | None
    miou: float | None
    heads: Heads | None = SINGLE


@dataclass(frozen=True)
class CandidateTrials:
    """The trials of a candidate, each with its own seed.

    Attributes:
        trials: results, at least one.
    """

    trials: tuple[Trial, ...]

    @property
    def loss(self) -> float | None:
        """Mean loss; None if a training diverged."""
        return _average([trial.loss for trial in self.trials])

    @property
    def miou(self) -> float | None:
        """Mean mIoU in percent; None if a training diverged, and without a labelled pixel."""
        return _average([trial.miou for trial in self.trials])

    @property
    def rank(self) -> tuple[bool, int, float, float]:
        """Sort key, best first: most trials, then higher mIoU, then lower loss; candidates that diverged are last."""
        if self.loss is None:
            return True, 0, 0.0, 0.0
        return False, -len(self.trials), -(self.miou or 0.0), self.loss


def _average(values: Sequence[float | None]) -> float | None:
    """Return the mean of numbers; None if one is missing."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def derive_trial_seed(seed: int, number: int) -> int:
    """Return the seed of trial `number` of a run.

    The final training starts from the run's own seed. An architecture chosen with the same initial weights and order
    of images would have been chosen for its luck with them, too.
    """
    return int(np.random.SeedSequence((seed, _ROLE, number)).generate_state(1, np.uint32)[0])


def run_trial(
    architecture: Architecture,
    config: TrainConfig,
    fabric: Fabric,
    half: SegmentationDataset,
    held_out: Sequence[Batch],
    class_weights: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Trial:
    """Train an architecture briefly from scratch, by the recipe of `lgc-train`, and score it on held-out images.

    Args:
        architecture: architecture to train.
        config: settings of the training, with the seed of the trial, see `derive_trial_seed`.
        fabric: device, precision and processes.
        half: images to train on.
        held_out: batches of other images, to score it on.
        class_weights: weights of the classes in the loss, [C].
        on_step: callback after each step.
    """
    with seed_generators(config.seed):
        network = TrainingNetwork(LGCNet(architecture.space, architecture), config.heads)
    trainer = NetworkTrainer(network, config, fabric, class_weights)
    batches = load_training_batches(trainer, _reseed(half, config.seed))
    with closing(batches), keep_generators(fabric):
        for batch in batches:
            trainer.train_step(batch)
            on_step()
    geometry = get_geometry(trainer.network)
    compute_losses = SegmentationLoss(False, fabric, class_weights, geometry)
    losses, confusion = [], torch.zeros(half.num_classes, half.num_classes, dtype=torch.int64, device=fabric.device)
    trainer.network.eval()
    with torch.no_grad():
        for batch in held_out:
            images, labels = (part.to(fabric.device, non_blocking=True) for part in batch)
            with fabric.autocast():
                logits = trainer.network(images)
            losses.append(average_over_processes(compute_losses([logits], labels)[0], fabric))
            confusion += count_confusions(logits, labels, geometry)
    mean = sum(losses) / len(losses)
    if not math.isfinite(mean):
        return Trial(config.seed, None, None, config.heads)
    total = torch.as_tensor(fabric.all_reduce(confusion, reduce_op="sum"))
    return Trial(config.seed, mean, compute_scores(total.cpu(), half.classes).miou, config.heads)


def _reseed(dataset: SegmentationDataset, seed: int) -> SegmentationDataset:
    """Return a dataset of the same images with other random views."""
    other = copy.copy(dataset)
    other.seed = seed
    return other
