"""From raw durations to the one number of a subject, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError

Array = NDArray[np.float64]

MINIMA, MEDIANS = "minima", "medians"
"""What a visit counts as: its least run (CPUs: what disturbs a run only adds time), or its median (GPUs)."""
NOISY_PCT = 5.0
"""Half width of the interval, relative to the latency, above which a subject that is given up is called noisy."""
CONFIDENCE_LEVEL = 0.95
"""Probability that an interval holds the true latency."""
Z_95 = 1.96
"""Half the width of a normal distribution's 95 % interval, in standard deviations."""
BATCHES_PER_INSTANCE = 4
"""Visits that a load needs to speak for itself in an interval."""
MIN_INSTANCES_FOR_MAD = 5
"""Groups from which on their median absolute deviation tells how far they differ; fewer, their standard deviation."""
MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
MIDMEAN_INEFFICIENCY = 1.093
"""Standard error of a normal sample's interquartile mean, relative to its mean's."""


@dataclass(frozen=True)
class Summary:
    """Statistics of one subject.

    Attributes:
        latency_ms: see `estimate_latency`; the machine's changing speed divided out.
        ci_ms: half the width of its 95 % confidence interval.
        median_ms: median of all single runs, nothing divided out.
        min_ms: shortest single run.
        spread_pct: half the width of the middle half of the visits, relative to latency_ms.
        visits: number of visits.
        samples: number of single runs.
    """

    latency_ms: float
    ci_ms: float
    median_ms: float
    min_ms: float
    spread_pct: float
    visits: int
    samples: int


def summarise_batches(
    visits: Sequence[Sequence[float]],
    statistic: str,
    slowdown: Sequence[float] | Array | None = None,
    loads: Sequence[int] | NDArray[np.int_] | None = None,
) -> Summary:
    """Boil the visits of a subject down, each to its minimum or median, and these to one latency.

    Args:
        visits: durations of single runs in milliseconds, one list for each visit.
        statistic: `minima` or `medians`.
        slowdown: how much slower than usual the machine ran at each visit, divided out of latency_ms and spread_pct.
        loads: which load of the graph each visit ran; one and the same if None.

    Raises:
        MeasurementError: there are no durations, or one is not a positive number.
    """
    points = reduce_batches(visits, statistic)
    if slowdown is not None:
        points = points / np.asarray(slowdown, float)
    every = np.concatenate([np.asarray(visit, float) for visit in visits])
    latency, ci = estimate_latency(points, None if loads is None else np.asarray(loads))
    low, high = np.quantile(points, [0.25, 0.75])
    spread = float(high - low) / 2 / latency * 100
    return Summary(latency, ci, float(np.median(every)), float(every.min()), spread, len(points), int(every.size))


def estimate_latency(points: Array, loads: NDArray[np.int_] | None = None) -> tuple[float, float]:
    """Latency of a subject, and half the width of its 95 % confidence interval, in the points' unit.

    A graph that is loaded again lies elsewhere in memory, and runs by some percent faster or slower for as long as it
    stays there: on a CPU that is far more than the visits to one load differ. Where there are several loads, the
    interval is therefore Student's t over their medians, with a deviation from the median absolute deviation, which one
    disturbed load does not widen; and the latency is the interquartile mean of all points, as deaf to disturbed visits
    as the median, and not thrown to and fro between two speeds that are as frequent. With one load, see
    `estimate_median`.

    Args:
        points: one latency for each visit, [visits].
        loads: which load of the graph each visit ran, [visits]; one and the same if None.
    """
    if loads is None:
        return estimate_median(points)
    names, counts = np.unique(loads, return_counts=True)
    medians = np.array([np.median(points[loads == name]) for name in names[counts >= BATCHES_PER_INSTANCE]])
    if len(medians) < 2:
        return estimate_median(points)
    from scipy.stats import t

    quarter = len(points) // 4
    latency = float(np.sort(points)[quarter : len(points) - quarter].mean())
    deviation = MAD_TO_DEVIATION * float(np.median(np.abs(medians - np.median(medians))))
    if len(medians) < MIN_INSTANCES_FOR_MAD:
        deviation = float(medians.std(ddof=1))
    half = (
        t.ppf((1 + CONFIDENCE_LEVEL) / 2, len(medians) - 1) * MIDMEAN_INEFFICIENCY * deviation / math.sqrt(len(medians))
    )
    return latency, float(half)


def estimate_median(points: Array) -> tuple[float, float]:
    """Median of the points, and half the width of its 95 % confidence interval, in the points' unit.

    The interval reaches between the two order statistics that the binomial distribution names, so it assumes no
    distribution; with fewer points than it needs (six), from the least to the greatest.
    """
    ordered = np.sort(points)
    count = len(ordered)
    reach = Z_95 * count**0.5 / 2
    low = max(int(np.floor(count / 2 - reach)), 0)
    high = min(int(np.ceil(count / 2 + reach)), count - 1)
    return float(np.median(ordered)), float(ordered[high] - ordered[low]) / 2


def reduce_batches(visits: Sequence[Sequence[float]], statistic: str) -> Array:
    """One number for each visit, in milliseconds.

    Raises:
        MeasurementError: there are no visits, or one without runs, or a duration is not a positive number.
    """
    if not visits or not all(len(visit) for visit in visits):
        raise MeasurementError("no run was timed")
    least = min(min(visit) for visit in visits)
    if not all(np.isfinite(visit).all() for visit in visits) or not least > 0:
        raise MeasurementError(f"durations that are no positive numbers, the least {least} ms")
    reduce = np.min if statistic == MINIMA else np.median
    return np.array([float(reduce(visit)) for visit in visits])
