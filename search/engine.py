"""The search: a supernet is trained, architectures are chosen from it, each on its latency target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..lut.predictor import Predictor
from ..models.architecture import ARCHITECTURE, Architecture
from ..models.space import SearchSpace
from . import checkpoint, selection
from .alphas import Draw
from .batches import Batch, batches
from .blocks import Blocks
from .config import SearchConfig
from .crops import require_crop
from .data.datasets import SegmentationDataset, load_dataset, require_classes, split_halves
from .fabric import explained_memory, mean_over_processes, open_fabric
from .fitting import Found, architecture_of
from .latency import Latency, require_reachable
from .losses import balanced_weights
from .provenance import write_provenance
from .runs import OnStep, RunFolder
from .supernet import batch_statistics
from .trainer import SupernetTrainer
from .trials import trial_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STAGE = "search"
EPOCHS = 80
"""Epochs of a search where the number of steps is left open. Assumption: as in GAS."""
JUDGE_IMAGES = 256
"""Images of the architecture's half, at most, that architectures are compared on."""
DRAWS = 4
"""Paths whose mean loss is the loss before discretisation."""


@dataclass
class _Job:
    """One search on its way: what every part of it needs."""

    predictors: Sequence[Predictor]
    blocks: Blocks
    config: SearchConfig
    fabric: Fabric
    halves: tuple[SegmentationDataset, SegmentationDataset]
    judged_on: SegmentationDataset
    class_weights: Tensor | None
    settings: dict[str, Any]
    out: Path
    progress: _Progress


class _Progress:
    """Steps of everything that a search does, told as one count.

    Args:
        on_step: told the count and the total.
        config: settings, which say how many steps there will be.
    """

    def __init__(self, on_step: OnStep, config: SearchConfig) -> None:
        self._on_step = on_step
        points, trials = max(len(config.targets_ms), 1), config.trials if config.trials > 1 else 0
        self.of_a_point = config.steps - config.warm_up_steps + trials * config.trial_steps
        self._total = config.warm_up_steps + points * self.of_a_point
        self._done = 0

    def shifted(self, before: int) -> OnStep:
        """What a part that counts its own steps is to tell, after `before` steps of other parts."""
        return lambda step, _: self._tell(before + step)

    def tick(self) -> None:
        """One step more."""
        self._tell(self._done + 1)

    def _tell(self, done: int) -> None:
        self._done = done
        self._on_step(done, self._total)


def search(
    predictors: Predictor | Sequence[Predictor],
    data: Path,
    out: Path,
    config: SearchConfig,
    *,
    device: str = "cpu",
    precision: str = "fp32",
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
    run = RunFolder(out, STAGE, job.settings, active=job.fabric.is_global_zero)
    finished = job.fabric.broadcast(run.result() if run.active else None)
    if finished is not None:
        return finished | ({"architecture": str(out / ARCHITECTURE)} if "architecture" in finished else {})
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
) -> _Job:
    """Check everything that a user hands over, and open it."""
    space = _common_space(tables, config)
    blocks = Blocks(space, shared=config.cells == "shared", fixed_fusion=config.fusion == "fixed")
    _require_left(blocks, tables, config)
    require_crop(config.crop, space)
    augmented, plain = (
        load_dataset(
            data, "train", space.input, augment=augment, seed=config.seed, crop=config.crop if augment else None
        )
        for augment in (True, False)
    )
    require_classes(plain, space.classes, space.name)
    fabric = open_fabric(*device_and_precision)
    settings: dict[str, Any] = {
        **config.model_dump(mode="json", exclude={"workers"}),
        "space": space.fingerprint,
        "data": str(data.resolve()),
        "latency": [predictor.fingerprint for predictor in tables],
        "precision": device_and_precision[1],
        "processes": fabric.world_size,
    }
    return _Job(
        tables,
        blocks,
        config,
        fabric,
        split_halves(augmented, config.seed),
        split_halves(plain, config.seed)[1],
        balanced_weights(plain) if config.balanced else None,
        settings,
        out,
        _Progress(on_step, config),
    )


