"""Measurement: visits to several subjects side by side, with the machine's changing speed divided out.

A shared machine has more than one speed: neighbours, turbo clocks and schedulers switch it between them within tenths
of a second, for all that runs on it alike. Since the subjects are visited in random order, the visits around a moment
tell how fast the machine was just then:

    point[v]      one number for visit v (its minimum or its median), milliseconds
    usual[s]      median of the points of subject s, each divided by its slowdown (at first 1)
    deviation[v]  log(point[v] / usual[subject of v])
    slowdown[v]   exp(median of the deviations of the `2 * REACH + 1` visits around v)

repeated `PASSES` times. The latency of a subject is its last usual[s]. Where nothing changes, the slowdowns are about 1
and nothing is altered. Assumption: what slows the machine slows all subjects by about the same factor; where it does
not, the two halves of the measurement, each corrected for itself, differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .statistics import Array, Summary, summarise, visit_points

Visits = list[tuple[str, int, float, Sequence[float]]]
"""Subject, round, unix time in seconds, durations in milliseconds: one row for each visit."""

REACH = 10
"""Visits on either side that tell the machine's speed at a visit."""
PASSES = 4
"""Times that usual points and slowdowns are told from each other; once is too few where two speeds are as frequent."""
PAUSE_S = 30.0
"""A gap between visits, in seconds, across which nothing is told."""


class Measurement:
    """Visits that were measured together.

    Args:
        visits: rows in any order.
        statistic: `minima` or `medians`, see `statistics`.

    Raises:
        MeasurementError: a visit holds no runs, or durations that are no positive numbers.
    """

    def __init__(self, visits: Visits, statistic: str) -> None:
        self.visits = sorted(visits, key=lambda visit: visit[2])
        self.statistic = statistic
        self._slowdown = _slowdowns(self.visits, statistic) if visits else np.empty(0)

    def durations(self, subject: str) -> list[list[float]]:
        """Raw durations of a subject in milliseconds, one list for each visit, in order of time."""
        return [list(durations) for key, _, _, durations in self.visits if key == subject]

    def summary(self, subject: str) -> Summary:
        """Statistics of a subject.

        Raises:
            MeasurementError: it was not visited.
        """
        kept = [index for index, (key, _, _, _) in enumerate(self.visits) if key == subject]
        return summarise([self.visits[index][3] for index in kept], self.statistic, self._slowdown[kept])

    def halves(self) -> tuple[Measurement, Measurement]:
        """The even and the odd rounds, as two measurements, each corrected for itself."""
        even, odd = ([visit for visit in self.visits if visit[1] % 2 == parity] for parity in (0, 1))
        return Measurement(even, self.statistic), Measurement(odd, self.statistic)


def _slowdowns(visits: Visits, statistic: str) -> Array:
    """Slowdown of the machine at each of the visits, which are in order of time; 1 is its usual speed."""
    points = visit_points([durations for _, _, _, durations in visits], statistic)
    subjects = np.unique([key for key, _, _, _ in visits], return_inverse=True)[1]
    pauses = np.flatnonzero(np.diff([at for _, _, at, _ in visits]) > PAUSE_S) + 1
    slowdown: Array = np.ones_like(points)
    for _ in range(PASSES):
        steady = points / slowdown
        usual = np.array([np.median(steady[subjects == subject]) for subject in range(subjects.max() + 1)])
        deviation = np.log(points / usual[subjects])
        slowdown = np.exp(np.concatenate([_running_median(part) for part in np.split(deviation, pauses)]))
    return slowdown


def _running_median(values: Array) -> Array:
    """Median of the values within `REACH` of each; fewer at the ends."""
    padded = np.pad(values, REACH, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH + 1)
    return np.asarray(np.nanmedian(windows, axis=1), dtype=np.float64)
