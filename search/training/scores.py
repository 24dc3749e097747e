"""Scores: intersection over union and pixel accuracy over a dataset, at the labels' own resolution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ...errors import TrainingError
from ...models.geometry import Geometry
from ...models.nets.network import get_geometry
from ...models.nets.outputs import get_logits
from ...models.nets.resizing import upsample_logits
from ...precisions import without_tf32
from ..data.datasets import SegmentationDataset
from ..data.labels import IGNORE
from ..runtime.batches import CPU, load_single_images

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..runtime.run_folder import OnStep

MAX_UPSAMPLED = 1 << 27
"""Number of logits that are upsampled at once, half a gigabyte, but at least `VECTOR` channels."""
VECTOR = 16
"""Most channels that torch computes in one instruction on a CPU."""
OnImage = Callable[[int, Tensor], None]
"""Callback for an image's index in the dataset and its predicted classes, int64 [H, W] on the CPU."""


@dataclass(frozen=True)
class Scores:
    """Scores in percent over all labelled pixels of a dataset; None without such a pixel.

    Attributes:
        miou: mean of `per_class` over the classes with a value.
        per_class: class name -> intersection over union; None for a class that is in neither labels nor predictions.
        pixel_accuracy: share of correctly classified pixels.
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
    """Evaluate a network on every image of a dataset, one by one, in float32 without TF32 as the profiler runs it.

    Images have the dataset's size, e.g. the one that the network is deployed with. Logits are upsampled bilinearly to
    each label and compared at its resolution; `full_labels` of the dataset keeps labels as large as their files.

    Args:
        network: [1, 3, H, W] -> logits [1, C, h, w], and perhaps other outputs; in evaluation mode.
        dataset: images and labels.
        fabric: device, and the processes that share the images and all make this call; None for the CPU.
        workers: number of data-loading processes.
        on_image: callback for predictions.
        on_step: callback for the number of finished images and the total.

    Returns:
        Scores over the images of all processes, and the (height, width) of the labels in pixels; None where labels have
        several sizes.

    Raises:
        DataError: a file is damaged or holds foreign values.
        TrainingError: the network returns NaN or infinite values.
    """
    device = CPU if fabric is None else fabric.device
    shard = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    counts = torch.zeros(dataset.num_classes, dataset.num_classes, dtype=torch.int64, device=device)
    extent = torch.full((5,), -(1 << 40), dtype=torch.int64, device=device)  # its last value is 1 after an error
    geometry = get_geometry(network)
    invalid: Path | None = None
    images = load_single_images(dataset, workers=workers, shard=shard, device=device)
    with torch.no_grad(), without_tf32(), closing(images):
        for index, (image, label) in images:
            height, width = label.shape[-2:]
            logits = get_logits(network(image))
            if not bool(logits.isfinite().all()):
                invalid, extent[-1] = dataset.pairs[index].image, 1
                break  # all processes raise the error together, so that none waits for another
            shown = (image.shape[-2], image.shape[-1])
            classes = find_classes(logits.float(), (height, width), geometry, shown)
            counts += multiclass_confusion_matrix(
                classes,
                label,
                dataset.num_classes,
                ignore_index=dataset.ignore_index,
                validate_args=False,  # `read_label` checks values
            )
            extent = torch.maximum(extent, extent.new_tensor([height, width, -height, -width, 0]))
            if on_image is not None:
                on_image(index, classes[0].cpu())
            on_step(index + 1, len(dataset))
    if fabric is not None and fabric.world_size > 1:
        counts = torch.as_tensor(fabric.all_reduce(counts, reduce_op="sum"))
        extent = torch.as_tensor(fabric.all_reduce(extent, reduce_op="max"))
    height, width, *lowest, is_invalid = extent.tolist()
    if is_invalid == 1:
        where = invalid or "an image of another process"
        raise TrainingError(f"the network returned NaN or infinite logits for {where}")
    return compute_scores(counts.cpu(), dataset.classes), (height, width) if lowest == [-height, -width] else None


def find_classes(
    logits: Tensor,
    size: tuple[int, int],
    geometry: Geometry = Geometry.HALF_PIXEL,
    image: tuple[int, int] | None = None,
) -> Tensor:
    """Return the classes of logits upsampled bilinearly, [1, C, h, w] -> [1, *size]; see `resizing.upsample_logits`.

    Above `MAX_UPSAMPLED` values, some channels are upsampled at a time, bit-identically: torch's kernels round by
    memory format and position in a vector, and have others for up to three channels.
    """

    def upsample(part: Tensor) -> Tensor:
        return upsample_logits(part, size, geometry, image)

    channels = logits.shape[1]
    count = max(1, MAX_UPSAMPLED // (size[0] * size[1] * VECTOR)) * VECTOR
    bounds = [*range(0, channels - 3, count), channels]
    if len(bounds) <= 2:
        return upsample(logits).argmax(dim=1)
    is_last = logits.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if is_last else torch.contiguous_format
    parts = (logits[:, start:end].contiguous(memory_format=order) for start, end in pairwise(bounds))
    best, classes = upsample(next(parts)).max(dim=1)
    for start, part in zip(bounds[1:], parts, strict=False):
        values, indices = upsample(part).max(dim=1)
        classes = torch.where(values > best, indices + start, classes)
        best = torch.maximum(best, values)
    return classes


def count_confusions(logits: Tensor, labels: Tensor, geometry: Geometry) -> Tensor:
    """Return the confusion matrix of a batch, counts [C, C] with the truth in rows.

    Images are counted one by one, as upsampled logits [N, C, H, W] would take much memory.
    """
    matrices = [
        multiclass_confusion_matrix(
            find_classes(logits[i : i + 1].float(), (labels.shape[1], labels.shape[2]), geometry),
            labels[i : i + 1].long(),
            logits.shape[1],
            ignore_index=IGNORE,
            validate_args=False,
        )
        for i in range(len(labels))
    ]
    return torch.stack(matrices).sum(0)


def compute_scores(confusion: Tensor, classes: tuple[str, ...]) -> Scores:
    """Return the scores of a confusion matrix, counts [classes, classes] with the truth in rows.

    A class that is absent from the labels but predicted for labelled pixels has an IoU of 0, which counts in the mean.
    A class that is in neither has no IoU. Pixels without a label are ignored. Cityscapes' scripts do the same
    (`getIouScoreForLabel`, whose mean ignores NaN).
    """
    counts = confusion.double()
    correct = counts.diag()
    union = counts.sum(0) + counts.sum(1) - correct
    present = union > 0
    if not bool(present.any()):
        return Scores(None, dict.fromkeys(classes), None)
    iou = torch.where(present, correct / union.clamp_min(1), torch.nan) * 100
    per_class = {name: float(iou[i]) if present[i] else None for i, name in enumerate(classes)}
    return Scores(float(iou[present].mean()), per_class, float(100 * correct.sum() / counts.sum()))
