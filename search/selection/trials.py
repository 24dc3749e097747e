"""Trials: short training runs from scratch that compare the best few architectures of a search.

A supernet rates an architecture with shared weights, not by its own training. DARTS (arXiv 1806.09055, section 3.1)
therefore chooses among the cells of four runs by a short training run of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...models.nets.network import LGCNet
from ...models.random_state import seed_generators
from ...models.space.protocol import Architecture
from ..config import SearchConfig
from ..data.datasets import SegmentationDataset
from ..runtime.batches import Batch, load_batches
from ..runtime.fabric import average_over_processes, place_network, synchronise_norms
from ..supernet.weight_optimiser import WeightOptimiser
from ..training.losses import upsampled_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def compute_trial_loss(
    architecture: Architecture,
    config: SearchConfig,
    fabric: Fabric,
    half: SegmentationDataset,
    held_out: Sequence[Batch],
    class_weights: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> float:
    """Return the loss of an architecture after a short training run; a seed determines images and initial weights.

    Args:
        architecture: architecture to train.
        config: settings: steps, batch size, learning rates.
        fabric: device, precision and processes.
        half: images to train on.
        held_out: batches of other images, for the loss.
        class_weights: weights of the classes in the loss, [C].
        on_step: callback after each step.

    Returns:
        Mean cross-entropy; infinite if the training diverged.
    """
    with seed_generators(config.seed):
        network = LGCNet(architecture.space, architecture)
    synchronise_norms(network, fabric)
    place_network(network.train(), fabric)
    optimiser = WeightOptimiser(network, config, config.trial_steps, fabric)

    def compute_loss(batch: Batch) -> Tensor:
        images, labels = (part.to(fabric.device, non_blocking=True) for part in batch)
        with fabric.autocast():
            logits = network(images)
        return upsampled_loss(logits, labels, fabric, class_weights)

    batches = load_batches(
        half,
        config.batch,
        config.seed + 2,
        start=0,
        stop=config.trial_steps,
        workers=config.workers or 0,
        shard=(fabric.global_rank, fabric.world_size),
        device=fabric.device,
    )
    with closing(batches):
        for batch in batches:
            optimiser.backward(compute_loss(batch))
            optimiser.step()
            on_step()
    network.eval()
    with torch.no_grad():
        losses = [average_over_processes(compute_loss(batch), fabric) for batch in held_out]
    mean = sum(losses) / len(losses)
    return mean if math.isfinite(mean) else math.inf
