"""Ratio of two latencies that were measured side by side, with an interval.

The ratios of several parts of the measurement cancel the drift that both networks share, and show the noise that they
do not share.
"""

from __future__ import annotations

import numpy as np

from ...lut.statistics.calibration import PREDICTION_LEVEL
from ...lut.statistics.estimates import interquartile_mean, reduce_batches
from ...lut.statistics.measurement import Measurement

NUM_PARTS = 8
"""Equal parts of a run, one latency ratio each: long enough that on a CPU most parts see different instances, so the
ratios are nearly independent."""


def group_by_round(measurement: Measurement, benchmark: str) -> dict[int, float]:
    """Return round -> point of the sample batch (minimum or median, see `lut.statistics`), in milliseconds."""
    batches = [batch for batch in measurement.batches if batch.benchmark == benchmark]
    points = reduce_batches([batch.durations_ms for batch in batches], measurement.statistic)
    return {batch.round: point for batch, point in zip(batches, points.tolist(), strict=True)}


def compute_ratio(times: dict[int, float], reference: dict[int, float]) -> tuple[float, float, float]:
    """Return the median ratio over the parts, and order statistics that cover it with at least `PREDICTION_LEVEL`.

    A part's latency is the interquartile mean of its points, as in a table. The parts are not corrected for drift,
    which both networks share.
    """
    from scipy.stats import binom

    parts = np.array_split(sorted(times.keys() & reference.keys()), NUM_PARTS)
    own_ms, reference_ms = (
        [interquartile_mean(np.array([ms[n] for n in part])) for part in parts] for ms in (times, reference)
    )
    ratios = np.sort(np.divide(own_ms, reference_ms))
    margin = max(int(binom.ppf((1 - PREDICTION_LEVEL) / 2, NUM_PARTS, 0.5)) - 1, 0)
    return float(np.median(ratios)), float(ratios[margin]), float(ratios[-1 - margin])
