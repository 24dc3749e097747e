"""Scoring: mean intersection over union over a whole data set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torchmetrics.classification import MulticlassConfusionMatrix

from .data.datasets import SegmentationDataset


@dataclass(frozen=True)
class Scores:
    """Intersection over union, in percent, over all pixels of a data set.

    Attributes:
        miou: mean over the classes that occur in labels or predictions.
        per_class: class name -> IoU; None where the class occurs in neither.
    """

    miou: float
    per_class: dict[str, float | None]


def evaluate(labeller: nn.Module, dataset: SegmentationDataset, device: str = "cpu") -> Scores:
    """Score `labeller`, [N, 3, H, W] -> [N, H, W] classes, on every image of `dataset`, one by one."""
    confusion = MulticlassConfusionMatrix(dataset.num_classes, ignore_index=dataset.ignore_index).to(device)
    with torch.inference_mode():
        for index in range(len(dataset)):
            image, label = dataset[index]
            confusion.update(labeller(image[None].to(device)), label[None].to(device))
    return scores(confusion.compute().cpu().double(), dataset.classes)


def scores(confusion: torch.Tensor, classes: tuple[str, ...]) -> Scores:
    """IoU from a confusion matrix [classes, classes], rows being the truth."""
    hit = confusion.diag()
    union = confusion.sum(0) + confusion.sum(1) - hit
    present = union > 0
    iou = torch.where(present, hit / union.clamp_min(1), torch.nan) * 100
    per_class = {name: float(iou[i]) if present[i] else None for i, name in enumerate(classes)}
    miou = float(iou[present].mean()) if bool(present.any()) else 0.0
    return Scores(miou, per_class)
