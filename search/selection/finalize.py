"""The end of a search: rank candidates in the supernet, compare the best by trials, refine and write the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import TypeAdapter

from ...errors import FileFormatError
from ...files import describe, write_atomic
from ...lut.table.table import network_key
from ...models.nets.network import get_geometry
from ...models.space.cost import Array
from ...models.space.lgcnet import LGCNetArchitecture
from ...models.space.protocol import ARCHITECTURE_FILE, Architecture
from ..config import SearchConfig
from ..constraint.constraint import CostConstraint
from ..constraint.feasibility import require_targets_met
from ..constraint.projection import ArchitectureBatch, build_architecture
from ..constraint.refinement import MeasuredArchitecture, MeasureLatency, refine_by_measurement
from ..context import SearchContext
from ..results import SearchResult, TableTarget
from ..runtime.batches import Batch, load_batches
from ..runtime.fabric import average_over_processes
from ..runtime.run_folder import RunFolder
from ..supernet.alphas import SampledPath
from ..supernet.blocks import BlockDecisions
from ..supernet.supernet import use_batch_statistics
from ..supernet.supernet_trainer import SupernetTrainer
from ..training.config import SINGLE, divide_batch
from ..training.scores import count_confusions
from . import strategies
from .trials import CandidateTrials, Trial, derive_trial_seed, run_trial

if TYPE_CHECKING:
    from pydantic import JsonValue

MAX_SCORING_IMAGES = 128
"""Maximum number of images, from the architecture's half, on which architectures are compared."""
NUM_SAMPLED_PATHS = 4
"""Number of paths whose mean loss is the loss before discretisation."""
TRIALS_FILE = "search-trials.json"
"""Finished trials, by architecture."""
_TRIALS = TypeAdapter(Mapping[str, list[Trial] | Trial | float | None])
"""Content of that file; earlier versions wrote a single trial, before that its loss alone."""
PROVENANCE = (
    "target_ms",
    "target_fps",
    "median_ratio",
    "predicted_ms",
    "predicted_low_ms",
    "predicted_high_ms",
    "measured_ms",
    "corrected_ms",
    "landings",
    "steps",
    "scope",
    "strategy",
    "tables",
)
"""Keys of the result that the architecture's provenance has too."""


def finalize(
    context: SearchContext, trainer: SupernetTrainer, constraint: CostConstraint, run: RunFolder
) -> SearchResult:
    """Choose the architecture by the strategy, write it, and return the result."""
    config, start = context.config, time.monotonic()
    scorer = SupernetScorer(context, trainer)
    ranking = _rank_candidates(config, trainer, constraint, scorer)
    rates = _find_fps(config, constraint)
    require_targets_met(constraint, ranking.architectures, rates)
    candidates = [build_architecture(ranking.architectures, row, constraint) for row in range(len(ranking.losses))]
    trials = _run_trials(context, scorer, candidates, run) if len(candidates) > 1 else []
    best = min(range(len(trials)), key=lambda number: trials[number].rank, default=0)
    architecture, refined = _refine(context, constraint, ranking.architectures.select(np.array([best])))
    own = LGCNetArchitecture.require(architecture)
    loss_before, loss_likeliest = float(np.mean(scorer.score_samples(config))), ranking.likeliest_loss
    predictor = context.predictors[0]
    interval, predicted_ms = predictor.interval(architecture), predictor.predict(architecture)
    target_fps = next(iter(rates), None)
    result = SearchResult(
        architecture=run.path / ARCHITECTURE_FILE,
        target_ms=None if constraint.targets is None else float(constraint.targets[0]),
        target_fps=target_fps,
        predicted_fps=None if target_fps is None else predictor.to_fps(predicted_ms),
        median_ratio=None if target_fps is None else predictor.median_ratio,
        predicted_ms=predicted_ms,
        predicted_low_ms=interval.low_ms if interval else None,
        predicted_high_ms=interval.high_ms if interval else None,
        measured_ms=refined[0].measured_ms if refined else None,
        corrected_ms=refined[0].predicted_ms if refined else None,
        refinements=len(refined) or None,
        steps=config.steps,
        scope=config.scope,
        strategy=config.strategy,
        tables=_list_tables(context, constraint, architecture),
        seconds=trainer.seconds + time.monotonic() - start,
        supernet_seconds=trainer.seconds,
        waiting_pct=trainer.waiting_pct,
        fastest_ms=predictor.range_ms[0],
        slowest_ms=predictor.range_ms[1],
        operators=_count_operators(own),
        head_channels=own.head_width,
        widths=own.widths,
        tried=ranking.num_compared,
        passes=ranking.passes + (_count_learning_passes(config, constraint) if config.strategy == "gradient" else 0),
        trial_losses=[trial.loss for trial in trials],
        trial_mious=[trial.miou for trial in trials],
        trial_seeds=[trial.seed for candidate in trials for trial in candidate.trials],
        trial_steps=config.trial_steps if trials else 0,
        trial_miou=trials[best].miou if trials else None,
        loss_before=loss_before,
        loss_likeliest=loss_likeliest,
        gap=None if loss_likeliest is None else loss_likeliest - loss_before,
        loss_after=ranking.losses[best],
        supernet_miou=ranking.evaluations[best].miou,
    )
    if run.active:
        provenance = _describe_provenance(context, result)
        architecture.with_provenance(provenance).save(result.architecture)
    return result


