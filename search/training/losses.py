"""Segmentation losses: cross-entropy over all labelled pixels, or over the hardest ones (OHEM)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.datasets import SegmentationDataset
from ..data.labels import IGNORE
from ..runtime.fabric import average_count

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OHEM_THRESHOLD = 0.7
"""Probability of the true class below which a pixel is hard."""
OHEM_MIN_SHARE = 1 / 16
"""Minimum share of the labelled pixels that are kept, even if they are easy."""
MAX_COUNTED_IMAGES = 500
"""Maximum number of images whose labels are counted for class weights."""


def upsampled_loss(
    logits: Tensor, labels: Tensor, fabric: Fabric | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of logits [N, C, h, w], upsampled bilinearly, with labels [N, H, W].

    Pixels labelled 255 are ignored; without any other pixel, the loss is 0. With several processes, the mean of their
    losses is the mean over the pixels of all processes.

    Args:
        logits: logits at any resolution.
        labels: classes, int64.
        fabric: processes that share the batch.
        weights: weights of the classes, [C]; None for equal weights.
    """
    weight = weigh_pixels(labels, weights)
    total = (pixel_losses(logits, labels) * weight).sum()
    return total / average_count(weight.sum(), fabric)


def ohem_loss(logits: Tensor, labels: Tensor, fabric: Fabric | None = None, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy over hard pixels only (online hard example mining, OHEM).

    A pixel is hard if its true class has a probability below `OHEM_THRESHOLD`. Where fewer than `OHEM_MIN_SHARE` of the
    labelled pixels are hard, the hardest pixels up to that share are kept. Each process selects its own pixels.
    Arguments as in `upsampled_loss`.
    """
    losses = pixel_losses(logits, labels).flatten()
    labelled = (labels != IGNORE).flatten()
    # The negated comparison counts NaN as hard, so that it reaches the loss.
    hard = ~(losses.detach() <= -math.log(OHEM_THRESHOLD)) & labelled
    min_kept = math.ceil(OHEM_MIN_SHARE * int(labelled.sum()))
    # Ignored pixels have a loss of 0, so they are never among the largest.
    kept = torch.topk(losses, min_kept).indices if int(hard.sum()) < min_kept else hard
    weight = weigh_pixels(labels, weights).flatten()[kept]
    return (losses[kept] * weight).sum() / average_count(weight.sum(), fabric)


def weigh_pixels(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weight of each pixel's class, float32 [N, H, W]; 0 for ignored pixels."""
    labelled = labels != IGNORE
    if weights is None:
        return labelled.float()
    return weights.to(labels.device)[labels.long().masked_fill(~labelled, 0)] * labelled


def compute_class_weights(dataset: SegmentationDataset) -> Tensor:
    """Return class weights [C] from their shares p of the pixels: 1 / ln(1.02 + p), as in ENet (arXiv 1606.02147).

    A class with one pixel in a hundred has ten times the weight of one with every third. The mean weight of a pixel is
    1. At most `MAX_COUNTED_IMAGES` images are read, evenly spread over the dataset.
    """
    counts = np.zeros(256, np.int64)
    for index in np.unique(np.linspace(0, len(dataset) - 1, MAX_COUNTED_IMAGES).astype(int)):
        counts += dataset.store.count(dataset.pairs[index])
    share = counts[: dataset.num_classes] / max(counts[: dataset.num_classes].sum(), 1)
    weights = 1 / np.log(1.02 + share)
    return torch.from_numpy(weights / max((weights * share).sum(), 1e-12)).float()


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each pixel, float32 [N, H, W], 0 if ignored; logits [N, C, h, w] are upsampled."""
    full = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="none")
