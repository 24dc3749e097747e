"""The search benchmark's result as a page to read."""

from __future__ import annotations

from typing import Any

from parts import told

from report import head


def page(result: dict[str, Any]) -> str:
    lines = [
        *head(f"Search, {' '.join(result['name'][1:])}", result),
        f"Written by `make bench-search`; {told(result['made'])}.",
        "",
        f"{result['scenes']['train']} generated scenes (seed {result['scenes']['seed']}) to train on, "
        f"{result['scenes']['val']} to score on; searches of {result['search_steps']} steps, trainings of "
        f"{result['train_steps']}, batch {result['batch']}, seeds {', '.join(map(str, result['seeds']))}.",
        "",
        *_front(result.get("front")),
        *_chance(result.get("chance")),
        *_ablations(result.get("ablations"), result.get("chance")),
        *_cost(result.get("cost")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _front(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rows = [
        f"| {row['target_ms']:.3f} | {row['landings']} | {row['table_ms']:.3f} ({row['table_off_pct']:+.2f} %) | "
        f"{row['predicted_ms']:.3f} ({row['predicted_off_pct']:+.2f} %) | "
        f"{row['measured_ms']:.3f} ({row['measured_off_pct']:+.1f} %) | "
        f"{row['measured_at_the_tables_speed_off_pct']:+.1f} % | {row['drift_pct']:+.1f} % | {row['loss']:.3f} |"
        for row in found["points"]
    ]
    return [
        "## Landing on the target",
        "",
        f"One run with three targets, {found['seconds']:.0f} s, of which {found['warm_up_steps']} steps are shared. "
        "Each result was measured and landed again by that (`--measure`), up to three times; what the table alone says "
        "of it, what was predicted before its own measurement, and an independent measurement afterwards. Percentages "
        "are of the target; the machine's drift since the table is divided out in the last but two.",
        "",
        "| target, ms | landings | table | predicted | measured | measured, at the table's speed | drift | "
        "loss in the supernet |",
        "|" + " --- |" * 8,
        *rows,
        "",
    ]


def _chance(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    spread, ours = found["spread"], found["against_random"]["as it is"]
    return [
        "## Against chance",
        "",
        f"{len(found['random'])} random architectures within 3 % of the target's latency, each trained with every "
        f"seed: mIoU {spread['mean']:.2f} % on average, from {spread['lowest']:.2f} to {spread['highest']:.2f}, 75th "
        f"percentile {spread['p75']:.2f}. Architectures differ with a standard deviation of "
        f"{spread['between_architectures_sd']:.2f}, seeds of one architecture of {spread['between_seeds_sd']:.2f}: "
        f"{100 * spread['share_of_architecture']:.0f} % of the variance of one training is the architecture's.",
        "",
        f"Results of the search, a search for each seed, trained alike: {_list(ours['mious'])} %, mean "
        f"{ours['mean']:.2f}: above {ours['percentile_of_mean']:.0f} % of the random ones (each: "
        f"{_list(ours['percentiles'], 0)}). Mean difference {ours['difference']:+.2f}, 95 % interval "
        f"{ours['difference_low']:+.2f} to {ours['difference_high']:+.2f}.",
        "",
        f"A search takes as long as {ours['trainings']:.1f} of these trainings. The best of so many random "
        f"architectures, chosen by an oracle, would have {ours['best_of_so_many']:.2f} %.",
        "",
    ]


def _ablations(found: dict[str, Any] | None, against: dict[str, Any] | None) -> list[str]:
    if found is None or len(found) < 2 or against is None:
        return []
    rows = []
    for name, row in found.items():
        other = against["against_random"][name]
        rows.append(
            f"| {name} | {row['miou']:.2f} ± {row['standard_error']:.2f} | {other['percentile_of_mean']:.0f} | "
            f"{other['difference']:+.2f} ({other['difference_low']:+.2f} to {other['difference_high']:+.2f}) | "
            f"{row['loss_after']:.3f} | {row['predicted_ms']:.3f} |"
        )
    return [
        "## What each part is worth",
        "",
        "Three searches each, every result trained once, with the search's seed. Percentile and difference are against "
        "the random architectures above (of the search as it is, over all its trainings).",
        "",
        "| search | mIoU, % ± standard error | percentile | difference, 95 % interval | loss in the supernet | "
        "predicted, ms |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _cost(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rows = [
        f"| {name} | {row['times_a_training_step']:.2f} ({_list(row['times_a_training_step_range'])}) | "
        f"{row['memory_times_training']:.2f} | {row['mixed_is_slower_by']:.1f} "
        f"({_list(row['mixed_is_slower_by_range'], 1)}) | "
        f"{row['mixed_memory_times_training']:.1f} |"
        for name, row in found.items()
    ]
    return [
        "## What a step costs",
        "",
        "A step of the search (weights and architecture) against a training step of random networks of the space, the "
        "mean of three; then against a step that mixes all operators on every edge. Medians (and ranges) of rounds in "
        "one process, one thread; memory is the peak resident size over that of the process before.",
        "",
        "| case | time, times a training step | memory, times | a mixing step is slower, times | its memory, times |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _list(values: list[float], digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