def _count_operators(architecture: LGCNetArchitecture) -> dict[str, int]:
    """Return the number of edges of each operator of the space."""
    space = architecture.space
    known = (name for decision in space.decisions[: space.edges] for name in decision.choices)
    return strategies.count_operators(known, [name for _, names in architecture.iter_cells() for name in names])


def _refine(
    context: SearchContext, constraint: CostConstraint, chosen: ArchitectureBatch
) -> tuple[Architecture, list[MeasuredArchitecture]]:
    """Refine the chosen architecture by measurement, if requested; return it and all measurements, best first."""
    if context.measure is None:
        return build_architecture(chosen, 0, constraint), []
    refined = refine_by_measurement(chosen, constraint, _measure_on_first_process(context, context.measure))
    return build_architecture(refined[0].architecture, 0, constraint), refined


def _list_tables(
    context: SearchContext, constraint: CostConstraint, architecture: Architecture
) -> tuple[TableTarget, ...]:
    """Return a row for each table, where there are several or a quantile."""
    predictors = context.predictors
    if len(predictors) == 1 and context.config.quantile is None:
        return ()
    targets = [None] * len(predictors) if constraint.targets is None else constraint.targets.tolist()
    rates = _find_fps(context.config, constraint) or [None] * len(predictors)
    predictions = [predictor.predict(architecture) for predictor in predictors]
    return tuple(
        TableTarget(
            str(predictor.table_path),
            target,
            ms,
            ms * float(margin),
            fps,
            None if fps is None else predictor.to_fps(ms),
        )
        for predictor, target, ms, margin, fps in zip(
            predictors, targets, predictions, constraint.margin, rates, strict=True
        )
    )


def _find_fps(config: SearchConfig, constraint: CostConstraint) -> tuple[float | None, ...]:
    """Return the frame rates that the constraint's targets were converted from; empty without targets."""
    return config.find_fps(None if constraint.targets is None else constraint.targets.tolist())


def _describe_provenance(context: SearchContext, result: SearchResult) -> dict[str, JsonValue]:
    """Return the origin of the architecture: tables, devices and seed, and its latency from the result."""
    content = result.as_dict()
    return {
        "found_by": "lgc-search",
        "table": str(context.predictors[0].table_path.resolve()),
        "latency": [predictor.fingerprint for predictor in context.predictors],
        "devices": [predictor.device for predictor in context.predictors],
        "targets": [str(predictor.target) for predictor in context.predictors],
        "device_names": [predictor.device_name for predictor in context.predictors],
        "seed": context.config.seed,
        **{name: content[name] for name in PROVENANCE if name in content},
    }


def _rank_candidates(
    config: SearchConfig, trainer: SupernetTrainer, constraint: CostConstraint, scorer: SupernetScorer
) -> strategies.Ranking:
    """Rank the strategy's candidates by their mIoU in the supernet."""
    num_batches, keep = len(scorer.batches), max(config.trials, 1)
    passes = strategies.count_halving_passes(config.finalists, num_batches, keep)
    if config.strategy != "gradient":
        passes += _count_learning_passes(config, constraint)
    task = strategies.StrategyTask(
        constraint=constraint,
        evaluate=scorer.evaluate,
        batches=num_batches,
        log_p=_list_log_probabilities(trainer),
        passes=passes,
        samples=config.samples,
        finalists=config.finalists,
        seed=config.seed,
        keep=keep,
    )
    return strategies.STRATEGIES[config.strategy](task)


def _list_log_probabilities(trainer: SupernetTrainer) -> Array:
    """Return the log-probabilities of the searched choices, [S, C]; -inf for missing ones."""
    log_p = np.log(np.maximum(trainer.alphas.probabilities().detach().double().numpy(), 1e-12))
    return np.where(trainer.alphas.missing.numpy(), -np.inf, log_p)


