"""Page of the search benchmark."""

from __future__ import annotations

from typing import Any

from ..common.results import describe_parts, page_header


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result; parts that it lacks are omitted."""
    lines = [
        *page_header(f"Search, {' '.join(result['name'][1:])}", result),
        f"Written by `make bench-search`; {describe_parts(result['made'])}.",
        "",
        f"{result['scenes']['train']} generated scenes (seed {result['scenes']['seed']}) for training, "
        f"{result['scenes']['val']} for validation; searches of {result['search_steps']} steps, trainings of "
        f"{result['train_steps']}, batch {result['batch']}, seeds {', '.join(map(str, result['seeds']))}.",
        "",
        *_front(result.get("front")),
        *_chance(result.get("chance")),
        *_ablations(result.get("ablations"), result.get("chance")),
        *_cost(result.get("cost")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _front(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    rows = [
        f"| {row['target_ms']:.3f} | {row['landings']} | {row['table_ms']:.3f} ({row['table_off_pct']:+.2f} %) | "
        f"{row['predicted_ms']:.3f} ({row['predicted_off_pct']:+.2f} %) | "
        f"{row['measured_ms']:.3f} ({row['measured_off_pct']:+.1f} %) | "
        f"{row['measured_at_the_tables_speed_off_pct']:+.1f} % | {row['drift_pct']:+.1f} % | {row['loss']:.3f} |"
        for row in part["points"]
    ]
    return [
        "## Meeting the target",
        "",
        f"One run with three targets, {part['seconds']:.0f} s, of which {part['warm_up_steps']} steps are shared. "
        "Each result was refined by measuring it (`--measure`) up to six times. The columns are the table's "
        "prediction, the refined prediction, and an independent measurement, also at the table's speed (without "
        "drift). Percentages are relative to the target.",
        "",
        "| target, ms | refinements | table | refined | measured | measured, at the table's speed | drift | "
        "supernet loss |",
        "|" + " --- |" * 8,
        *rows,
        "",
    ]


def _chance(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    spread, searched = part["spread"], part["against_random"]["as it is"]
    return [
        "## Compared with random architectures",
        "",
        f"{len(part['random'])} random architectures within 3 % of the target's latency, each trained with every "
        f"seed: mIoU {spread['mean']:.2f} % on average, from {spread['lowest']:.2f} to {spread['highest']:.2f}, 75th "
        f"percentile {spread['p75']:.2f}. The standard deviation is "
        f"{spread['between_architectures_sd']:.2f} between architectures and {spread['between_seeds_sd']:.2f} between "
        f"seeds: {100 * spread['share_of_architecture']:.0f} % of a training's variance is due to the architecture.",
        "",
        f"Searched architectures, one per seed, with the same training: {_list(searched['mious'])} %, mean "
        f"{searched['mean']:.2f}, above {searched['percentile_of_mean']:.0f} % of the random ones (each: "
        f"{_list(searched['percentiles'], 0)}). Mean difference {searched['difference']:+.2f}, 95 % interval "
        f"{searched['difference_low']:+.2f} to {searched['difference_high']:+.2f}.",
        "",
        f"A search takes as long as {searched['trainings']:.1f} of these trainings. The best of that many random "
        f"architectures, selected by mIoU, has {searched['best_of_so_many']:.2f} %.",
        "",
    ]


def _ablations(part: dict[str, Any] | None, against: dict[str, Any] | None) -> list[str]:
    if part is None or len(part) < 2 or against is None:
        return []
    rows = []
    for name, row in part.items():
        other = against["against_random"][name]
        rows.append(
            f"| {name} | {row['miou']:.2f} ± {row['standard_error']:.2f} | {other['percentile_of_mean']:.0f} | "
            f"{other['difference']:+.2f} ({other['difference_low']:+.2f} to {other['difference_high']:+.2f}) | "
            f"{row['loss_after']:.3f} | {row['predicted_ms']:.3f} |"
        )
    return [
        "## Ablations",
        "",
        "Three searches each; every result is trained once, with the search's seed. Percentile and difference are "
        "relative to the random architectures above (for the unchanged search, over all its trainings).",
        "",
        "| search | mIoU, % ± standard error | percentile | difference, 95 % interval | supernet loss | "
        "predicted, ms |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _mixed(row: dict[str, Any]) -> str:
    """Return the cells on a supernet that computes all operators; empty where the space has none."""
    if "mixed_is_slower_by" not in row:
        return "- | -"
    slower = f"{row['mixed_is_slower_by']:.1f} ({_list(row['mixed_is_slower_by_range'], 1)})"
    return f"{slower} | {row['mixed_memory_times_training']:.1f}"


def _cost(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    rows = [
        f"| {name} | {row['times_a_training_step']:.2f} ({_list(row['times_a_training_step_range'])}) | "
        f"{row['memory_times_training']:.2f} | {_mixed(row)} |"
        for name, row in part.items()
    ]
    return [
        "## Cost of a step",
        "",
        "A step of the search (weights and architecture) relative to a training step, the mean of random networks near "
        "its target; and a step of a supernet that computes all operators on every edge, relative to a search step. "
        "Medians (and ranges) of rounds in one process, one thread. Memory is the increase of the peak resident size.",
        "",
        "| case | time / training step | memory / training | mixed step / search step | mixed memory / training |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _list(values: list[float], digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
