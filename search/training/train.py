"""Training of a network of any source; docs/training.md is the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...device import CPU
from ...errors import MismatchError, OutputError, TrainingError, UsageError
from ...files import hash_file, write_atomic
from ...models.nets.checks import check_outputs, check_training, require_rebuildable
from ...models.nets.definition import Log, NetworkDefinition, RunNetwork, load_definition, read_record
from ...models.nets.state.probe import LogitsProbe
from ...models.nets.state.weights import WEIGHTS_FILE, load_weights, save_weights
from ...models.space.lgcnet import LGCNetSpace
from ...models.space.protocol import ARCHITECTURE_FILE
from ...models.training_result import StoredScores
from ..crops import require_crop
from ..data.cache.opening import cache_datasets
from ..data.datasets import SegmentationDataset, load_dataset, require_classes
from ..data.description import DatasetSpec
from ..runtime.fabric import explain_out_of_memory, open_fabric, require_equal_settings
from ..runtime.provenance import hash_images
from ..runtime.run_folder import IMAGE_HASHES, INITIAL_WEIGHTS, OnStep, RunFolder
from ..runtime.run_settings import BATCH_PER_PROCESS, announce_earlier_version, resume_settings
from ..runtime.workers import choose_workers
from .auxiliary import TrainingNetwork, build_training_network
from .config import TrainConfig
from .distillation import Teacher, describe_teacher, load_teacher
from .evaluation import describe_scores
from .initial_weights import compare_origin, find_initial_weights, initialise
from .losses import compute_class_weights, require_labelled
from .network_trainer import NetworkTrainer, run_training
from .results import ScoredWeights, TrainResult
from .validation import VALIDATION_SPLIT, Validation, choose_interval

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from pydantic import JsonValue
    from torch import Tensor

TRAINING_EPOCHS = 200
"""Default length of a training, in epochs."""
_MEMORY_ADVICE = "--batch, --crop or --workers, or use --precision bf16"


def train(
    source: Path | RunNetwork,
    data: Path,
    config: TrainConfig,
    *,
    out: Path | None = None,
    device: str = CPU,
    on_step: OnStep = lambda step, steps: None,
    on_score: OnStep = lambda step, steps: None,
    on_cache: OnStep = lambda step, steps: None,
    log: Log = print,
) -> TrainResult:
    """Train a network, validate it every few steps, and write the best weights to weights.safetensors.

    An interrupted training resumes from its last checkpoint; a finished one returns its result. Both keep their own
    settings where `config` has none: those that are not passed to its constructor. Under torchrun every process makes
    the same call.

    Args:
        source: run folder of a search or a training; or a new network, which needs `out`.
        data: `dataset.yaml` or folder of a dataset.
        config: settings.
        out: folder for the training's files, with what rebuilds the network; None for the run folder.
        device: `cpu` or `cuda:N`.
        on_step: callback for the number of finished steps and the total.
        on_score: callback for the number of evaluated images and the total.
        on_cache: callback for the number of images decoded into a cache and the total.
        log: receives remarks on the network, its initial weights and the teacher, and a line on each validation.

    Raises:
        FileFormatError: the run folder has no network, or a file of weights is damaged.
        UsageError: initial weights, teacher, crop or batch do not suit the network.
        PluginError: the user's factory raises an error, or its network does not return logits of the classes.
        OutputError: the folder cannot be written, or holds other files.
        DataError: the data do not suit this network.
        TrainingError: the loss is not finite, or memory ran out.
    """
    chosen = source if isinstance(source, RunNetwork) else RunNetwork(source)
    folder = chosen.choose_folder(out)
    announce_earlier_version(folder, "train", log)
    config = TrainConfig(**resume_settings(TrainConfig, config.model_dump(exclude_unset=True), folder, "train", log))
    initial = find_initial_weights(chosen.run or folder, config.init)
    definition, spec = _define_network(chosen, folder, data, config, log)
    dataset, validation = _load_images(spec, definition.input, config)
    fabric = open_fabric(device, config.precision, find_unused=definition.architecture is None)
    require_equal_settings(config.list_settings(), fabric)
    share = config.divide_batch(fabric.world_size)
    teacher = load_teacher(config, definition, chosen.teacher, log)
    remarks: list[str] = []
    network, probe, random_parts = _prepare_network(definition, initial, config, fabric, remarks.append)
    settings = _list_settings(definition, data, config, fabric, (dataset, validation), teacher, initial)
    run = _open_run_folder(definition, chosen.run or folder, folder, settings, fabric.is_global_zero)
    _warn_of_newer_files(run, _list_files(dataset, validation), log)
    if (finished := fabric.broadcast(run.read_result(TrainResult) if run.active else None)) is not None:
        return _return_finished(finished, run, log)
    for remark in remarks:
        log(remark)
    views = config.steps * config.batch
    dataset, validation = cache_datasets((dataset, validation), config.cache, views=views, log=log, on_step=on_cache)
    workers = choose_workers(config.workers, ((dataset, share), (validation, 1)), fabric, log)
    loading = config.model_copy(update={"workers": workers})
    with explain_out_of_memory(_MEMORY_ADVICE):
        epoch_steps = count_epoch_steps(len(dataset), config.batch)
        interval = choose_interval(config, epoch_steps)
        validations = Validation(validation, loading, interval, fabric=fabric, log=log, on_score=on_score)
        trainer = NetworkTrainer(network, loading, fabric, _weigh_classes(dataset, config), teacher, probe, validations)
        run_training(trainer, dataset, run, on_step)
        scored = _save_kept(trainer, validations, definition, run.path / WEIGHTS_FILE)
    result = TrainResult(
        **vars(scored),
        config=config,
        seconds=trainer.seconds,
        from_scratch=random_parts,
        images=len(dataset),
        processes=fabric.world_size,
        waiting_pct=trainer.waiting_pct,
        batch_per_process=share,
        weights_digest=fabric.broadcast(hash_file(scored.weights) if run.active else None),
        epochs=config.steps / epoch_steps,
        **validations.summarise(),
    )
    return run.finish(result)


def _return_finished(result: TrainResult, run: RunFolder, log: Log) -> TrainResult:
    """Return the result of a finished training; log a warning if it is that of other weights."""
    weights = run.path / WEIGHTS_FILE
    stored = StoredScores.read(run.path) if run.active else None
    if stored is not None and weights.exists():
        try:
            stored.require_weights(weights)
        except MismatchError as error:
            log(f"warning: {error}")
    return replace(result, weights=weights)


def _warn_of_newer_files(run: RunFolder, files: Iterable[Path], log: Log) -> None:
    """Print a warning if a file is newer than the training that has begun."""
    if run.active and (changed := run.find_newer(files)) is not None:
        log(
            f"warning: {changed} has changed since this training began: if its content has, train in another folder "
            "with --out, or score its weights with --evaluate"
        )


def _list_files(*datasets: SegmentationDataset) -> list[Path]:
    """Return the images and labels of datasets."""
    files = [file for dataset in datasets for pair in dataset.pairs for file in (pair.image, pair.label)]
    return [file for file in files if file is not None]


def _weigh_classes(dataset: SegmentationDataset, config: TrainConfig) -> Tensor | None:
    return compute_class_weights(dataset) if config.balanced else None


def _define_network(
    chosen: RunNetwork, folder: Path, data: Path, config: TrainConfig, log: Log
) -> tuple[NetworkDefinition, DatasetSpec]:
    """Return the network with the classes of the dataset, after checks of size, crop and classes, and the dataset."""
    known = chosen.run or (folder if read_record(folder) is not None else None)
    stored = None if known is None else load_definition(known, chosen.network, log)
    source, size = (chosen.network, chosen.input) if stored is None else (stored.source, chosen.input or stored.input)
    output = chosen.output or (None if stored is None else stored.output)
    if output is not None and (source is None or source.kind != "factory"):
        raise UsageError("--output-name is only for your own --network, which may return several outputs")
    if source is None:
        raise UsageError("nothing to train: pass a run folder, or --network and --out")
    if size is None:
        raise UsageError("a new network needs the size of its images: add --input HxW")
    dataset = load_dataset(data, config.train_split)
    definition = NetworkDefinition(
        source, size, dataset.num_classes, dataset.classes, dataset.palette, dataset.normalisation, dataset.name, output
    )
    architecture = definition.architecture
    if architecture is not None:
        require_crop(config.crop, LGCNetSpace.require(architecture.space))
        require_classes(dataset, architecture.search_space.classes, architecture.space.name)
    elif config.crop is not None and any(side > limit for side, limit in zip(config.crop, size, strict=True)):
        raise UsageError(f"--crop {config.crop[0]}x{config.crop[1]} is larger than --input {size[0]}x{size[1]}")
    return definition, dataset.spec


def _load_images(
    spec: DatasetSpec, size: tuple[int, int], config: TrainConfig
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Return the training and the validation images."""
    dataset = load_dataset(spec, config.train_split, size, augment=True, seed=config.seed, crop=config.crop)
    require_labelled(dataset, config.train_split)
    return dataset, load_dataset(spec, VALIDATION_SPLIT, size, full_labels=True)


