"""`lgc-search`: search a space for architectures under latency targets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import LgcError, UsageError
from ..files import write_atomic
from ..search.config import DECAYS, LAST_LRS, WEIGHT_LRS, SearchRunConfig
from .cli.console import (
    RESUMES_FROM_CHECKPOINT,
    announce_dataset,
    count_processes,
    emit,
    format_count,
    is_first_process,
    new_app,
    pick_device,
    run,
    say,
    share_cores,
)
from .cli.lut_show import warn_of_error
from .cli.model_options import CACHE_DEFAULT, WORKERS_DEFAULT, add_options, describe_defaults
from .cli.options import (
    DataOption,
    JsonOption,
    PluginOption,
    is_given,
    load_operators,
    make_device_option,
    make_range_option,
    make_space_option,
    suggest_command,
)
from .cli.progress import announce_resumption, make_step_progress, progress_bar
from .cli.tables.search_table import format_results, format_seeds, make_search_table

if TYPE_CHECKING:
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable
    from ..models.space.protocol import SearchSpace
    from ..profiler.profile import ProfileResult
    from ..search.results import FrontResult, SearchResult

MAX_IDLE_SHARE = 0.6
"""Share of zero and skip edges above which a result is reported as collapsed."""

MAX_INTERVAL_PCT = 10.0
"""Half width of a table's prediction interval above which a warning is printed."""

SEARCH_FIELDS = ("quantile", "strategy", "steps", "batch", "crop", "cells", "communication", "fusion", "latency_term",
          "balanced", "optimiser", "weight_lr", "weight_lr_end", "weight_decay", "arch_lr", "arch_decay", "warm_up",
          "explore", "temperature", "temperature_end", "gamma", "embedding", "beta", "multiplier_lr", "samples",
          "finalists", "trials", "trial_seeds", "trial_share", "scope", "workers", "cache", "halves",
          "seed", "precision")  # fmt: skip
"""Fields of `SearchRunConfig` that are options."""

ABOVE_ZERO = {"exclusiveMinimum": 0.0}
"""Bounds of targets."""

app = new_app()


TargetMsOption = Annotated[
    list[float] | None,
    make_range_option(
        "--target-ms",
        "Maximum latency in ms; repeat for several tables, or for a front of architectures.",
        ABOVE_ZERO,
        metavar="MS",
    ),
]
TargetFpsOption = Annotated[
    list[float] | None,
    make_range_option(
        "--target-fps",
        "Minimum frames per second, of the median of all runs, instead of --target-ms; repeatable.",
        ABOVE_ZERO,
        metavar="FPS",
    ),
]
MeasureOption = Annotated[
    bool,
    typer.Option("--measure", help="Measure the result on the table's device, and refine it to meet the target."),
]


SeedsOption = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Searches with as many seeds from --seed on, each in its folder RUN/seed-N; compared."
    ),
]


