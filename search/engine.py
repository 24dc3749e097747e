"""The search: train a supernet, then choose an architecture from it for each point of latency targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..device import CPU
from ..lut.predictor import Predictor
from ..models.space.lgcnet import LGCNetSpace
from ..models.space.protocol import ARCHITECTURE_FILE, Space
from .config import SearchConfig, SearchRunConfig
from .constraint.constraint import CostConstraint
from .constraint.exploration import draw_paths
from .constraint.feasibility import (
    describe_inactive_targets,
    name_point_folder,
    require_common_space,
    require_feasible,
)
from .constraint.refinement import MeasureLatency, require_refinable
from .context import SearchContext, SearchProgress
from .crops import require_crop
from .data.cache.opening import cache_datasets
from .data.datasets import load_dataset, require_classes, split_halves
from .data.description import read_dataset
from .results import FrontResult, SearchResult
from .runtime.fabric import explain_out_of_memory, open_fabric, require_equal_settings
from .runtime.provenance import hash_images, write_provenance
from .runtime.run_folder import OnStep, RunFolder
from .runtime.run_settings import BATCH_PER_PROCESS, announce_earlier_version, resume_settings
from .runtime.training_loop import restore_checkpoint
from .runtime.workers import choose_workers
from .selection.finalize import finalize
from .supernet.blocks import BlockDecisions
from .supernet.supernet_trainer import SupernetTrainer
from .training.config import HOST_FIELDS, divide_batch
from .training.losses import compute_class_weights, require_labelled

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ..models.nets.definition import Log

SEARCH_STAGE = "search"
SEARCH_EPOCHS = 80
"""Default length of a search, in epochs. Assumption: as in GAS."""


def search(
    predictors: Predictor | Sequence[Predictor],
    data: Path,
    out: Path,
    config: SearchConfig,
    *,
    device: str = CPU,
    precision: str | None = None,
    measure: MeasureLatency | None = None,
    on_step: OnStep = lambda step, steps: None,
    on_cache: OnStep = lambda step, steps: None,
    log: Log = print,
) -> SearchResult | FrontResult:
    """Search a space for architectures; with one point of targets or none, the result is `out`/architecture.json.

    With several points, all share the warm-up, and each has its own run folder under `out`. An interrupted search
    resumes from its last checkpoint; a finished one returns its result. Both keep their own settings where `config` has
    none: those that are not passed to its constructor. Under torchrun every process makes the same call and gets the
    result.

    Args:
        predictors: space and latencies: one predictor per table, all for the same space and scope.
        data: `dataset.yaml` or folder of a dataset.
        out: run folder.
        config: settings.
        device: device for the supernet's training, `cpu` or `cuda:N`; it may differ from the tables' devices.
        precision: precision of the supernet's training: `fp32`, `bf16` or `fp16`; None for that of a resumed run, else
            fp32.
        measure: measurement for the refinement of results; see `refinement`.
        on_step: callback for the number of finished steps and the total.
        on_cache: callback for the number of images decoded into a cache and the total.
        log: receives remarks on the settings of a resumed run and on the loading of data.

    Returns:
        The architecture's path, its latency, and statistics of the search; with several points, a front of these.

    Raises:
        UsageError: no architecture of the space meets a target, or settings contradict each other.
        OutputError: `out` holds other files or a different search.
        DataError: the data do not suit the space.
        TrainingError: a loss is NaN or infinite, or memory ran out.
    """
    tables = [predictors] if isinstance(predictors, Predictor) else list(predictors)
    given = config.model_dump(exclude_unset=True) | ({} if precision is None else {"precision": precision})
    announce_earlier_version(out, SEARCH_STAGE, log)
    config = SearchRunConfig(**resume_settings(SearchRunConfig, given, out, SEARCH_STAGE, log))
    config = _choose_strategy(config, tables, log)
    context = _open_context(tables, data, out, config, device, on_step)
    if measure is not None:
        require_refinable(config, len(tables))
        context = replace(context, measure=measure, settings=context.settings | {"landing": "measured"})
    run = RunFolder(out, SEARCH_STAGE, context.settings, active=context.fabric.is_global_zero)
    several = len(config.targets_ms) > 1
    kind: type[SearchResult | FrontResult] = FrontResult if several else SearchResult
    finished = context.fabric.broadcast(run.read_result(kind) if run.active else None)
    if finished is not None:
        return _relocate(out, finished, config)
    if run.active:
        write_provenance(out, tables, context.halves)
    context = _prepare_loading(context, on_cache, log)
    with explain_out_of_memory("--batch or --crop"):
        result = _search_front(context, run) if several else _search_single(context, run)
    return run.finish(result)


def _choose_strategy(config: SearchRunConfig, tables: Sequence[Predictor], log: Log) -> SearchRunConfig:
    """Return the settings with the strategy for the tables' space: random by default if it searches widths."""
    space = LGCNetSpace.require(require_common_space(tables, config))
    if space.searches_widths and "strategy" not in config.model_fields_set:
        log(f"strategy: random, since space {space.name} searches widths (others: --strategy gradient, evolution)")
        config = config.model_copy(update={"strategy": "random"})
    if config.strategy != "gradient" and not config.targets_ms:
        log(f"no target: latency does not count in --strategy {config.strategy}; in gradient it does, by --beta")
    return config