def _prepare_network(
    definition: NetworkDefinition, initial: Path | None, config: TrainConfig, fabric: Fabric, log: Log
) -> tuple[TrainingNetwork, LogitsProbe, tuple[str, ...]]:
    """Return the network before the first step, checked; its probe; its parts that the initial weights do not fit.

    The probe is that of the random weights, which depend on the seed alone.
    """
    name, transfer = definition.source.reference, None
    with explain_out_of_memory(_MEMORY_ADVICE):
        network = build_training_network(definition, config)
        if definition.architecture is None:
            network.to(fabric.device)
            report = check_training(network.network, definition, config.batch, config.crop)
            network.main, network.auxiliary_names = report.main, report.auxiliary
        else:
            require_rebuildable(network.network, definition)
        another = definition.build(config.seed)  # it may keep what it computed for the probe
        probe = LogitsProbe.take(another, definition.input)
        if initial is not None:
            transfer = initialise(network.network, initial, definition.classes)
            for remark in (*transfer.describe(), *compare_origin(initial, definition)):
                log(remark)
        if definition.architecture is None:
            evaluated = check_outputs(network.network, definition)
            only_evaluated = [] if report.activation else evaluated.format_warnings(" in evaluation mode")
            for remark in (*report.format_remarks(config.aux), *only_evaluated):
                log(f"{name}: {remark}")
    return network, probe, () if transfer is None else transfer.random_parts


