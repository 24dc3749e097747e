"""The end of a search: architectures by the strategy, compared in the supernet, the best few by short trainings."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...files import write_atomic
from ...lut.table.table import network_key
from ...models.space.lgcnet import ARCHITECTURE_FILE, Architecture
from ..config import SearchConfig
from ..constraint.feasibility import require_on_target
from ..constraint.latency import Latency
from ..constraint.projection import ArchitectureBatch, architecture_of
from ..constraint.refinement import Measure, refine_by_measuring
from ..context import SearchContext
from ..runtime.batches import Batch, batches
from ..runtime.fabric import mean_over_processes
from ..runtime.run_folder import RunFolder
from ..supernet.alphas import SampledPath
from ..supernet.supernet import batch_statistics
from ..supernet.supernet_trainer import SupernetTrainer
from . import strategies as selection
from .trials import trial_loss

JUDGE_IMAGES = 128
"""Images of the architecture's half, at most, that architectures are compared on."""
DRAWS = 4
"""Paths whose mean loss is the loss before discretisation."""
TRIALS = "search-trials.json"
"""Losses of the short trainings that are finished, by architecture."""


def finalize(job: SearchContext, trainer: SupernetTrainer, latency: Latency, run: RunFolder) -> dict[str, Any]:
    """Choose the architecture by the strategy, write it, and return the result."""
    config, start = job.config, time.monotonic()
    judge = Judge(job, trainer)
    ranked = _ranked(config, trainer, latency, judge)
    require_on_target(latency, ranked.found)
    candidates = [architecture_of(ranked.found, row, latency) for row in range(len(ranked.found))]
    tried = _trials(job, judge, candidates, run) if len(candidates) > 1 else []
    best = int(np.argmin([np.inf if value is None else value for value in tried])) if tried else 0
    architecture, loss = candidates[best], ranked.losses[best]
    measured: dict[str, Any] = {}
    if job.measure is not None:
        landed = refine_by_measuring(ranked.found.take(np.array([best])), latency, _by_the_first(job, job.measure))
        architecture = architecture_of(landed[0].found, 0, latency)
        measured = {"measured_ms": landed[0].measured_ms, "corrected_ms": landed[0].predicted_ms}
        measured["landings"] = len(landed)
    predicted = [predictor.predict(architecture) for predictor in job.predictors]
    interval = job.predictors[0].interval(architecture)
    targets = None if latency.targets_ms is None else latency.targets_ms.tolist()
    common: dict[str, Any] = {
        "target_ms": None if targets is None else targets[0],
        "predicted_ms": predicted[0],
        "predicted_low_ms": interval.low_ms if interval else None,
        "predicted_high_ms": interval.high_ms if interval else None,
        **measured,
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
        "devices": [predictor.device for predictor in job.predictors],
        "seed": config.seed,
    }
    if run.active:
        architecture.model_copy(update={"provenance": {**provenance, **common}}).save(run.path / ARCHITECTURE_FILE)
    return {
        "architecture": str(run.path / ARCHITECTURE_FILE),
        **common,
        "seconds": trainer.seconds + time.monotonic() - start,
        "supernet_seconds": trainer.seconds,
        "fastest_ms": job.predictors[0].predict(job.predictors[0].fastest),
        "slowest_ms": job.predictors[0].predict(job.predictors[0].slowest),
        "operators": selection.shares(job.blocks.space.operators, np.array(architecture.choices)),
        "head_channels": job.blocks.space.heads[architecture.head],
        "tried": ranked.tried,
        "passes": ranked.passes + (_learning_passes(config, latency) if config.strategy == "gradient" else 0),
        "trial_losses": tried,
        "trial_steps": config.trial_steps if tried else 0,
        **selection.gap(judge.losses_of_draws(config), ranked.likeliest_loss, loss),
    }


