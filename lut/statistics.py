"""From raw durations to the one number of an entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MeasurementError

LOW_QUANTILE = 0.25
"""Quantile of the visits' minima on a CPU: neighbours on the machine only ever add time."""


@dataclass(frozen=True)
class Summary:
    """Statistics of one entry; units as in `Entry`."""

    latency_ms: float
    median_ms: float
    min_ms: float
    spread_pct: float
    samples: int


def summarise(visits: Sequence[Sequence[float]], statistic: str) -> Summary:
    """Boil the visits of an entry down.

    Args:
        visits: durations of single runs in milliseconds, one list for each visit.
        statistic: `low_quantile` (of the visits' minima; for shared CPUs) or `median` (of the visits' medians; for
            quiet GPUs).

    Raises:
        MeasurementError: there are no durations, or one is not a positive number.
    """
    every = np.array([duration for visit in visits for duration in visit])
    if every.size == 0:
        raise MeasurementError("no run was timed")
    if not np.all(np.isfinite(every)) or every.min() <= 0:
        raise MeasurementError(f"a duration of {float(every.min())} ms")
    if statistic == "median":
        points = np.array([np.median(visit) for visit in visits])
        latency = float(np.median(points))
    else:
        points = np.array([np.min(visit) for visit in visits])
        latency = float(np.quantile(points, LOW_QUANTILE))
    low, high = np.quantile(points, [0.25, 0.75])
    spread = float(high - low) / 2 / latency * 100
    if not math.isfinite(latency):
        raise MeasurementError("the durations have no finite statistic")
    return Summary(latency, float(np.median(every)), float(every.min()), spread, int(every.size))
