"""Estimate the latency of a benchmark and its confidence interval from raw durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError

Array = NDArray[np.float64]

MINIMA, MEDIANS = "minima", "medians"
"""Point of a sample batch: its minimum (CPUs, where disturbances only add time) or its median (GPUs)."""
NOISY_PCT = 5.0
"""Relative half width of the confidence interval above which an unfinished benchmark counts as noisy."""
CONFIDENCE_LEVEL = 0.95
"""Probability that an interval contains the true latency."""
Z_95 = 1.96
"""Half width of a normal distribution's 95 % interval, in standard deviations."""
BATCHES_PER_INSTANCE = 4
"""Minimum number of sample batches of an instance whose median enters an interval."""
MIN_INSTANCES_FOR_MAD = 5
"""Minimum number of instances for a deviation from the median absolute deviation; below, the standard deviation."""
MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""
MIDMEAN_INEFFICIENCY = 1.093
"""Standard error of a normal sample's interquartile mean, relative to that of its mean."""


@dataclass(frozen=True)
class Summary:
    """Statistics of a benchmark.

    Attributes:
        latency_ms: Latency in ms after drift correction; see `estimate_latency`.
        ci_ms: Half width of its 95 % confidence interval.
        median_ms: Median of all runs, without drift correction.
        min_ms: Shortest run.
        spread_pct: Half the interquartile range of the sample batches, relative to `latency_ms`.
        batches: Number of sample batches.
        samples: Number of runs.
    """

    latency_ms: float
    ci_ms: float
    median_ms: float
    min_ms: float
    spread_pct: float
    batches: int
    samples: int


def summarise_batches(
    batches: Sequence[Sequence[float]],
    statistic: str,
    slowdown: Sequence[float] | Array | None = None,
    instances: Sequence[int] | NDArray[np.int_] | None = None,
) -> Summary:
    """Reduce each sample batch to its minimum or median, and these points to a latency.

    Args:
        batches: Durations of the runs of each sample batch, in ms.
        statistic: `minima` or `medians`.
        slowdown: Relative slowdown of the machine at each batch; `latency_ms` and `spread_pct` are corrected for it.
        instances: Instance of the graph that each batch ran. None means a single instance.

    Raises:
        MeasurementError: There are no durations, or a duration is not a positive number.
    """
    points = reduce_batches(batches, statistic)
    if slowdown is not None:
        points = points / np.asarray(slowdown, float)
    runs = np.concatenate([np.asarray(batch, float) for batch in batches])
    latency, ci = estimate_latency(points, None if instances is None else np.asarray(instances))
    low, high = np.quantile(points, [0.25, 0.75])
    spread = float(high - low) / 2 / latency * 100
    return Summary(latency, ci, float(np.median(runs)), float(runs.min()), spread, len(points), int(runs.size))


def estimate_latency(points: Array, instances: NDArray[np.int_] | None = None) -> tuple[float, float]:
    """Return the latency of a benchmark and the half width of its 95 % confidence interval, in the points' unit.

    A reloaded graph has other memory addresses and keeps a speed that differs by some percent. On a CPU this exceeds
    the differences between the batches of an instance. With several instances, the interval is therefore Student's t
    over their medians. Its deviation comes from the median absolute deviation, which a disturbed instance does not
    widen. The latency is the interquartile mean of all points: robust to disturbed batches like the median, and stable
    between two equally frequent speeds. With a single instance, `estimate_median` applies.

    Args:
        points: Latency of each batch, [batches].
        instances: Instance of the graph that each batch ran, [batches]. None means a single instance.
    """
    if instances is None:
        return estimate_median(points)
    names, counts = np.unique(instances, return_counts=True)
    medians = np.array([np.median(points[instances == name]) for name in names[counts >= BATCHES_PER_INSTANCE]])
    if len(medians) < 2:
        return estimate_median(points)
    from scipy.special import stdtrit
    from scipy.stats import median_abs_deviation

    latency = float(interquartile_mean(points))
    robust = len(medians) >= MIN_INSTANCES_FOR_MAD
    deviation = float(MAD_TO_DEVIATION * median_abs_deviation(medians) if robust else medians.std(ddof=1))
    quantile = float(stdtrit(len(medians) - 1, (1 + CONFIDENCE_LEVEL) / 2))  # of Student's t
    return latency, quantile * MIDMEAN_INEFFICIENCY * deviation / math.sqrt(len(medians))


def interquartile_mean(points: Array) -> Array:
    """Return the mean of the middle half of the sorted points along the first axis: [points, ...] -> [...]."""
    quarter = len(points) // 4
    middle: Array = np.sort(points, axis=0)[quarter : len(points) - quarter].mean(axis=0)
    return middle


def estimate_median(points: Array) -> tuple[float, float]:
    """Return the median of the points and the half width of its 95 % confidence interval, in the points' unit.

    The interval lies between two order statistics given by the binomial distribution, so it assumes no distribution of
    the points. It needs six points; with fewer, it is their range.
    """
    ordered = np.sort(points)
    count = len(ordered)
    reach = Z_95 * count**0.5 / 2
    low = max(int(np.floor(count / 2 - reach)), 0)
    high = min(int(np.ceil(count / 2 + reach)), count - 1)
    return float(np.median(ordered)), float(ordered[high] - ordered[low]) / 2


def reduce_batches(batches: Sequence[Sequence[float]], statistic: str) -> Array:
    """Return the minimum or median of each sample batch in ms, [batches].

    Raises:
        MeasurementError: There are no batches, a batch is empty, or a duration is not a positive number.
    """
    if not batches or not all(len(batch) for batch in batches):
        raise MeasurementError("no run was timed")
    shortest = min(min(batch) for batch in batches)
    if not all(np.isfinite(batch).all() for batch in batches) or not shortest > 0:
        raise MeasurementError(f"durations must be positive numbers; the smallest is {shortest} ms")
    reduce = np.min if statistic == MINIMA else np.median
    return np.array([float(reduce(batch)) for batch in batches])