def _ranked(config: SearchConfig, trainer: SupernetTrainer, latency: Latency, judge: Judge) -> selection.Ranked:
    """The best architectures by their loss in the supernet, found by the strategy."""
    batches_, keep = len(judge.batches), max(config.trials, 1)
    if config.strategy == "gradient":
        log_p = np.log(np.maximum(trainer.alphas.probabilities().detach().double().numpy(), 1e-12))
        candidates = selection.likely(log_p, latency, config.samples, config.finalists, config.seed)
        likeliest = float(np.mean([judge.loss_on(candidates, 0, batch) for batch in range(batches_)]))
        return replace(selection.race(candidates, judge.loss_on, batches_, keep), likeliest_loss=likeliest)
    passes = _learning_passes(config, latency) + selection.passes_of_race(config.finalists, batches_, keep)
    strategy = selection.random_search if config.strategy == "random" else selection.evolve
    return strategy(latency, judge.loss_on, batches_, passes, config.seed, keep)


def _learning_passes(config: SearchConfig, latency: Latency) -> int:
    """Forward passes of a whole batch that learning the architecture by gradients takes, which sees crops alone."""
    height, width = latency.blocks.space.input
    crop = config.crop or (height, width)
    steps = max(config.steps - config.gradient_warm_up_steps, 1)
    return round(selection.PASSES_OF_A_STEP * steps * crop[0] * crop[1] / (height * width))


def _trials(job: SearchContext, judge: Judge, candidates: list[Architecture], run: RunFolder) -> list[float | None]:
    """Losses after a short training of each; None where it diverged. What an earlier call finished is not repeated."""
    file = run.path / TRIALS
    known: dict[str, float | None] = job.fabric.broadcast(
        json.loads(file.read_text()) if run.active and file.exists() else {}
    )
    for one in candidates:
        name = network_key(one, job.config.scope)
        if name in known:
            job.progress.skip(job.config.trial_steps)
        else:
            loss = trial_loss(
                one, job.config, job.fabric, job.halves[0], judge.batches, job.class_weights, job.progress.tick
            )
            known[name] = loss if np.isfinite(loss) else None
            if run.active:
                write_atomic(file, json.dumps(known, indent=2) + "\n")
    return [known[network_key(one, job.config.scope)] for one in candidates]


def _by_the_first(job: SearchContext, measure: Measure) -> Measure:
    """The measurement by the first process, which tells the others."""
    fabric = job.fabric
    return lambda architecture: float(fabric.broadcast(measure(architecture) if fabric.is_global_zero else 0.0))


class Judge:
    """Losses of architectures in a supernet, on fixed images as they are deployed (neither scaled nor cropped)."""

    def __init__(self, job: SearchContext, trainer: SupernetTrainer) -> None:
        self._trainer = trainer
        self._fabric = job.fabric
        config = job.config
        share = (job.fabric.global_rank, job.fabric.world_size)
        images = min(len(job.judged_on), JUDGE_IMAGES)
        count = max(images // (config.batch * job.fabric.world_size), 1)
        read = batches(job.judged_on, config.batch, 0, start=0, stop=count, workers=config.workers, share=share)
        # Labels are kept as bytes: an eighth of the memory, for as long as the choice takes.
        self.batches: list[Batch] = [(images, labels.to(torch.uint8)) for images, labels in read]

    def loss_on(self, found: ArchitectureBatch, row: int, batch: int) -> float:
        """Loss of an architecture on one of the batches."""
        with batch_statistics(self._trainer.net):
            return mean_over_processes(
                self._trainer.loss(SampledPath(found.picked[row]), self.batches[batch]), self._fabric
            )

    def losses_of_draws(self, config: SearchConfig) -> list[float]:
        """Losses of paths as the search draws them, over all batches each."""
        generator = torch.Generator().manual_seed(config.seed)
        losses = []
        for _ in range(DRAWS):
            with batch_statistics(self._trainer.net):
                draw = self._trainer.alphas.draw(1.0, generator)
            one = ArchitectureBatch(draw.picked[None], np.zeros(1, np.int64))
            losses.append(float(np.mean([self.loss_on(one, 0, batch) for batch in range(len(self.batches))])))
        return losses
