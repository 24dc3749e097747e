"""From raw durations to the one number of a subject, and how well it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasurementError

Array = NDArray[np.float64]

MINIMA, MEDIANS = "minima", "medians"
"""What a visit counts as: its least run (CPUs: what disturbs a run only adds time), or its median (GPUs)."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Summary:
    """Statistics of one subject.

    Attributes:
        latency_ms: median over the visits, the machine's changing speed divided out.
        ci_ms: half the width of latency_ms's 95 % confidence interval (order statistics, so of any distribution).
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


def summarise(
    visits: Sequence[Sequence[float]], statistic: str, slowdown: Sequence[float] | Array | None = None
) -> Summary:
    """Boil the visits of a subject down: the median over the visits of each one's minimum or median.

    Args:
        visits: durations of single runs in milliseconds, one list for each visit.
        statistic: `minima` or `medians`.
        slowdown: how much slower than usual the machine ran at each visit, divided out of latency_ms and spread_pct.

    Raises:
        MeasurementError: there are no durations, or one is not a positive number.
    """
    points = visit_points(visits, statistic)
    if slowdown is not None:
        points = points / np.asarray(slowdown, float)
    every = np.concatenate([np.asarray(visit, float) for visit in visits])
    latency, ci = median_and_ci(points)
    low, high = np.quantile(points, [0.25, 0.75])
    spread = float(high - low) / 2 / latency * 100
    return Summary(latency, ci, float(np.median(every)), float(every.min()), spread, len(points), int(every.size))


def median_and_ci(points: Array) -> tuple[float, float]:
    """Median of the points, and half the width of its 95 % confidence interval, in the points' unit.

    The interval reaches between the two order statistics that the binomial distribution names; with fewer points than
    it needs (six), from the least to the greatest.
    """
    ordered = np.sort(points)
    count = len(ordered)
    reach = NORMAL_95 * count**0.5 / 2
    low = max(int(np.floor(count / 2 - reach)), 0)
    high = min(int(np.ceil(count / 2 + reach)), count - 1)
    return float(np.median(ordered)), float(ordered[high] - ordered[low]) / 2


def visit_points(visits: Sequence[Sequence[float]], statistic: str) -> Array:
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