@app.command()
@add_options(
    SearchRunConfig,
    *SEARCH_FIELDS,
    steps="80 epochs of half the images",
    weight_lr=describe_defaults(WEIGHT_LRS),
    weight_lr_end=describe_defaults(LAST_LRS),
    weight_decay=describe_defaults(DECAYS),
    arch_lr="14 / steps after the warm-up, 0.001 to 0.05",
    communication="gcn; none with shared cells",
    workers=WORKERS_DEFAULT,
    cache=CACHE_DEFAULT,
)
def search(
    context: typer.Context,
    lut: Annotated[list[Path], typer.Option(metavar="T.lut", help="Latency table of a target device; repeatable.")],
    data: DataOption,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder; an interrupted search in it is resumed.")],
    space: Annotated[str | None, make_space_option("the table's")] = None,
    target_ms: TargetMsOption = None,
    target_fps: TargetFpsOption = None,
    measure: MeasureOption = False,
    seeds: SeedsOption = 1,
    device: Annotated[str | None, make_device_option("the table's GPU, else cpu", "to train the supernet on")] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Search a space for an architecture, with latency predicted from a table.

    Without a target, --beta trades latency against the loss. Several targets share the warm-up and give a front of
    architectures. With several tables, one architecture meets a target on each of them.

    Example: lgc-search --lut tiny.lut --data scenes --target-ms 5 --steps 200 --out runs/street
    """
    if is_given(context, "beta") and not settings["latency_term"]:
        raise UsageError("--beta is the weight of the latency term: remove it or --no-latency-term")
    from ..search.runtime.run_settings import name_result, resume_settings

    given = {name: value for name, value in settings.items() if is_given(context, name)}
    given |= _group_targets(target_ms, target_fps, len(lut))
    first_seed = _find_first_seed(out, given.get("seed"))
    folders = _list_folders(out, seeds, first_seed, given)
    settings = resume_settings(SearchRunConfig, given, next(iter(folders)), "search", say)
    config = SearchRunConfig(**{"steps": 1, **settings})
    share_cores()
    load_operators(plugin)
    predictors, warnings = _open_predictors(lut, space, data, config.scope, out, bool(config.targets_ms))
    targets_ms, conversions = _convert_frame_rates(config.targets_fps, predictors)
    from ..search.engine import default_search_steps, list_inactive_targets  # imports torch, as do the next
    from ..search.results import FrontResult, SeedsResult

    steps = settings.get("steps") or default_search_steps(data, predictors[0].space, config.batch)
    config = config.model_copy(update={"steps": steps, "targets_ms": targets_ms or config.targets_ms})
    warnings = [*conversions, *list_inactive_targets(predictors, config), *warnings]
    chosen_device = pick_device(device, [predictor.device for predictor in predictors], "searching")
    runs = [
        _search_folder(predictors, data, folder, own, chosen_device, measure, warnings)
        for folder, own in ((folder, _change_seed(config, seed)) for folder, seed in folders.items())
    ]
    results = [row for each in runs for row in (each.front if isinstance(each, FrontResult) else [each])]
    result = runs[0] if seeds == 1 else SeedsResult.from_searches(first_seed, results)
    if isinstance(result, SeedsResult) and is_first_process():
        write_atomic(name_result(out, "seeds"), json.dumps(result.as_dict(), indent=2) + "\n")
    _warn_if_collapsed(results)
    best = result.best.architecture.parent if isinstance(result, SeedsResult) else out
    following = [] if isinstance(result, FrontResult) else [suggest_command("lgc-train", best, "--data", data)]
    summary = format_seeds(result) if isinstance(result, SeedsResult) else []
    table = make_search_table(results, result.seeds if isinstance(result, SeedsResult) else ())
    emit(result.as_dict(), as_json, table, *format_results(results), *summary, *following)


def _find_first_seed(out: Path, given: int | None) -> int:
    """Return the first seed of several searches: as given, else the lowest that an earlier command began with."""
    if given is not None:
        return given
    begun = [folder.name.removeprefix("seed-") for folder in out.glob("seed-*")]
    return min((int(seed) for seed in begun if seed.isdecimal()), default=0)


def _list_folders(out: Path, seeds: int, first: int, given: Mapping[str, Any]) -> dict[Path, int | None]:
    """Return the run folder of each search, with its seed; None for that of the settings.

    Raises:
        UsageError: there are several seeds and several points of targets.
    """
    if seeds == 1:
        return {out: None}
    if (out / "search.json").exists():
        raise UsageError(f"{out} holds a single search: choose another --out for --seeds")
    if len(given.get("targets_ms", ())) > 1:
        raise UsageError("--seeds is for a single point of targets: leave it out, or all targets but one")
    return {out / f"seed-{seed}": seed for seed in range(first, first + seeds)}


def _change_seed(config: SearchRunConfig, seed: int | None) -> SearchRunConfig:
    return config if seed is None else config.model_copy(update={"seed": seed})


def _search_folder(
    predictors: Sequence[Predictor],
    data: Path,
    out: Path,
    config: SearchRunConfig,
    device: str,
    measure: bool,
    warnings: list[str],
) -> SearchResult | FrontResult:
    """Search with a progress bar, and print the warnings with the first step; return the result."""
    from ..profiler.deployment.latency import make_latency_meter
    from ..search.engine import search as run_search
    from ..search.runtime.run_folder import is_finished

    finished = is_finished(out, "search")
    with progress_bar() as on_progress:
        count = announce_resumption(make_step_progress("searching", on_progress))

        def on_step(step: int, steps: int) -> None:
            _print_all(warnings)
            count(step, steps)

        result = run_search(
            predictors,
            data,
            out,
            config,
            device=device,
            measure=make_latency_meter(predictors[0].table_path, config.scope) if measure else None,
            on_step=on_step,
            on_cache=make_step_progress("decoding", on_progress),
            log=say,
        )
    _print_all(warnings)
    if finished:
        say(f"{out} is finished: nothing was searched; for a longer search, choose another --out")
    return result


def _print_all(warnings: list[str]) -> None:
    """Print the warnings once: with the first step, so that a refused search prints its error only."""
    while warnings:
        say(warnings.pop(0))


def _open_predictors(
    paths: Sequence[Path], space: str | None, data: Path, scope: str, out: Path, aims: bool
) -> tuple[list[Predictor], list[str]]:
    """Return the predictors of tables for the classes of a dataset, and warnings about the tables.

    `aims` is True with a target, which a wide interval may miss.
    """
    from ..lut.table.spaces import load_space
    from ..lut.table.table import LatencyTable
    from ..models.space.protocol import SearchSpace

    requested = None if space is None else SearchSpace.require(load_space(space))
    with ExitStack() as stack:
        tables = [stack.enter_context(LatencyTable.open(path)) for path in paths]
        classes = announce_dataset(data, "train").num_classes
        matching = [_match_classes(table, requested, data, classes, out.parent) for table in tables]
    spaced = None if requested is None else requested.with_classes(classes)
    predictors, remarks = zip(*(_open_predictor(path, spaced, scope, aims) for path in matching), strict=True)
    return list(predictors), [remark for remark in remarks if remark is not None]


def _match_classes(table: LatencyTable, requested: SearchSpace | None, data: Path, classes: int, folder: Path) -> Path:
    """Return the path of a table for a number of classes: `table`, or one derived from it in `folder`.

    What the derived table lacks is measured if the table's device is present.

    Raises:
        UsageError: the entries have to be measured, and this machine cannot, or several processes would.
        MismatchError: the derived table's file is another table.
    """
    from ..lut.exchange.derive import differ_in_classes
    from ..models.space.protocol import SearchSpace

    own = SearchSpace.require(table.space)
    space = (requested or own).with_classes(classes)
    if not differ_in_classes(own, space):
        return table.path  # also if they differ in more: the predictor explains how
    from ..profiler.derivation import has_derived, profile_derived, require_measurable

    path = folder / f"{table.path.stem}-{classes}classes.lut"
    difference = f"{table.path} is for {own.classes} classes, the dataset {data} has {classes}"
    if has_derived(table, classes, path):
        say(f"{difference}: using {path}, derived from it")
        return path
    command = table.profile_command(out=path, classes=classes)
    try:
        require_measurable(table)
    except LgcError as error:
        raise UsageError(
            f"{difference}, and this machine cannot measure the difference ({error}): run on the table's machine "
            f"{command}, then search with --lut {path}"
        ) from error
    if count_processes() > 1:
        raise UsageError(f"{difference}: measure a table for them first, in a single process: {command}")
    with progress_bar() as on_progress:
        result = profile_derived(
            table,
            classes,
            path,
            on_open=lambda: say(f"{difference}: measuring what depends on the classes, on {table.target}, into {path}"),
            on_progress=on_progress,
        )
    for remark in result.remarks:
        say(remark)
    say(f"{path}: {_describe_derived(table, path, result)}")
    return path


def _describe_derived(source: LatencyTable, path: Path, result: ProfileResult) -> str:
    """Return what a derived table has from its source, what was measured, and how well it predicts networks."""
    from ..lut.exchange.derive import compare_kept
    from ..lut.table.table import LatencyTable

    with LatencyTable.open(path) as table:
        changes = compare_kept(table, source)
    measured = result.entries - result.pending - len(result.failed) - len(changes)
    line = f"{measured} entries measured now, {len(changes)} computed from the samples of {source.path} and new ones"
    if changes:
        line += f" (median change {100 * median(changes):.1f} %)"
    report = result.verification
    if report is None:
        return f"{line}; not verified, as {source.path} has no networks"
    return f"{line}; mean prediction error {report.mape_pct:.1f} % on {report.networks} networks of these classes"


def _open_predictor(path: Path, space: SearchSpace | None, scope: str, aims: bool) -> tuple[Predictor, str | None]:
    """Return the predictor of a table, and a warning if the table is unverified or inaccurate."""
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable

    with LatencyTable.open(path) as table:
        predictor = Predictor(space or table.space, table, scope)
        verification = (table.metadata("verification") or {}).get(scope)
    if not predictor.calibrated:
        return predictor, (
            f"warning: {path} is not verified on whole networks, so the error of its predictions is unknown"
        )
    remark = warn_of_error(path, verification["mape_pct"]) if verification else None
    return predictor, remark or (_warn_of_interval(predictor) if aims else None)


def _warn_of_interval(predictor: Predictor) -> str | None:
    """Return a warning if the prediction interval of a table is wide, else None."""
    half_pct = predictor.correction.half_width_pct()
    if half_pct is None or half_pct <= MAX_INTERVAL_PCT:
        return None
    return (
        f"warning: {predictor.table_path} predicts with a 90 % interval of ± {half_pct:.0f} %, so the network may miss "
        "its target by as much: measure the table longer, or add --quantile 0.9 or --measure"
    )


def _group_targets(
    target_ms: Sequence[float] | None, target_fps: Sequence[float] | None, tables: int
) -> dict[str, tuple[tuple[float, ...], ...] | None]:
    """Return the settings of the targets, none without a target.

    They are points of the front with one target per table, in the given order.

    The latencies of frame rates are those by the median until the tables are known, see `_convert_frame_rates`.

    Raises:
        UsageError: both units are used, or the number of targets is not a multiple of `tables`.
    """
    if target_ms and target_fps:
        raise UsageError("use --target-ms or --target-fps, not both")
    targets = target_fps or target_ms or []
    if not targets:
        return {}
    if len(targets) % tables:
        raise UsageError(
            f"{tables} tables, but {format_count(len(targets), 'target')}: each point of a front needs one per table"
        )
    points = tuple(tuple(targets[first : first + tables]) for first in range(0, len(targets), tables))
    if not target_fps:
        return {"targets_ms": points, "targets_fps": None}
    return {"targets_ms": tuple(tuple(1000 / fps for fps in point) for point in points), "targets_fps": points}


def _convert_frame_rates(
    points: Sequence[Sequence[float]] | None, predictors: Sequence[Predictor]
) -> tuple[tuple[tuple[float, ...], ...], list[str]]:
    """Return points of frame rates as latencies by the tables' statistic, and a remark on each conversion."""
    pairs = [list(zip(point, predictors, strict=True)) for point in points or ()]
    converted = tuple(tuple(predictor.from_fps(fps) for fps, predictor in point) for point in pairs)
    remarks = [_describe_conversion(fps, predictor) for point in pairs for fps, predictor in point]
    return converted, list(dict.fromkeys(remarks))


def _describe_conversion(fps: float, predictor: Predictor) -> str:
    target_ms, ratio = predictor.from_fps(fps), predictor.median_ratio
    target = f"{fps:.4g} FPS: {target_ms * (ratio or 1):.4g} ms by the median of all runs"
    if ratio is None:
        return (
            f"{target}, which is not converted to the table's statistic of undisturbed runs: {predictor.table_path} "
            f"has no measured networks in scope {predictor.scope}; the measured frame rate may be lower"
        )
    longer = f"{abs(ratio - 1) * 100:.1f} % {'above' if ratio >= 1 else 'below'}"
    return (
        f"{target}; {target_ms:.4g} ms by the table's statistic of undisturbed runs: when "
        f"{predictor.table_path} was measured, its networks had a median {longer} it"
    )


def _warn_if_collapsed(results: Sequence[SearchResult]) -> None:
    for result in results:
        if result.widths:
            continue  # of a space whose depth is searched, which skip makes lower
        edges = sum(result.operators.values())
        idle = sum(count for name, count in result.operators.items() if name in ("zero", "skip"))
        if idle > MAX_IDLE_SHARE * edges:
            cause = "--beta is too large, or " if result.target_ms is None else "the target is too tight, or "
            if result.target_ms is not None and result.target_ms >= result.slowest_ms:
                cause = ""
            say(
                f"warning: {idle} of {edges} edges of {result.architecture} are zero or skip: {cause}the search "
                "collapsed; try a longer --warm-up or more --steps"
            )


def main() -> None:
    """Run the command."""
    run(app, RESUMES_FROM_CHECKPOINT)