def _open_context(
    tables: Sequence[Predictor],
    data: Path,
    out: Path,
    config: SearchRunConfig,
    device: str,
    on_step: OnStep,
) -> SearchContext:
    """Validate tables, settings and data, and open the dataset and the device."""
    decisions = _make_decisions(tables, config)
    space = decisions.space
    require_feasible(decisions, tables, config)
    require_crop(config.crop, space)
    spec = read_dataset(data)
    augmented = load_dataset(spec, "train", space.input, augment=True, seed=config.seed, crop=config.crop)
    plain = load_dataset(spec, "train", space.input, seed=config.seed)
    require_classes(plain, space.classes, space.name)
    contiguous = config.halves == "contiguous"
    halves = split_halves(augmented, config.seed, contiguous=contiguous)
    for half, purpose in zip(halves, ("weights", "architecture"), strict=True):
        require_labelled(half, "train", f"the half of it for the {purpose}")
    fabric = open_fabric(device, config.precision)
    require_equal_settings(config.model_dump(mode="json", exclude=HOST_FIELDS), fabric)
    settings: dict[str, JsonValue] = {
        **config.model_dump(mode="json", exclude=HOST_FIELDS),
        "space": space.fingerprint,
        "data": str(data.resolve()),
        **plain.spec.settings,
        "images": [hash_images(half) for half in halves],
        "latency": [predictor.fingerprint for predictor in tables],
        "processes": fabric.world_size,
        BATCH_PER_PROCESS: divide_batch(config.batch, fabric.world_size),
    }
    return SearchContext(
        predictors=tables,
        decisions=decisions,
        config=config,
        fabric=fabric,
        images=plain,
        halves=halves,
        held_out=split_halves(plain, config.seed, contiguous=contiguous)[1],
        settings=settings,
        out=out,
        progress=SearchProgress(on_step, config),
    )


def _prepare_loading(context: SearchContext, on_cache: OnStep, log: Log) -> SearchContext:
    """Return the context with a cache of the images, the number of data-loading processes, and class weights."""
    config, fabric = context.config, context.fabric
    views = config.steps * config.batch
    (images,) = cache_datasets([context.images], config.cache, views=views, log=log, on_step=on_cache)
    weights, architecture = (half.use_store(images.store) for half in context.halves)
    batch = divide_batch(config.batch, fabric.world_size)
    workers = choose_workers(config.workers, ((weights, batch), (architecture, batch)), fabric, log)
    return replace(
        context,
        config=config.model_copy(update={"workers": workers}),
        halves=(weights, architecture),
        held_out=context.held_out.use_store(images.store),
        class_weights=compute_class_weights(images) if config.balanced else None,
    )


