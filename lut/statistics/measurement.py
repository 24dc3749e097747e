"""Measurement: visits to several subjects side by side, with the machine's changing speed divided out.

A shared machine has more than one speed: neighbours, turbo clocks and schedulers switch it between them within tenths
of a second, for all that runs on it alike. Since the subjects are visited in random order, the visits around a moment
tell how fast the machine was just then:

    point[v]      one number for visit v (its minimum or its median), milliseconds
    level[z]      speed of session z (one process on one device) against the others, by the subjects they share
    usual[s]      median of the points of subject s, each divided by level and slowdown (at first 1)
    deviation[v]  log(point[v] / level / usual[subject of v])
    slowdown[v]   exp(median of the deviations of the `2 * REACH + 1` visits around v in its session)

repeated `NUM_PASSES` times. The latency of a subject is its last usual[s]. Where nothing changes, the slowdowns are about 1
and nothing is altered. Assumption: what slows the machine slows all subjects by about the same factor. Where it did not
for a while, the subjects visited then disagree about how fast the machine was:

    disagreement[w]  median of |log(point[v] / slowdown[v] / usual)| over the visits of window w, `CHECK_WINDOW` in a row

Windows that disagree `MAX_DISAGREEMENT_RATIO` times as much as most are left out; their subjects need as many visits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .estimates import Array, Summary, reduce_batches, summarise_batches


class SampleBatch(NamedTuple):
    """Some runs of a subject, back to back: one process's, at one moment."""

    subject: str
    round: int
    at_unix_s: float
    durations_ms: Sequence[float]
    session: int = 0
    load: int = 0


SMOOTHING_RADIUS = 10
"""Visits on either side that tell the machine's speed at a visit."""
NUM_PASSES = 4
"""Times that usual points and slowdowns are told from each other; once is too few where two speeds are as frequent."""
CHECK_WINDOW = 64
"""Visits in a row that are believed or not together."""
MAX_DISAGREEMENT_RATIO = 3.0
"""How many times the usual disagreement leaves a window out."""
NEGLIGIBLE_DISAGREEMENT = 0.01
"""A disagreement (of logarithms, so about 1 %) that is never held against a window."""
MAX_GAP_S = 30.0
"""A gap between visits, in seconds, across which nothing is told."""


