"""Losses of segmentation: cross-entropy over every labelled pixel, or over the hardest ones (OHEM)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.datasets import SegmentationDataset
from ..data.labels import IGNORE
from ..data.reading import read_label
from ..runtime.fabric import average_count

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OHEM_THRESHOLD = 0.7
"""Probability of the true class below which a pixel is hard."""
OHEM_MIN_SHARE = 1 / 16
"""Share of the labelled pixels that count at least, however easy they are."""
MAX_COUNTED_IMAGES = 500
"""Images, at most, whose labels are counted for the weights of the classes."""


def upsampled_loss(
    logits: Tensor, labels: Tensor, fabric: Fabric | None = None, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of logits [N, C, h, w], upsampled bilinearly, with labels [N, H, W].

    Pixels labelled 255 are ignored; where all are, the loss is 0. With several processes the losses of all of them
    average to the mean over all pixels of all of them.

    Args:
        logits: of any resolution.
        labels: classes, int64.
        fabric: the processes that share the batch.
        weights: of the classes, [C]; None weighs all alike.
    """
    weight = pixel_weights(labels, weights)
    total = (pixel_losses(logits, labels) * weight).sum()
    return total / average_count(weight.sum(), fabric)


def ohem_loss(logits: Tensor, labels: Tensor, fabric: Fabric | None = None, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the hard pixels alone (online hard example mining, OHEM).

    Hard is a pixel whose true class has a probability below `OHEM_THRESHOLD`. Where these are fewer than `OHEM_MIN_SHARE` of
    the labelled pixels, so many of the hardest ones count. Each process picks its own. Arguments as in
    `upsampled_loss`.
    """
    losses = pixel_losses(logits, labels).flatten()
    labelled = (labels != IGNORE).flatten()
    # Written so that a loss that is no number counts as hard, and is seen.
    hard = ~(losses.detach() <= -math.log(OHEM_THRESHOLD)) & labelled
    fewest = math.ceil(OHEM_MIN_SHARE * int(labelled.sum()))
    # Ignored pixels have a loss of 0, below that of every labelled one: they are not among the largest.
    kept = torch.topk(losses, fewest).indices if int(hard.sum()) < fewest else hard
    weight = pixel_weights(labels, weights).flatten()[kept]
    return (losses[kept] * weight).sum() / average_count(weight.sum(), fabric)


def pixel_weights(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Weight of every pixel's class, float32 [N, H, W]; 0 where it is ignored."""
    labelled = labels != IGNORE
    if weights is None:
        return labelled.float()
    return weights.to(labels.device)[labels.long().masked_fill(~labelled, 0)] * labelled


def compute_class_weights(dataset: SegmentationDataset) -> Tensor:
    """Weights of the classes by their share p of the pixels, [C]: 1 / ln(1.02 + p), as in ENet (arXiv 1606.02147).

    A class of every hundredth pixel weighs ten times one of every third. They are scaled so that a pixel weighs 1 on
    average. At most `MAX_COUNTED_IMAGES` images are read, evenly spread over the data set.
    """
    counts = np.zeros(256, np.int64)
    for index in np.unique(np.linspace(0, len(dataset) - 1, MAX_COUNTED_IMAGES).astype(int)):
        label, coding = dataset.pairs[index].label, dataset.pairs[index].coding
        if label is not None:
            counts += np.bincount(read_label(label, coding).ravel(), minlength=256)
    share = counts[: dataset.num_classes] / max(counts[: dataset.num_classes].sum(), 1)
    weights = 1 / np.log(1.02 + share)
    return torch.from_numpy(weights / max((weights * share).sum(), 1e-12)).float()


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every pixel, float32 [N, H, W], 0 where it is ignored; logits [N, C, h, w] are upsampled."""
    full = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="none")
