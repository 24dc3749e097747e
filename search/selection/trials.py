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
from ..config import SearchConfig
from ..data.datasets import SegmentationDataset
from ..runtime.batches import Batch, load_batches
from ..runtime.fabric import average_over_processes, place_network, synchronise_norms
from ..supernet.weight_optimiser import WeightOptimiser
from ..training.config import divide_batch
from ..training.losses import upsampled_loss
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
    """

    seed: int
    loss: float | None
    miou: float | None

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Sort key, best first: higher mIoU, then lower loss; diverged trials are last."""
        if self.loss is None:
            return True, 0.0, 0.0
        return False, -(self.miou or 0.0), self.loss


def derive_trial_seed(seed: int, number: int) -> int:
    """Return the seed of trial `number` of a run.

    The final training starts from the run's own seed. An architecture chosen with the same initial weights and order
    of images would have been chosen for its luck with them, too.
    """
    return int(np.random.SeedSequence((seed, _ROLE, number)).generate_state(1, np.uint32)[0])


def run_trial(
    architecture: Architecture,
    seed: int,
    config: SearchConfig,
    fabric: Fabric,
    half: SegmentationDataset,
    held_out: Sequence[Batch],
    class_weights: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Trial:
    """Train an architecture briefly from scratch and score it on held-out images.

    Args:
        architecture: architecture to train.
        seed: seed of the trial, see `derive_trial_seed`.
        config: settings: steps, batch size, learning rates.
        fabric: device, precision and processes.
        half: images to train on.
        held_out: batches of other images, to score it on.
        class_weights: weights of the classes in the loss, [C].
        on_step: callback after each step.
    """
    with seed_generators(seed):
        network = LGCNet(architecture.space, architecture)
    geometry = get_geometry(network)
    synchronise_norms(network, fabric)
    place_network(network.train(), fabric)
    optimiser = WeightOptimiser(network, config, config.trial_steps, fabric)

    def compute(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, its logits, and its labels on the device."""
        images, labels = (part.to(fabric.device, non_blocking=True) for part in batch)
        with fabric.autocast():
            logits = network(images)
        return upsampled_loss(logits, labels, fabric, class_weights, geometry), logits, labels

    batches = load_batches(
        _reseed(half, seed),
        divide_batch(config.batch, fabric.world_size),
        seed,
        start=0,
        stop=config.trial_steps,
        workers=config.workers or 0,
        shard=(fabric.global_rank, fabric.world_size),
        device=fabric.device,
    )
    with closing(batches):
        for batch in batches:
            optimiser.backward(compute(batch)[0])
            optimiser.step()
            on_step()
    network.eval()
    losses, confusion = [], torch.zeros(half.num_classes, half.num_classes, dtype=torch.int64, device=fabric.device)
    with torch.no_grad():
        for batch in held_out:
            loss, logits, labels = compute(batch)
            losses.append(average_over_processes(loss, fabric))
            confusion += count_confusions(logits, labels, geometry)
    mean = sum(losses) / len(losses)
    if not math.isfinite(mean):
        return Trial(seed, None, None)
    total = torch.as_tensor(fabric.all_reduce(confusion, reduce_op="sum"))
    return Trial(seed, mean, compute_scores(total.cpu(), half.classes).miou)


def _reseed(dataset: SegmentationDataset, seed: int) -> SegmentationDataset:
    """Return a dataset of the same images with other random views."""
    other = copy.copy(dataset)
    other.seed = seed
    return other
