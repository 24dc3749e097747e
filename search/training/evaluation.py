"""Evaluation of a trained network as deployed, with predictions as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ...device import CPU
from ...errors import DataError, OutputError, UsageError
from ...models.nets.network import LGCNet
from ...models.nets.weights import WEIGHTS_FILE, load_weights
from ...models.space.protocol import ARCHITECTURE_FILE, Architecture
from ..data.datasets import SegmentationDataset, load_dataset, require_classes
from ..data.predictions import PredictionWriter
from ..runtime.fabric import explain_out_of_memory, open_fabric
from ..runtime.run_folder import OnStep
from .results import EvaluationResult, ScoredWeights
from .scores import Scores, evaluate_network

LABEL_RESOLUTION = "each label's own"


def evaluate_run(
    run_path: Path,
    data: Path,
    split: str = "val",
    *,
    predictions: Path | None = None,
    device: str = CPU,
    workers: int = 0,
    on_step: OnStep = lambda step, steps: None,
) -> EvaluationResult:
    """Evaluate `run_path`/weights.safetensors; under torchrun, processes share the images.

    Args:
        run_path: folder of a training.
        data: `dataset.yaml` or folder of a dataset.
        split: split to evaluate on.
        predictions: folder for the predicted classes, at each label's resolution; see `PredictionWriter`.
        device: `cpu` or `cuda:N`.
        workers: number of data-loading processes for each computing process.
        on_step: callback for the number of finished images and the total.

    Returns:
        The scores, and the paths of weights and predictions.

    Raises:
        FileFormatError: `run_path` has no architecture, or its weights are damaged or belong to a different one.
        UsageError: `run_path` has no weights.
        DataError: the data do not suit this network, or have no label and no predictions are requested.
        OutputError: predictions cannot be written, or would be inside the dataset.
    """
    _require_outside(predictions, data)
    architecture = Architecture.load(run_path / ARCHITECTURE_FILE)
    space, weights = architecture.space, run_path / WEIGHTS_FILE
    if not weights.exists():
        raise UsageError(f"no weights to evaluate in {run_path} ({WEIGHTS_FILE}); train first, without --evaluate")
    network = LGCNet(space, architecture)
    network.load_state_dict(load_weights(weights, architecture))
    dataset = load_dataset(data, split, space.input, full_labels=True)
    require_classes(dataset, space.classes, space.name)
    _require_outside(predictions, dataset.spec.root)
    writer = None if predictions is None else PredictionWriter(predictions, dataset)

    def write(index: int, classes: Tensor) -> None:
        if writer is not None:
            writer.write(index, classes.numpy().astype(np.uint8))

    fabric = open_fabric(device)
    with explain_out_of_memory("the number of other programs on this device, or use --device cpu"):
        network.to(fabric.device).eval()
        scores, size = evaluate_network(
            network, dataset, fabric=fabric, workers=workers, on_image=write, on_step=on_step
        )
    if scores.miou is None and predictions is None:
        raise DataError(
            f"{data} has no labelled pixel in {split}, so it cannot be evaluated; use --predictions instead"
        )
    return EvaluationResult(**vars(describe_scores(weights, scores, dataset, split, size)), predictions=predictions)


def _require_outside(predictions: Path | None, data: Path) -> None:
    """Check that predictions are not written into a dataset."""
    if predictions is not None and predictions.resolve().is_relative_to(data.resolve()):
        raise OutputError(f"--predictions {predictions} is inside the dataset {data}: choose another folder")


def describe_scores(
    weights: Path, scores: Scores, dataset: SegmentationDataset, split: str, size: tuple[int, int] | None
) -> ScoredWeights:
    """Return the scores of weights, with the images and the resolution that they refer to."""
    scored_at = LABEL_RESOLUTION if size is None else size
    return ScoredWeights(weights, **vars(scores), scored_on=split, scored_at=scored_at, scored_images=len(dataset))
