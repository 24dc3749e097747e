"""Statistics of the search benchmark: searched against random architectures, and ablations."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats


def equal_compute(random: list[list[float]], rows: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Return the expected best of k random architectures, where k trainings take as long as the search.

    The best is selected by its mIoU, so this is an upper bound for a real selection.
    """
    k = statistics.mean(row["seconds"] for row in rows) / seconds
    means = np.sort(np.array(random).mean(axis=1))
    return {"trainings": k, "best_of_so_many": float(np.diff(np.linspace(0, 1, len(means) + 1) ** k) @ means)}


def variation(mious: list[list[float]]) -> dict[str, float]:
    """Return the variation of mIoU (per cent) between architectures and between seeds of one architecture."""
    table = np.array(mious)
    within = table.var(axis=1, ddof=1).mean()
    between = max(table.mean(axis=1).var(ddof=1) - within / table.shape[1], 0.0)
    return {
        "mean": float(table.mean()),
        "lowest": float(table.mean(axis=1).min()),
        "p75": float(np.quantile(table.mean(axis=1), 0.75)),
        "highest": float(table.mean(axis=1).max()),
        "between_architectures_sd": float(np.sqrt(between)),
        "between_seeds_sd": float(np.sqrt(within)),
        "share_of_architecture": float(between / (between + within)),
    }


def compare_with_random(random: list[list[float]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the results of a search, one per seed, with random architectures; means over the trainings' seeds.

    Results of ablations are trained once and are noisier. The interval of the mean difference is Welch's, over searches
    and over architectures.
    """
    baseline, results = np.array(random).mean(axis=1), np.array([row["mious"] for row in rows]).mean(axis=1)
    test = stats.ttest_ind(results, baseline, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {
        "mious": results.tolist(),
        "mean": float(results.mean()),
        "percentiles": [float(100 * (baseline < miou).mean()) for miou in results],
        "percentile_of_mean": float(100 * (baseline < results.mean()).mean()),
        "difference": float(results.mean() - baseline.mean()),
        "difference_low": float(low),
        "difference_high": float(high),
    }


def summarise_ablations(searches: dict[str, list[dict[str, Any]]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the mean over searches of the mIoU after one training with the search's seed, by ablation."""
    table = {}
    for name, rows in searches.items():
        means = [row["mious"][seeds.index(row["seed"]) if len(row["mious"]) > 1 else 0] for row in rows]
        table[name] = {
            "miou": statistics.mean(means),
            "standard_error": statistics.stdev(means) / len(means) ** 0.5,
            "loss_after": statistics.mean(row["loss_after"] for row in rows),
            "predicted_ms": statistics.mean(row["predicted_ms"] for row in rows),
            "seconds": statistics.mean(row["seconds"] for row in rows),
            "searches": rows,
        }
    return table
