"""Scoring a trained network as it is deployed, and writing its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...device import CPU
from ...errors import DataError, UsageError
from ...models.nets.network import LGCNet
from ...models.nets.weights import WEIGHTS, load_weights
from ...models.space.architecture import ARCHITECTURE, Architecture
from ..data.datasets import SegmentationDataset, load_dataset, require_classes
from ..data.predictions import PredictionWriter
from ..runtime.fabric import explained_memory, open_fabric
from ..runtime.run_folder import OnStep
from .scores import Scores, evaluate

EACH_OWN = "each label's own"


def evaluate_run(
    run_path: Path,
    data: Path,
    split: str = "val",
    *,
    predictions: Path | None = None,
    device: str = CPU,
    workers: int = 0,
    on_step: OnStep = lambda step, steps: None,
) -> dict[str, Any]:
    """Score `run_path`/weights.safetensors; under torchrun, processes share the images.

    Args:
        run_path: folder of a training.
        data: folder of Cityscapes or CamVid.
        split: whose images.
        predictions: folder for the predicted classes, at each label's resolution; see `PredictionWriter`.
        device: `cpu` or `cuda:N`.
        workers: processes that load images, for each process that computes.
        on_step: told the number of finished images, and of all.

    Returns:
        weights (path), miou and pixel_accuracy (percent; None without labels), per_class, scored_on, scored_at,
        scored_images, predictions (folder).

    Raises:
        FileFormatError: `run_path` holds no architecture, or weights that are damaged or another architecture's.
        UsageError: it holds no weights.
        DataError: the data cannot be used with this network, or have no label and no predictions are wanted.
        OutputError: predictions cannot be written.
    """
    architecture = Architecture.load(run_path / ARCHITECTURE)
    space, weights = architecture.space, run_path / WEIGHTS
    if not weights.exists():
        raise UsageError(f"{run_path} holds no weights to score ({WEIGHTS}); train first, without --evaluate")
    network = LGCNet(space, architecture)
    network.load_state_dict(load_weights(weights, architecture))
    dataset = load_dataset(data, split, space.input, full_labels=True)
    require_classes(dataset, space.classes, space.name)
    writer = None if predictions is None else PredictionWriter(predictions, dataset)

    def write(index: int, classes: Tensor) -> None:
        if writer is not None:
            writer.write(index, classes.numpy().astype(np.uint8))

    fabric = open_fabric(device)
    with explained_memory("the number of other programs on this device, or take --device cpu"):
        network.to(fabric.device).eval()
        found, size = evaluate(network, dataset, fabric=fabric, workers=workers, on_image=write, on_step=on_step)
    if found.miou is None and predictions is None:
        raise DataError(f"{data} has no labelled pixel in {split}: there is nothing to score, only --predictions")
    result = {"weights": str(weights), **as_result(found, dataset, split, size)}
    return result | {"predictions": None if predictions is None else str(predictions)}


def as_result(found: Scores, dataset: SegmentationDataset, split: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Scores by the names that results have: on which images, and at which resolution they were taken."""
    return {
        "miou": found.miou,
        "per_class": found.per_class,
        "pixel_accuracy": found.pixel_accuracy,
        "scored_on": split,
        "scored_at": EACH_OWN if size is None else list(size),
        "scored_images": len(dataset),
    }
