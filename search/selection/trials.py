"""Short trainings from scratch, by which the few best architectures of a search are compared at the end.

A supernet tells how good an architecture is with weights that it shares, not how well it trains on its own. So DARTS
(arXiv 1806.09055, section 3.1) picks among the cells of four runs by a short training of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...models.nets.network import LGCNet
from ...models.space.lgcnet import Architecture
from ..config import SearchConfig
from ..data.datasets import SegmentationDataset
from ..runtime.batches import Batch, batches
from ..runtime.fabric import average_gradients, mean_over_processes, synchronise_norms
from ..supernet.supernet_trainer import CLIP, WEIGHT_MOMENTUM
from ..training.losses import upsampled_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def trial_loss(
    architecture: Architecture,
    config: SearchConfig,
    fabric: Fabric,
    half: SegmentationDataset,
    judged_on: Sequence[Batch],
    class_weights: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> float:
    """Loss of an architecture after a short training; the same views and the same first weights for the same seed.

    Args:
        architecture: what to train.
        config: settings: steps, batch, learning rates.
        fabric: where it runs.
        half: images to train on.
        judged_on: batches of other images, for the loss.
        class_weights: of the loss, [C].
        on_step: told of every step.

    Returns:
        Mean cross-entropy; infinite if the training diverged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = LGCNet(architecture.space, architecture)
    synchronise_norms(network, fabric)
    network.to(fabric.device).train()
    sgd = torch.optim.SGD(network.parameters(), config.weight_lr, WEIGHT_MOMENTUM, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, config.trial_steps, config.weight_lr_end)
    optimiser = fabric.setup_optimizers(sgd)
    assert not isinstance(optimiser, tuple)  # one goes in, one comes out

    def loss_on(batch: Batch) -> Tensor:
        images, labels = (part.to(fabric.device, non_blocking=True) for part in batch)
        with fabric.autocast():
            logits = network(images)
        return upsampled_loss(logits, labels, fabric, class_weights)

    share, pin = (fabric.global_rank, fabric.world_size), fabric.device.type == "cuda"
    span = {"start": 0, "stop": config.trial_steps, "workers": config.workers, "share": share, "pin": pin}
    for batch in batches(half, config.batch, config.seed + 2, **span):  # type: ignore[arg-type]
        optimiser.zero_grad(set_to_none=True)
        fabric.backward(loss_on(batch))
        average_gradients(network.parameters(), fabric)
        fabric.clip_gradients(network, optimiser, max_norm=CLIP, error_if_nonfinite=False)
        optimiser.step()
        schedule.step()
        on_step()
    network.eval()
    with torch.no_grad():
        losses = [mean_over_processes(loss_on(batch), fabric) for batch in judged_on]
    mean = sum(losses) / len(losses)
    return mean if math.isfinite(mean) else math.inf
