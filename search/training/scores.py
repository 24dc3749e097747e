"""Scoring: intersection over union and pixel accuracy over a whole data set, at the labels' own resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ..data.datasets import SegmentationDataset
from ..runtime.batches import load_single_images

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..runtime.run_folder import OnStep

OnImage = Callable[[int, Tensor], None]
"""Told an image's index in the data set and its predicted classes, int64 [H, W] on the CPU."""


@dataclass(frozen=True)
class Scores:
    """Scores in percent, over all labelled pixels of a data set; None where there is no such pixel.

    Attributes:
        miou: mean of `per_class` over the classes that have one.
        per_class: class name -> intersection over union; None where the class is neither in labels nor predictions.
        pixel_accuracy: share of pixels whose class is right.
    """

    miou: float | None
    per_class: dict[str, float | None]
    pixel_accuracy: float | None


def evaluate_network(
    network: nn.Module,
    dataset: SegmentationDataset,
    *,
    fabric: Fabric | None = None,
    workers: int = 0,
    on_image: OnImage | None = None,
    on_step: OnStep = lambda step, steps: None,
) -> tuple[Scores, tuple[int, int] | None]:
    """Score a network on every image of a data set, one by one.

    Images are of the data set's size, say the one that the network is deployed at. Its logits are upsampled bilinearly
    to each label, which a data set with `full_labels` leaves as large as its file, and compared there.

    Args:
        network: [1, 3, H, W] -> logits [1, C, h, w]; in evaluation mode.
        dataset: what to score on.
        fabric: device, and the processes that share the images, all of which must call this; None for the CPU.
        workers: processes that load images.
        on_image: what to do with predictions.
        on_step: told the number of finished images, and of all.

    Returns:
        The scores, of all processes' images, and the (height, width) in pixels at which they were taken; None where the
        labels are of several sizes.

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    device = "cpu" if fabric is None else fabric.device
    share = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    counts = torch.zeros(dataset.num_classes, dataset.num_classes, dtype=torch.int64, device=device)
    extent = torch.full((4,), -(1 << 40), dtype=torch.int64, device=device)
    with torch.no_grad():
        for index, (image, label) in load_single_images(dataset, workers=workers, share=share):
            height, width = label.shape[-2:]
            logits = network(image.to(device))
            full = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
            classes = full.argmax(dim=1)
            counts += multiclass_confusion_matrix(
                classes,
                label.to(device),
                dataset.num_classes,
                ignore_index=dataset.ignore_index,
                validate_args=False,  # values were checked when they were read
            )
            extent = torch.maximum(extent, extent.new_tensor([height, width, -height, -width]))
            if on_image is not None:
                on_image(index, classes[0].cpu())
            on_step(index + 1, len(dataset))
    if fabric is not None and fabric.world_size > 1:
        counts = torch.as_tensor(fabric.all_reduce(counts, reduce_op="sum"))
        extent = torch.as_tensor(fabric.all_reduce(extent, reduce_op="max"))
    height, width, *lowest = extent.tolist()
    return compute_scores(counts.cpu(), dataset.classes), (height, width) if lowest == [-height, -width] else None


def compute_scores(confusion: Tensor, classes: tuple[str, ...]) -> Scores:
    """Scores from a confusion matrix, counts [classes, classes], rows being the truth.

    A class that is nowhere in the labels, but in predictions for labelled pixels, has an IoU of 0 and counts in the
    mean; one that is in neither has none and does not count. Pixels without a label count nowhere. So do Cityscapes'
    own scripts (`getIouScoreForLabel`, whose mean leaves out what is no number).
    """
    counts = confusion.double()
    hit = counts.diag()
    union = counts.sum(0) + counts.sum(1) - hit
    present = union > 0
    if not bool(present.any()):
        return Scores(None, dict.fromkeys(classes), None)
    iou = torch.where(present, hit / union.clamp_min(1), torch.nan) * 100
    per_class = {name: float(iou[i]) if present[i] else None for i, name in enumerate(classes)}
    return Scores(float(iou[present].mean()), per_class, float(100 * hit.sum() / counts.sum()))