def _make_decisions(tables: Sequence[Predictor], config: SearchConfig) -> BlockDecisions:
    space = LGCNetSpace.require(require_common_space(tables, config))
    return BlockDecisions(space, shared=config.cells == "shared", fixed_fusion=config.fusion == "fixed")


def list_inactive_targets(tables: Sequence[Predictor], config: SearchConfig) -> list[str]:
    """Return a line for each point of targets that every architecture meets.

    Raises:
        UsageError: as in `search`.
    """
    return describe_inactive_targets(_make_decisions(tables, config), tables, config)


def default_search_steps(data: Path, space: Space, batch: int) -> int:
    """Return the steps of `SEARCH_EPOCHS` passes over half of the training images.

    Raises:
        MismatchError: lgc cannot build networks of the space.
    """
    half = len(load_dataset(data, "train", LGCNetSpace.require(space).input)) // 2
    return SEARCH_EPOCHS * max(half // batch, 1)


def _search_single(context: SearchContext, run: RunFolder) -> SearchResult:
    """Search for one result, in the run folder itself."""
    config = context.config
    trainer = _build_trainer(context, config.targets_ms[:1])
    restore_checkpoint(trainer, run.checkpoint)
    trainer.train_until(config.steps, context.halves, run, context.progress.make_callback(0))
    context.progress.set_finished(config.steps)
    return finalize(context, trainer, trainer.constraint, run)


def _search_front(context: SearchContext, run: RunFolder) -> FrontResult:
    """Search for one result per point, after a shared warm-up."""
    config, progress = context.config, context.progress
    warm_up, points = config.warm_up_steps, config.targets_ms
    trainer = _build_trainer(context, points)
    restore_checkpoint(trainer, run.checkpoint)
    trainer.train_until(warm_up, context.halves, run, progress.make_callback(0))
    shared, seconds, results = trainer.snapshot(), trainer.seconds, list[SearchResult]()
    for index, point in enumerate(points):
        settings = context.settings | {"targets_ms": [list(point)], "point": index}
        point_run = RunFolder(context.out / name_point_folder(point), SEARCH_STAGE, settings, active=run.active)
        result = context.fabric.broadcast(point_run.read_result(SearchResult) if point_run.active else None)
        if result is None:
            trainer = _build_trainer(context, [point])
            trainer.continue_warm_up(shared)
            restore_checkpoint(trainer, point_run.checkpoint)
            offset = index * progress.steps_per_point
            trainer.train_until(config.steps, context.halves, point_run, progress.make_callback(offset))
            progress.set_finished(offset + config.steps)
            result = point_run.finish(finalize(context, trainer, trainer.constraint, point_run))
        results.append(replace(result, architecture=point_run.path / ARCHITECTURE_FILE))
        seconds += result.seconds - shared["seconds"]
    front = tuple(replace(result, dominated=any(other.dominates(result) for other in results)) for result in results)
    return FrontResult(front, config.steps, warm_up, seconds)


def _relocate(out: Path, result: SearchResult | FrontResult, config: SearchConfig) -> SearchResult | FrontResult:
    """Return a finished result with the paths of the folder's present location."""
    if isinstance(result, SearchResult):
        return replace(result, architecture=out / ARCHITECTURE_FILE)
    folders = [out / name_point_folder(point) for point in config.targets_ms]
    rows = zip(result.front, folders, strict=True)
    return replace(result, front=tuple(replace(row, architecture=folder / ARCHITECTURE_FILE) for row, folder in rows))


def _build_trainer(context: SearchContext, points: Sequence[Sequence[float]]) -> SupernetTrainer:
    """Return a new trainer whose loss has the latency term of the first point of targets, and that explores all."""
    decisions, config = context.decisions, context.config
    targets: Sequence[Sequence[float] | None] = points or [None]
    constraints = [
        CostConstraint.from_predictors(decisions, context.predictors, point, config.quantile) for point in targets
    ]
    paths = draw_paths(constraints, config.seed)
    return SupernetTrainer(decisions, config, context.fabric, constraints[0], context.class_weights, paths)