def _save_kept(
    trainer: NetworkTrainer, validations: Validation, definition: NetworkDefinition, weights: Path
) -> ScoredWeights:
    """Save the weights to keep, check that the network can be rebuilt with them, and return their scores.

    Raises:
        TrainingError: the rebuilt network differs, or the trained one returns NaN or infinite logits.
    """
    kept = validations.finish(trainer.network, trainer.step)
    trainer.network.load_state_dict(kept.state)
    if trainer.fabric.is_global_zero:
        try:
            save_weights(trainer.network, weights, LogitsProbe.take(trainer.network, definition.input))
            load_weights(weights, definition)
        except MismatchError as error:
            raise TrainingError(f"{weights}: the trained network cannot be used: {error}") from error
    return describe_scores(weights, kept.scores, validations.dataset, VALIDATION_SPLIT, kept.size)


def count_training_steps(data: Path, epochs: int, batch: int, split: str = "train") -> int:
    """Return the steps of some passes over the training images."""
    return epochs * count_epoch_steps(len(load_dataset(data, split)), batch)


def count_epoch_steps(images: int, batch: int) -> int:
    """Return the steps of a pass over the training images in full batches."""
    return max(images // batch, 1)


def _list_settings(
    definition: NetworkDefinition,
    data: Path,
    config: TrainConfig,
    fabric: Fabric,
    datasets: Sequence[SegmentationDataset],
    teacher: Teacher | None,
    initial: Path | None,
) -> dict[str, JsonValue]:
    """Return the settings that identify this training in its run folder, with hashes of the files that it reads."""
    architecture, source = definition.architecture, definition.source
    network: dict[str, JsonValue]
    if architecture is not None:
        network = {"space": architecture.space.fingerprint, "architecture": source.digest}
    else:
        network = {
            "network": f"{source.kind} {source.name}",
            "input": list(definition.input),
            "classes": definition.classes,
            **({} if definition.output is None else {"output": definition.output}),
        }
    return {
        **config.list_settings(),
        **network,
        "data": str(data.resolve()),
        "processes": fabric.world_size,
        BATCH_PER_PROCESS: config.divide_batch(fabric.world_size),
        **datasets[0].spec.settings,
        **describe_teacher(teacher),
        IMAGE_HASHES: [hash_images(dataset) for dataset in datasets],
        **({} if initial is None else {INITIAL_WEIGHTS: hash_file(initial)}),
    }


def _open_run_folder(
    definition: NetworkDefinition, source: Path, out: Path, settings: Mapping[str, JsonValue], active: bool
) -> RunFolder:
    """Return the run folder, with the network's definition and a copy of its architecture in it."""
    original, copy = source / ARCHITECTURE_FILE, out / ARCHITECTURE_FILE
    if definition.architecture is None:
        if active and copy.exists():
            raise OutputError(f"{out} holds an architecture: choose another folder with --out")
    elif active and copy.exists() and copy.read_bytes() != original.read_bytes():
        raise OutputError(f"{copy} differs from {original}: choose another folder with --out")
    run = RunFolder(out, "train", settings, active=active)
    if active:
        if definition.architecture is not None and not copy.exists():
            write_atomic(copy, original.read_bytes())
        definition.save(out)
    return run