def _count_learning_passes(config: SearchConfig, constraint: CostConstraint) -> int:
    """Return the forward passes, of whole images, that learning the architecture by gradients on crops amounts to."""
    decisions = constraint.decisions
    assert isinstance(decisions, BlockDecisions)
    height, width = decisions.space.input
    crop = config.crop or (height, width)
    steps = max(config.steps - config.gradient_warm_up_steps, 1)
    rivals = int((decisions.contested & ~decisions.are_widths).any()) + int(decisions.are_widths.any())
    passes = strategies.PASSES_PER_STEP + rivals * strategies.RIVAL_PASSES
    return round(passes * steps * crop[0] * crop[1] / (height * width))


def _run_trials(
    context: SearchContext, scorer: SupernetScorer, candidates: list[Architecture], run: RunFolder
) -> list[CandidateTrials]:
    """Return the trials of each candidate: one of all, another one of the better half, and so on.

    Trials that an earlier call finished are not repeated.
    """
    file, config, fabric = run.path / TRIALS_FILE, context.config, context.fabric
    finished: dict[str, list[Trial]] = fabric.broadcast(_read_trials(file) if run.active else {})
    keys = [network_key(architecture, config.scope) for architecture in candidates]
    alive = list(range(len(candidates)))
    for index in range(config.trial_seeds):
        for number in alive:
            trials = finished.setdefault(keys[number], [])
            if len(trials) > index:
                context.progress.skip(config.trial_steps)
                continue
            seed = derive_trial_seed(config.seed, number * config.trial_seeds + index)
            trial = run_trial(
                candidates[number],
                config.make_trial(seed),
                fabric,
                context.halves[0],
                scorer.batches,
                context.class_weights,
                context.progress.advance,
            )
            trials.append(trial)
            if run.active:
                write_atomic(file, _TRIALS.dump_json(finished, indent=2).decode() + "\n")
        alive.sort(key=lambda number: CandidateTrials(tuple(finished[keys[number]][: index + 1])).rank)
        alive = alive[: -(-len(alive) // 2)]
    return [CandidateTrials(tuple(finished[key])) for key in keys]


def _read_trials(file: Path) -> dict[str, list[Trial]]:
    """Return the finished trials in a file; without those of earlier versions, which had a different recipe."""
    if not file.exists():
        return {}
    try:
        trials = _TRIALS.validate_json(file.read_bytes())
    except ValueError as error:
        raise FileFormatError(f"{file} is damaged ({describe(file)}): delete it to repeat the trials") from error
    return {
        key: own
        for key, own in trials.items()
        if isinstance(own, list) and not any(trial.heads == SINGLE for trial in own)
    }


def _measure_on_first_process(context: SearchContext, measure: MeasureLatency) -> MeasureLatency:
    """Return a measurement that the first process makes and broadcasts."""
    fabric = context.fabric
    return lambda architecture: float(fabric.broadcast(measure(architecture) if fabric.is_global_zero else 0.0))


class SupernetScorer:
    """Evaluation of architectures in a supernet, on fixed batches of images as deployed: not scaled, not cropped."""

    def __init__(self, context: SearchContext, trainer: SupernetTrainer) -> None:
        self._trainer, self._fabric = trainer, context.fabric
        self._num_searched = context.decisions.num_searched
        config, processes = context.config, context.fabric.world_size
        images = min(len(context.held_out), MAX_SCORING_IMAGES)
        batches = load_batches(
            context.held_out,
            divide_batch(config.batch, processes),
            0,
            start=0,
            stop=max(images // config.batch, 1),
            workers=config.workers or 0,
            shard=(context.fabric.global_rank, processes),
        )
        # Labels as bytes take an eighth of the memory.
        self.batches: list[Batch] = [(images, labels.to(torch.uint8)) for images, labels in batches]

    def evaluate(self, architectures: ArchitectureBatch, row: int, batch: int) -> strategies.Evaluation:
        """Return the loss of an architecture on one of the batches, and its confusion matrix."""
        with use_batch_statistics(self._trainer.net):
            path = SampledPath(architectures.choices[row, : self._num_searched])
            logits, labels = self._trainer.compute_logits(path, self.batches[batch])
            loss = average_over_processes(self._trainer.average_loss(logits, labels), self._fabric)
            counts = count_confusions(logits, labels, get_geometry(self._trainer.net))
            total = torch.as_tensor(self._fabric.all_reduce(counts, reduce_op="sum"))
            return strategies.Evaluation(loss, 1, total.cpu().numpy())

    def score_samples(self, config: SearchConfig) -> list[float]:
        """Return the losses of sampled paths, each over all batches."""
        generator = torch.Generator().manual_seed(config.seed)
        losses = []
        for _ in range(NUM_SAMPLED_PATHS):
            with torch.no_grad():
                sample = self._trainer.alphas.sample_path(1.0, generator)
            path = ArchitectureBatch(sample.choices[None])
            evaluations = [self.evaluate(path, 0, batch) for batch in range(len(self.batches))]
            losses.append(float(np.mean([evaluation.loss for evaluation in evaluations])))
        return losses