class Measurement:
    """Visits that were measured together.

    Args:
        visits: in any order.
        statistic: `minima` or `medians`, see `statistics`.

    Raises:
        MeasurementError: a visit holds no runs, or durations that are no positive numbers.
    """

    def __init__(self, visits: Sequence[SampleBatch], statistic: str) -> None:
        self.visits = sorted(visits, key=lambda visit: (visit.session, visit.at_unix_s))
        self.statistic = statistic
        self.subjects, self._which = np.unique([visit.subject for visit in self.visits], return_inverse=True)
        self._points = reduce_batches([v.durations_ms for v in self.visits], statistic) if visits else np.empty(0)
        self._slowdown = self._slowdowns() if visits else np.empty(0)
        self._trusted = self._believed() if visits else np.empty(0, dtype=bool)

    def durations(self, subject: str) -> list[list[float]]:
        """Raw durations of a subject in milliseconds, one list for each visit, in order of session and time."""
        return [list(self.visits[index].durations_ms) for index in self._indices(subject)]

    def summary(self, subject: str) -> Summary:
        """Statistics of a subject.

        Raises:
            MeasurementError: it was not visited.
        """
        kept = self._indices(subject, trusted=True)
        durations = [self.visits[index].durations_ms for index in kept]
        return summarise_batches(durations, self.statistic, self._slowdown[kept], self.loads(subject))

    def points(self, subject: str) -> Array:
        """One latency for each visit of a subject that is believed, ms, the machine's speed divided out; [visits]."""
        kept = self._indices(subject, trusted=True)
        return self._points[kept] / self._slowdown[kept]

    def loads(self, subject: str) -> NDArray[np.int_]:
        """For each of `points`, which load of the subject's graph it is of, counted over all sessions; [visits]."""
        kept = self._indices(subject, trusted=True)
        places = [(self.visits[index].session, self.visits[index].load) for index in kept]
        return np.unique(places, axis=0, return_inverse=True)[1].ravel() if places else np.empty(0, dtype=int)

    def halves(self) -> tuple[Measurement, Measurement]:
        """Every other load of each subject, or visit where it has but one, as two measurements, each of its own."""
        number = np.empty(len(self.visits), dtype=int)
        for subject in range(len(self.subjects)):
            kept = np.flatnonzero(self._which == subject)
            places = [(self.visits[index].session, self.visits[index].load) for index in kept]
            load = np.unique(places, axis=0, return_inverse=True)[1].ravel()
            number[kept] = load if load.any() else np.arange(len(kept))
        even, odd = ([self.visits[index] for index in np.flatnonzero(number % 2 == parity)] for parity in (0, 1))
        return Measurement(even, self.statistic), Measurement(odd, self.statistic)

    @property
    def disproved(self) -> int:
        """Number of visits that are left out."""
        return int((~self._trusted).sum())

    def _indices(self, subject: str, *, trusted: bool = False) -> NDArray[np.intp]:
        """Visits of a subject; with `trusted`, those that are believed, or all where none is."""
        at = int(np.searchsorted(self.subjects, subject)) if len(self.subjects) else 0
        if at == len(self.subjects) or self.subjects[at] != subject:
            return np.empty(0, dtype=np.intp)
        every = np.flatnonzero(self._which == at)
        kept = every[self._trusted[every]] if trusted else every
        return kept if len(kept) else every

    def _believed(self) -> NDArray[np.bool_]:
        """Whether each visit is in a window whose visits agree about the machine's speed."""
        steady = self._points / self._slowdown
        window = np.arange(len(steady)) // CHECK_WINDOW
        disagreement = _group_medians(np.abs(np.log(steady / _group_medians(steady, self._which)[self._which])), window)
        limit = max(MAX_DISAGREEMENT_RATIO * float(np.median(disagreement)), NEGLIGIBLE_DISAGREEMENT)
        believed: NDArray[np.bool_] = (disagreement <= limit)[window]
        return believed

    def _slowdowns(self) -> Array:
        """Slowdown of the machine at each of the visits, levels included; 1 is its usual speed."""
        points = self._points
        sessions = np.array([visit.session for visit in self.visits])
        level = _estimate_levels(points, self._which, sessions)
        gaps = np.diff([visit.at_unix_s for visit in self.visits]) > MAX_GAP_S
        parts = np.flatnonzero(gaps | (np.diff(sessions) != 0)) + 1
        slowdown = level
        for _ in range(NUM_PASSES):
            usual = _group_medians(points / slowdown, self._which)
            deviation = np.log(points / level / usual[self._which])
            slowdown = level * np.exp(np.concatenate([_running_median(part) for part in np.split(deviation, parts)]))
        return slowdown


def _group_medians(values: Array, group: NDArray[np.intp]) -> Array:
    """Median of the values of each group, [groups]."""
    order = np.argsort(group, kind="stable")
    parts = np.split(values[order], np.flatnonzero(np.diff(group[order])) + 1)
    return np.array([np.median(part) for part in parts])


def _estimate_levels(points: Array, which: NDArray[np.intp], sessions: NDArray[np.int_]) -> Array:
    """Level of each visit's session: 1 for the one with most visits, others tied to it by subjects in common.

    A session that shares no subject with any tied one keeps 1: nothing is known of it.
    """
    names, counts = np.unique(sessions, return_counts=True)
    level: Array = np.ones_like(points)
    if len(names) == 1:
        return level
    usual = {int(z): dict(_benchmark_medians(points[sessions == z], which[sessions == z])) for z in names}
    tied = dict(usual.pop(int(names[counts.argmax()])))
    while usual:
        nearest = max(usual, key=lambda z: len(usual[z].keys() & tied.keys()))
        found = usual.pop(nearest)
        shared = found.keys() & tied.keys()
        factor = float(np.median([found[s] / tied[s] for s in shared])) if shared else 1.0
        level[sessions == nearest] = factor
        tied.update({s: value / factor for s, value in found.items() if s not in tied})
    return level


def _benchmark_medians(points: Array, which: NDArray[np.intp]) -> list[tuple[int, float]]:
    """(subject, median of its points) of one session."""
    subjects, group = np.unique(which, return_inverse=True)
    return list(zip(subjects.tolist(), _group_medians(points, group).tolist(), strict=True))


def _running_median(values: Array) -> Array:
    """Median of the values within `SMOOTHING_RADIUS` of each; near the ends, of the nearest `REACH + 1` or more."""
    from scipy.ndimage import median_filter

    reach = min(SMOOTHING_RADIUS, max((len(values) - 1) // 2, 0))
    filtered: Array = median_filter(values, size=2 * reach + 1, mode="mirror")
    return filtered
