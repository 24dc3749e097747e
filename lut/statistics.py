"""From raw durations to the one number of an entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasurementError

Array = NDArray[np.float64]

MINIMA, MEDIANS = "minima", "medians"
"""What a visit counts as: its least run (CPUs: what disturbs a run only adds time), or its median (GPUs)."""


@dataclass(frozen=True)
class Summary:
    """Statistics of one entry; units as in `Entry`."""

    latency_ms: float
    median_ms: float
    min_ms: float
    spread_pct: float
    samples: int


def summarise(
    visits: Sequence[Sequence[float]], statistic: str, slowdown: Sequence[float] | Array | None = None
) -> Summary:
    """Boil the visits of an entry down: the median over the visits of each one's minimum or median.

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
    latency = float(np.median(points))
    low, high = np.quantile(points, [0.25, 0.75])
    spread = float(high - low) / 2 / latency * 100
    return Summary(latency, float(np.median(every)), float(every.min()), spread, int(every.size))


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
