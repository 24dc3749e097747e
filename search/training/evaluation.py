"""Evaluation of a trained network as deployed, with predictions as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ...device import CPU
from ...errors import DataError, OutputError, UsageError
from ...models.nets.checks import check_outputs
from ...models.nets.definition import NETWORK_FILE, Log, NetworkDefinition, RunNetwork, load_definition
from ...models.nets.state.weights import WEIGHTS_FILE, load_weights
from ..data.datasets import SegmentationDataset, load_dataset, require_classes
from ..data.predictions import PredictionWriter
from ..runtime.fabric import explain_out_of_memory, open_fabric, place_network
from ..runtime.run_folder import DATASET_DIGEST, OnStep
from ..runtime.run_settings import read_settings
from ..runtime.workers import choose_workers
from .results import EvaluationResult, ScoredWeights
from .scores import Scores, evaluate_network

LABEL_RESOLUTION = "each label's own"


def evaluate_run(
    source: Path | RunNetwork,
    data: Path,
    split: str = "val",
    *,
    predictions: Path | None = None,
    device: str = CPU,
    workers: int | None = None,
    on_step: OnStep = lambda step, steps: None,
    log: Log = print,
) -> EvaluationResult:
    """Evaluate the weights.safetensors of a run; under torchrun, processes share the images.

    Args:
        source: folder of a training; a factory's run also needs the network that the user names.
        data: `dataset.yaml` or folder of a dataset.
        split: split to evaluate on.
        predictions: folder for the predicted classes, at each label's resolution; see `PredictionWriter`.
        device: `cpu` or `cuda:N`.
        workers: number of data-loading processes of each computing process; None chooses it by the machine.
        on_step: callback for the number of finished images and the total.
        log: receives remarks, one line each.

    Raises:
        FileFormatError: the run has no network, or its weights are damaged or belong to a different one.
        UsageError: the run has no weights, or was trained with a factory that the user has not named.
        PluginError: the user's factory raises an error, or its network does not return logits of the classes.
        DataError: the data do not suit this network, or have no label and no predictions are requested.
        OutputError: predictions cannot be written, or would be inside the dataset.
    """
    _require_outside(predictions, data)
    chosen = RunNetwork(source) if isinstance(source, Path) else source
    if chosen.run is None:
        raise UsageError("no weights to evaluate: pass the folder of a training")
    definition, weights = load_definition(chosen.run, chosen.network, log), chosen.run / WEIGHTS_FILE
    if not weights.exists():
        raise UsageError(f"no weights to evaluate in {chosen.run} ({WEIGHTS_FILE}); train first, without --evaluate")
    network = definition.build()
    network.load_state_dict(load_weights(weights, definition, log))
    dataset = _load_dataset(data, split, definition, chosen.run, log)
    _require_outside(predictions, dataset.spec.root)
    writer = None if predictions is None else PredictionWriter(predictions, dataset)

    def write(index: int, classes: Tensor) -> None:
        if writer is not None:
            writer.write(index, classes.numpy().astype(np.uint8))

    fabric = open_fabric(device)
    with explain_out_of_memory(_advise_memory(definition, device)):
        place_network(network.eval(), fabric)  # in the memory format of the validations
        if definition.architecture is None:
            for remark in check_outputs(network, definition).format_warnings():
                log(f"{definition.source.reference}: {remark}")
        chosen_workers = choose_workers(workers, [(dataset, 1)], fabric, log)
        scores, size = evaluate_network(
            network, dataset, fabric=fabric, workers=chosen_workers, on_image=write, on_step=on_step
        )
    if scores.miou is None and predictions is None:
        raise DataError(
            f"{data} has no labelled pixel in {split}, so it cannot be evaluated; use --predictions instead"
        )
    return EvaluationResult(**vars(describe_scores(weights, scores, dataset, split, size)), predictions=predictions)


def _advise_memory(definition: NetworkDefinition, device: str) -> str:
    """Return what to lower if memory runs out, as the end of a message."""
    size = "x".join(map(str, definition.input))
    return f"the input size {size} ({NETWORK_FILE})" + ("" if device == CPU else ", or use --device cpu")


def _load_dataset(data: Path, split: str, definition: NetworkDefinition, run: Path, log: Log) -> SegmentationDataset:
    """Return the images of a split as the network needs them; log a warning if its classes or description differ.

    Raises:
        DataError: the number of classes differs, or the data are unusable.
    """
    dataset = load_dataset(data, split, definition.input, full_labels=True)
    if definition.architecture is not None:
        require_classes(dataset, definition.classes, definition.source.name)
    elif dataset.num_classes != definition.classes:
        raise DataError(
            f"the dataset ({dataset.name}) has {dataset.num_classes} classes, {run} was trained with "
            f"{definition.classes}: evaluate it on a dataset with the same classes"
        )
    pairs = zip(dataset.classes, definition.class_names or dataset.classes, strict=True)
    other = [f"{name} instead of {trained}" for name, trained in pairs if name != trained]
    if other:
        log(f"warning: the dataset ({dataset.name}) has other classes than {run} was trained with: {other[0]}")
    elif (settings := read_settings(run, "train")) and settings.get(DATASET_DIGEST, "") != dataset.spec.digest:
        log(
            f"warning: the description of the dataset ({dataset.name}) is not that of the training in {run}: check "
            "that label values have the same classes"
        )
    dataset.normalisation = definition.normalisation
    return dataset


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
