"""Segmentation losses: cross-entropy over all labelled pixels, or over the hardest ones (OHEM)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import DataError
from ...models.geometry import Geometry
from ...models.nets.resizing import upsample_logits
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


class SegmentationLoss:
    """Losses of all outputs of a network on a batch, whose labels are prepared once.

    The loss is the mean cross-entropy of logits, upsampled bilinearly. Pixels labelled 255 are ignored; without any
    other pixel, it is 0. With several processes, the mean of their losses is the mean over the pixels of all processes.
    The host does not wait for a GPU.

    With online hard example mining (OHEM), the mean is over hard pixels only, whose true class has a probability below
    `OHEM_THRESHOLD`. Where fewer than `OHEM_MIN_SHARE` of the labelled pixels are hard, the hardest pixels up to that
    share are kept. Each process selects its own pixels.

    Args:
        ohem: Average over hard pixels only.
        fabric: processes that share the batch.
        weights: weights of the classes, [C]; None for equal weights.
        geometry: positions of the logits in the image.
    """

    def __init__(
        self,
        ohem: bool,
        fabric: Fabric | None = None,
        weights: Tensor | None = None,
        geometry: Geometry = Geometry.HALF_PIXEL,
    ) -> None:
        self._ohem, self._fabric, self._geometry = ohem, fabric, geometry
        self._weights = weights if weights is None or fabric is None else weights.to(fabric.device)

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return the loss (scalar) of each output: logits [N, C, h, w] of any resolution, with labels [N, H, W]."""
        classes, labelled = labels.long(), labels != IGNORE
        weight = weigh_pixels(classes, self._weights)
        return [self._average(pixel_losses(logits, classes, self._geometry), labelled, weight) for logits in outputs]

    def _average(self, losses: Tensor, labelled: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean of the losses of pixels; all arguments are [N, H, W]."""
        if self._ohem:
            weight = weight * select_hard_pixels(losses.detach(), labelled)
        return (losses * weight).sum() / average_count(weight.sum(), self._fabric)


def select_hard_pixels(losses: Tensor, labelled: Tensor) -> Tensor:
    """Return True for the pixels that OHEM keeps, [N, H, W].

    All sizes are known to the host, which therefore waits for no GPU: of the largest losses, a sixteenth of all pixels,
    those are kept whose rank is below a sixteenth of the labelled ones.

    Args:
        losses: losses of the pixels, 0 if ignored.
        labelled: True if not ignored.
    """
    # The negated comparison counts NaN as hard, so that it reaches the loss.
    hard = ~(losses <= -math.log(OHEM_THRESHOLD)) & labelled
    min_kept = (OHEM_MIN_SHARE * labelled.sum(dtype=torch.float64)).ceil()
    is_enough = hard.sum() >= min_kept
    if _may_wait(losses) and bool(is_enough):
        return hard
    order = losses.masked_fill(~labelled, -1.0).flatten().topk(math.ceil(OHEM_MIN_SHARE * losses.numel())).indices
    ranks = torch.arange(len(order), device=losses.device)
    hardest = torch.zeros_like(hard).flatten().scatter(0, order, ranks < min_kept).view_as(hard)
    return torch.where(is_enough, hard, hardest)


def _may_wait(tensor: Tensor) -> bool:
    """Return True if the host computes a tensor itself, so that reading it costs nothing."""
    return tensor.device.type == "cpu"


def weigh_pixels(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weight of each pixel's class, float32 [N, H, W]; 0 for ignored pixels."""
    labelled = labels != IGNORE
    if weights is None:
        return labelled.float()
    return weights.to(labels.device)[labels.long().masked_fill(~labelled, 0)] * labelled


def require_labelled(dataset: SegmentationDataset, split: str, part: str = "") -> None:
    """Check that a dataset has a labelled pixel, in one of at most `MAX_COUNTED_IMAGES` images; mostly in the first.

    Args:
        dataset: images to train on.
        split: name of their split, for the message.
        part: which part of the split, for the message.

    Raises:
        DataError: all pixels are void.
    """
    read = 0
    for counts in _count_labels(dataset):
        if counts[: dataset.num_classes].any():
            return
        read += 1
    raise DataError(
        f"nothing to train on: split {split} of {dataset.name}{f', {part},' if part else ''} has no labelled pixel in "
        f"the labels of {read} images; check them with lgc-data, and the label values of the dataset.yaml"
    )


def _count_labels(dataset: SegmentationDataset) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the pixels of each label value, [256], of at most `MAX_COUNTED_IMAGES` images, evenly spread."""
    for index in np.unique(np.linspace(0, len(dataset) - 1, MAX_COUNTED_IMAGES).astype(int)):
        yield dataset.store.count(dataset.pairs[index])


def compute_class_weights(dataset: SegmentationDataset) -> Tensor:
    """Return class weights [C] from their shares p of the pixels: 1 / ln(1.02 + p), as in ENet (arXiv 1606.02147).

    A class with one pixel in a hundred has ten times the weight of one with every third. The mean weight of a pixel is
    1. At most `MAX_COUNTED_IMAGES` images are read, evenly spread over the dataset.
    """
    counts: npt.NDArray[np.int64] = sum(_count_labels(dataset), np.zeros(256, np.int64))
    share = counts[: dataset.num_classes] / max(counts[: dataset.num_classes].sum(), 1)
    weights = 1 / np.log(1.02 + share)
    return torch.from_numpy(weights / max((weights * share).sum(), 1e-12)).float()


def pixel_losses(logits: Tensor, labels: Tensor, geometry: Geometry = Geometry.HALF_PIXEL) -> Tensor:
    """Return the cross-entropy of each pixel, float32 [N, H, W], 0 if ignored; logits [N, C, h, w] are upsampled."""
    full = upsample_logits(logits.float(), (labels.shape[-2], labels.shape[-1]), geometry)
    return F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="none")
