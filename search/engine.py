"""The search: a supernet is trained, architectures are chosen from it, each on its latency target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import CPU
from ..lut.predictor import Predictor
from ..models.space.architecture import ARCHITECTURE
from ..models.space.space import SearchSpace
from .config import SearchConfig
from .constraint.feasibility import common_space, point_name, require_left
from .constraint.latency import Latency
from .constraint.refinement import Measure, require_measurable
from .context import SearchContext, SearchProgress
from .data.datasets import load_dataset, require_classes, split_halves
from .decisions import Decisions
from .runtime import checkpoint
from .runtime.fabric import explained_memory, open_fabric
from .runtime.provenance import digest, write_provenance
from .runtime.run_folder import OnStep, RunFolder
from .selection.finalize import finalize
from .supernet.supernet_trainer import SupernetTrainer
from .training.crops import require_crop
from .training.losses import balanced_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STAGE = "search"
EPOCHS = 80
"""Epochs of a search where the number of steps is left open. Assumption: as in GAS."""


def search(
    predictors: Predictor | Sequence[Predictor],
    data: Path,
    out: Path,
    config: SearchConfig,
    *,
    device: str = CPU,
    precision: str = "fp32",
    measure: Measure | None = None,
    on_step: OnStep = lambda step, steps: None,
) -> dict[str, Any]:
    """Search a space for architectures; with one target or none, the result is `out`/architecture.json.

    With several points of targets, all share the warm-up, and each has a run folder of its own under `out`. An
    interrupted search is gone on with from its last checkpoint; of a finished one the result is returned. Under
    torchrun every process has to call this, and gets the result.

    Args:
        predictors: space and latencies; one for each table, all of one space and scope.
        data: folder of Cityscapes or CamVid.
        out: run folder.
        config: settings.
        device: where the supernet is trained, `cpu` or `cuda:N`; need not be a table's device.
        precision: `fp32`, `bf16` or `fp16` of the supernet's training.
        measure: lands the results by what it says; see `landing`.
        on_step: told step and number of steps.

    Returns:
        The result: architecture (path), target_ms, predicted_ms and its 90 % interval, steps, seconds, and how the
        search went; with several points, `front`: a list of these.

    Raises:
        UsageError: no architecture of the space reaches a target, or the settings make no sense together.
        OutputError: `out` holds something else.
        DataError: the data cannot be used with this space.
        TrainingError: the loss stopped being a number, or memory ran out.
    """
    tables = [predictors] if isinstance(predictors, Predictor) else list(predictors)
    job = _open(tables, data, out, config, (device, precision), on_step)
    if measure is not None:
        require_measurable(config, len(tables))
        job = replace(job, measure=measure, settings=job.settings | {"landing": "measured"})
    run = RunFolder(out, STAGE, job.settings, active=job.fabric.is_global_zero)
    finished = job.fabric.broadcast(run.result() if run.active else None)
    if finished is not None:
        return _found_in(out, finished, config)
    if run.active:
        write_provenance(out, tables, job.halves)
    with explained_memory("--batch or --crop"):
        result = _front(job, run) if len(config.targets_ms) > 1 else _single(job, run)
    return run.finish(result)


def _open(
    tables: Sequence[Predictor],
    data: Path,
    out: Path,
    config: SearchConfig,
    device_and_precision: tuple[str, str],
    on_step: OnStep,
) -> SearchContext:
    """Check everything that a user hands over, and open it."""
    space = common_space(tables, config)
    blocks = Decisions(space, shared=config.cells == "shared", fixed_fusion=config.fusion == "fixed")
    require_left(blocks, tables, config)
    require_crop(config.crop, space)
    augmented, plain = (
        load_dataset(
            data, "train", space.input, augment=augment, seed=config.seed, crop=config.crop if augment else None
        )
        for augment in (True, False)
    )
    require_classes(plain, space.classes, space.name)
    halves = split_halves(augmented, config.seed)
    fabric = open_fabric(*device_and_precision)
    settings: dict[str, Any] = {
        **config.model_dump(mode="json", exclude={"workers"}),
        "space": space.fingerprint,
        "data": str(data.resolve()),
        "images": [digest(half) for half in halves],
        "latency": [predictor.fingerprint for predictor in tables],
        "precision": device_and_precision[1],
        "processes": fabric.world_size,
    }
    return SearchContext(
        tables,
        blocks,
        config,
        fabric,
        halves,
        split_halves(plain, config.seed)[1],
        balanced_weights(plain) if config.balanced else None,
        settings,
        out,
        SearchProgress(on_step, config),
    )


def default_steps(data: Path, space: SearchSpace, batch: int) -> int:
    """Steps of `EPOCHS` passes over half of the training images."""
    half = len(load_dataset(data, "train", space.input)) // 2
    return EPOCHS * max(half // batch, 1)


def _single(job: SearchContext, run: RunFolder) -> dict[str, Any]:
    """One result, in the run folder itself."""
    latency = _latency(job, job.config.targets_ms[0] if job.config.targets_ms else None)
    trainer = SupernetTrainer(job.blocks, job.config, job.fabric, job.class_weights)
    _restore(trainer, job.fabric, run.checkpoint)
    trainer.advance(job.config.steps, job.halves, latency, run, job.progress.shifted(0))
    job.progress.reached(job.config.steps)
    return finalize(job, trainer, latency, run)


def _front(job: SearchContext, run: RunFolder) -> dict[str, Any]:
    """A result for every point, after one warm-up."""
    config = job.config
    warm, points = config.warm_up_steps, config.targets_ms
    trainer = SupernetTrainer(job.blocks, config, job.fabric, job.class_weights)
    _restore(trainer, job.fabric, run.checkpoint)
    latencies = [_latency(job, point) for point in points]
    trainer.advance(warm, job.halves, latencies[0], run, job.progress.shifted(0))
    shared, seconds, results = trainer.snapshot(), trainer.seconds, []
    for index, (point, latency) in enumerate(zip(points, latencies, strict=True)):
        settings = job.settings | {"targets_ms": [list(point)], "point": index}
        own = RunFolder(job.out / point_name(point), STAGE, settings, active=run.active)
        done = job.fabric.broadcast(own.result() if own.active else None)
        if done is None:
            trainer = SupernetTrainer(job.blocks, config, job.fabric, job.class_weights)
            trainer.restore(shared)
            _restore(trainer, job.fabric, own.checkpoint)
            on_step = job.progress.shifted(index * job.progress.of_a_point)
            trainer.advance(config.steps, job.halves, latency, own, on_step)
            job.progress.reached(index * job.progress.of_a_point + config.steps)
            done = own.finish(finalize(job, trainer, latency, own))
        results.append(done | {"architecture": str(own.path / ARCHITECTURE)})
        seconds += done["seconds"] - shared["seconds"]
    for one in results:
        one["dominated"] = any(_dominates(other, one) for other in results)
    return {"front": results, "steps": config.steps, "warm_up_steps": warm, "seconds": seconds}


def _dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a point is nowhere slower than another, and better after a short training, or in its supernet if none."""

    def latencies(point: dict[str, Any]) -> list[float]:
        return [row["predicted_ms"] for row in point.get("tables", [point])]

    def loss(point: dict[str, Any]) -> float:
        tried = [float(value) for value in point["trial_losses"] if value is not None]
        return min(tried, default=float(point["loss_after"]))

    pairs = zip(latencies(one), latencies(other), strict=True)
    return loss(one) < loss(other) and all(mine <= theirs for mine, theirs in pairs)


def _found_in(out: Path, result: dict[str, Any], config: SearchConfig) -> dict[str, Any]:
    """A finished result, with paths for where the folder lies by now."""
    if "front" not in result:
        return result | {"architecture": str(out / ARCHITECTURE)}
    folders = [out / point_name(point) for point in config.targets_ms]
    rows = zip(result["front"], folders, strict=True)
    return result | {"front": [one | {"architecture": str(folder / ARCHITECTURE)} for one, folder in rows]}


def _latency(job: SearchContext, point: Sequence[float] | None) -> Latency:
    return Latency(job.blocks, job.predictors, point, job.config.quantile)


def _restore(trainer: SupernetTrainer, fabric: Fabric, path: Path) -> None:
    """Go on from a checkpoint, if there is one; the first process reads it for all."""
    before = fabric.broadcast(checkpoint.load(path) if fabric.is_global_zero else None)
    if before is not None:
        trainer.restore(before)