def default_steps(data: Path, space: SearchSpace, batch: int) -> int:
    """Steps of `EPOCHS` passes over half of the training images."""
    half = len(load_dataset(data, "train", space.input)) // 2
    return EPOCHS * max(half // batch, 1)


def _common_space(tables: Sequence[Predictor], config: SearchConfig) -> SearchSpace:
    """The tables' space, after showing that targets and tables fit."""
    if not tables:
        raise UsageError("a search needs a latency table")
    space = tables[0].space
    if any(table.space.fingerprint != space.fingerprint for table in tables):
        names = ", ".join(f"{table.table_path} of {table.space.name}" for table in tables)
        raise UsageError(f"all tables of a search must be of one space: {names}")
    if len(tables) > 1 and not config.targets_ms:
        raise UsageError(f"{len(tables)} tables need a target each: give as many with --target-ms")
    if len({point_name(point) for point in config.targets_ms}) < len(config.targets_ms):
        raise UsageError("two points of the front have the same targets")
    for point in config.targets_ms:
        if len(point) != len(tables):
            raise UsageError(f"{len(tables)} tables, but {len(point)} targets: give one for each table")
        for table, target in zip(tables, point, strict=True):
            require_reachable(table, target, config.quantile)
    return space


def _require_left(blocks: Blocks, tables: Sequence[Predictor], config: SearchConfig) -> None:
    """Show that what the settings leave of the space, as cells that share do, is not too slow for any target."""
    for point in config.targets_ms:
        for table, target in zip(tables, point, strict=True):
            alone = Latency(blocks, [table], [target], config.quantile)
            _require_on_target(alone, Found(*alone.fastest))


def _single(job: _Job, run: RunFolder) -> dict[str, Any]:
    """One result, in the run folder itself."""
    latency = _latency(job, job.config.targets_ms[0] if job.config.targets_ms else None)
    trainer = SupernetTrainer(job.blocks, job.config, job.fabric, job.class_weights)
    _restore(trainer, job.fabric, run.checkpoint)
    trainer.advance(job.config.steps, job.halves, latency, run, job.progress.shifted(0))
    return _choose(job, trainer, latency, run)


def _front(job: _Job, run: RunFolder) -> dict[str, Any]:
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
            done = own.finish(_choose(job, trainer, latency, own))
        results.append(done | {"architecture": str(own.path / ARCHITECTURE)})
        seconds += done["seconds"] - shared["seconds"]
    for one in results:
        one["dominated"] = any(
            other["predicted_ms"] <= one["predicted_ms"] and other["loss_after"] < one["loss_after"]
            for other in results
        )
    return {"front": results, "steps": config.steps, "warm_up_steps": warm, "seconds": seconds}


def point_name(point: Sequence[float]) -> str:
    """Folder of a point of the front: `target-8ms`, `target-8ms-5.5ms`."""
    return "-".join(["target", *(f"{target:g}ms" for target in point)])


def _latency(job: _Job, point: Sequence[float] | None) -> Latency:
    return Latency(job.blocks, job.predictors, point, job.config.quantile)


def _restore(trainer: SupernetTrainer, fabric: Fabric, path: Path) -> None:
    """Go on from a checkpoint, if there is one; the first process reads it for all."""
    before = fabric.broadcast(checkpoint.load(path) if fabric.is_global_zero else None)
    if before is not None:
        trainer.restore(before)


def _choose(job: _Job, trainer: SupernetTrainer, latency: Latency, run: RunFolder) -> dict[str, Any]:
    """Choose the architecture by the strategy, write it, and return the result."""
    config, start = job.config, time.monotonic()
    judge = _Judge(job, trainer)
    ranked = _ranked(config, trainer, latency, judge)
    _require_on_target(latency, ranked.found)
    candidates = [architecture_of(ranked.found, row, latency) for row in range(len(ranked.found))]
    tried = [] if len(candidates) < 2 else [_try_out(job, judge, one) for one in candidates]
    best = int(np.argmin(tried)) if tried else 0
    architecture, loss = candidates[best], ranked.losses[best]
    predicted = [predictor.predict(architecture) for predictor in job.predictors]
    interval = job.predictors[0].interval(architecture)
    targets = None if latency.targets_ms is None else latency.targets_ms.tolist()
    common: dict[str, Any] = {
        "target_ms": None if targets is None else targets[0],
        "predicted_ms": predicted[0],
        "predicted_low_ms": interval.low_ms if interval else None,
        "predicted_high_ms": interval.high_ms if interval else None,
        "steps": config.steps,
        "scope": config.scope,
        "strategy": config.strategy,
    }
    if len(job.predictors) > 1 or config.quantile is not None:
        bounds = [ms * float(margin) for ms, margin in zip(predicted, latency.margin, strict=True)]
        names = [str(predictor.table_path) for predictor in job.predictors]
        rows = zip(names, targets or [None] * len(names), predicted, bounds, strict=True)
        common["tables"] = [
            dict(zip(("lut", "target_ms", "predicted_ms", "bound_ms"), row, strict=True)) for row in rows
        ]
    provenance = {
        "found_by": "lgc-search",
        "table": str(job.predictors[0].table_path.resolve()),
        "latency": [predictor.fingerprint for predictor in job.predictors],
        "seed": config.seed,
    }
    if run.active:
        architecture.model_copy(update={"provenance": {**provenance, **common}}).save(run.path / ARCHITECTURE)
    return {
        "architecture": str(run.path / ARCHITECTURE),
        **common,
        "seconds": trainer.seconds + time.monotonic() - start,
        "fastest_ms": job.predictors[0].predict(job.predictors[0].fastest),
        "slowest_ms": job.predictors[0].predict(job.predictors[0].slowest),
        "operators": selection.shares(job.blocks.space.operators, np.array(architecture.choices)),
        "head_channels": job.blocks.space.heads[architecture.head],
        "tried": ranked.tried,
        "passes": ranked.passes,
        "trial_losses": tried,
        "trial_steps": config.trial_steps if tried else 0,
        **selection.gap(judge.losses_of_draws(config), loss),
    }


def _ranked(config: SearchConfig, trainer: SupernetTrainer, latency: Latency, judge: _Judge) -> selection.Ranked:
    """The best architectures by their loss in the supernet, found by the strategy."""
    batches_, keep = len(judge.batches), max(config.trials, 1)
    if config.strategy == "gradient":
        log_p = np.log(np.maximum(trainer.alphas.probabilities().detach().double().numpy(), 1e-12))
        candidates = selection.likely(log_p, latency, config.samples, config.finalists, config.seed)
        return selection.race(candidates, judge.loss_on, batches_, keep)
    learnt = max(config.steps - config.gradient_warm_up_steps, 1)
    passes = selection.PASSES_OF_A_STEP * learnt + selection.passes_of_race(config.finalists, batches_, keep)
    strategy = selection.random_search if config.strategy == "random" else selection.evolve
    return strategy(latency, judge.loss_on, batches_, passes, config.seed, keep)


def _try_out(job: _Job, judge: _Judge, architecture: Architecture) -> float:
    """Loss of an architecture after a short training of its own."""
    return trial_loss(
        architecture,
        job.config,
        job.fabric,
        job.halves[0],
        judge.batches,
        job.class_weights,
        job.progress.tick,
    )


def _require_on_target(latency: Latency, found: Found) -> None:
    """Show that the result does not exceed its targets.

    Raises:
        UsageError: it does, which only happens where several tables or fixed parts leave nothing that fits.
    """
    if latency.targets_ms is not None and float(latency.load(found.picked, found.heads).max()) > 1 + 1e-9:
        reached = latency.predicted_ms(found.picked, found.heads)[0] * latency.margin
        pairs = zip(reached, latency.targets_ms, strict=True)
        shown = ", ".join(f"{ms:.3f} ms for a target of {target:.3f} ms" for ms, target in pairs)
        raise UsageError(f"no architecture meets all targets with these settings; the nearest needs {shown}")


class _Judge:
    """Losses of architectures in a supernet, on fixed images as they are deployed (neither scaled nor cropped)."""

    def __init__(self, job: _Job, trainer: SupernetTrainer) -> None:
        self._trainer = trainer
        self._fabric = job.fabric
        config = job.config
        share = (job.fabric.global_rank, job.fabric.world_size)
        images = min(len(job.judged_on), JUDGE_IMAGES)
        count = max(images // (config.batch * job.fabric.world_size), 1)
        self.batches: list[Batch] = list(
            batches(job.judged_on, config.batch, 0, start=0, stop=count, workers=config.workers, share=share)
        )

    def loss_on(self, found: Found, row: int, batch: int) -> float:
        """Loss of an architecture on one of the batches."""
        with batch_statistics(self._trainer.net):
            return mean_over_processes(self._trainer.loss(Draw(found.picked[row]), self.batches[batch]), self._fabric)

    def losses_of_draws(self, config: SearchConfig) -> list[float]:
        """Losses of paths as the search draws them, over all batches each."""
        generator = torch.Generator().manual_seed(config.seed)
        losses = []
        for _ in range(DRAWS):
            with batch_statistics(self._trainer.net):
                draw = self._trainer.alphas.draw(1.0, generator)
            one = Found(draw.picked[None], np.zeros(1, np.int64))
            losses.append(float(np.mean([self.loss_on(one, 0, batch) for batch in range(len(self.batches))])))
        return losses
