"""Drift correction: the sample batches of interleaved benchmarks, corrected for the machine's changing speed.

A shared machine changes its speed within tenths of a second (neighbours, turbo clocks, schedulers), for everything that
runs on it equally. The benchmarks are measured in random order, so the batches around a moment show the machine's speed
at that moment:

    point[b]      minimum or median of batch b, ms
    level[z]      speed of session z (one process on one device) relative to the others, from their shared benchmarks
    usual[k]      median of the points of benchmark k, each divided by level and slowdown (initially 1)
    deviation[b]  log(point[b] / level / usual[benchmark of b])
    slowdown[b]   level * exp(median deviation of the `2 * SMOOTHING_RADIUS + 1` batches around b, in its session)

repeated `NUM_PASSES` times. The points of a benchmark divided by the slowdowns give its latency. Without drift the
slowdowns are about 1 and change nothing. The model assumes that a slower machine slows all benchmarks by about the same
factor. Where this fails for a while, the benchmarks disagree about the speed:

    disagreement[w]  median of |log(point[b] / slowdown[b] / usual)| over window w of `CHECK_WINDOW` batches in a row

Windows with over `MAX_DISAGREEMENT_RATIO` times the median disagreement are rejected. Their benchmarks then need as
many new batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .estimates import Array, Summary, reduce_batches, summarise_batches


class SampleBatch(NamedTuple):
    """Consecutive runs of a benchmark in one process."""

    benchmark: str
    round: int
    at_unix_s: float
    durations_ms: Sequence[float]
    session: int = 0
    instance: int = 0


SMOOTHING_RADIUS = 10
"""Number of batches on either side that show the machine's speed at a batch."""
NUM_PASSES = 4
"""Passes that separate usual points from slowdowns. One is too few where two speeds are equally frequent."""
CHECK_WINDOW = 64
"""Number of consecutive batches that are accepted or rejected together."""
MAX_DISAGREEMENT_RATIO = 3.0
"""Ratio to the median disagreement above which a window is rejected."""
NEGLIGIBLE_DISAGREEMENT = 0.01
"""Disagreement (of logarithms, so about 1 %) up to which a window is always accepted."""
MAX_GAP_S = 30.0
"""Pause between batches, in seconds, across which slowdowns are not smoothed."""


class Measurement:
    """Sample batches that were measured together.

    Attributes:
        batches: Sample batches by session and time.
        statistic: `minima` or `medians`; see `estimates`.
        benchmarks: Sorted keys of the benchmarks.
    """

    def __init__(self, batches: Sequence[SampleBatch], statistic: str) -> None:
        """Correct `batches`, given in any order, for drift.

        Raises:
            MeasurementError: A batch is empty, or a duration is not a positive number.
        """
        self.batches = sorted(batches, key=lambda batch: (batch.session, batch.at_unix_s))
        self.statistic = statistic
        self.benchmarks, self._owner = np.unique([batch.benchmark for batch in self.batches], return_inverse=True)
        self._points = self._slowdown = np.empty(0)
        self._accepted = np.empty(0, dtype=bool)
        if batches:
            self._points = reduce_batches([batch.durations_ms for batch in self.batches], statistic)
            self._slowdown = self._estimate_slowdowns()
            self._accepted = self._accept_windows()

    def durations(self, benchmark: str) -> list[list[float]]:
        """Return the raw durations of a benchmark in ms, a list per sample batch, by session and time."""
        return [list(self.batches[index].durations_ms) for index in self._indices(benchmark)]

    def summary(self, benchmark: str) -> Summary:
        """Return the statistics of a benchmark.

        Raises:
            MeasurementError: The benchmark has no sample batch.
        """
        kept = self._indices(benchmark, accepted=True)
        durations = [self.batches[index].durations_ms for index in kept]
        return summarise_batches(durations, self.statistic, self._slowdown[kept], self.instances(benchmark))

    def points(self, benchmark: str) -> Array:
        """Return the drift-corrected latency of each accepted batch of a benchmark in ms, [batches]."""
        kept = self._indices(benchmark, accepted=True)
        return self._points[kept] / self._slowdown[kept]

    def instances(self, benchmark: str) -> NDArray[np.int_]:
        """Return the instance of the graph behind each of the `points`, numbered over all sessions, [batches]."""
        return self._number_instances(self._indices(benchmark, accepted=True))

    def split_halves(self) -> tuple[Measurement, Measurement]:
        """Split into two measurements: even and odd instances of each benchmark, or batches if it has one instance."""
        number = np.empty(len(self.batches), dtype=int)
        for benchmark in range(len(self.benchmarks)):
            kept = np.flatnonzero(self._owner == benchmark)
            instance = self._number_instances(kept)
            number[kept] = instance if instance.any() else np.arange(len(kept))
        even, odd = ([self.batches[index] for index in np.flatnonzero(number % 2 == parity)] for parity in (0, 1))
        return Measurement(even, self.statistic), Measurement(odd, self.statistic)

    @property
    def num_rejected(self) -> int:
        """Number of rejected sample batches."""
        return int((~self._accepted).sum())

    def _number_instances(self, indices: NDArray[np.intp]) -> NDArray[np.int_]:
        keys = [(self.batches[index].session, self.batches[index].instance) for index in indices]
        return np.unique(keys, axis=0, return_inverse=True)[1].ravel() if keys else np.empty(0, dtype=int)

    def _indices(self, benchmark: str, *, accepted: bool = False) -> NDArray[np.intp]:
        """Return the batches of a benchmark; with `accepted`, only those, or all if every batch was rejected."""
        position = int(np.searchsorted(self.benchmarks, benchmark)) if len(self.benchmarks) else 0
        if position == len(self.benchmarks) or self.benchmarks[position] != benchmark:
            return np.empty(0, dtype=np.intp)
        indices = np.flatnonzero(self._owner == position)
        kept = indices[self._accepted[indices]] if accepted else indices
        return kept if len(kept) else indices

    def _accept_windows(self) -> NDArray[np.bool_]:
        """Return a mask of the batches whose window agrees about the machine's speed, [batches]."""
        steady = self._points / self._slowdown
        window = np.arange(len(steady)) // CHECK_WINDOW
        usual = _group_medians(steady, self._owner)
        disagreement = _group_medians(np.abs(np.log(steady / usual[self._owner])), window)
        limit = max(MAX_DISAGREEMENT_RATIO * float(np.median(disagreement)), NEGLIGIBLE_DISAGREEMENT)
        accepted: NDArray[np.bool_] = (disagreement <= limit)[window]
        return accepted

    def _estimate_slowdowns(self) -> Array:
        """Return the slowdown of the machine at each batch, levels included; 1 is its usual speed."""
        points = self._points
        sessions = np.array([batch.session for batch in self.batches])
        level = _estimate_levels(points, self._owner, sessions)
        gaps = np.diff([batch.at_unix_s for batch in self.batches]) > MAX_GAP_S
        cuts = np.flatnonzero(gaps | (np.diff(sessions) != 0)) + 1
        slowdown = level
        for _ in range(NUM_PASSES):
            usual = _group_medians(points / slowdown, self._owner)
            deviation = np.log(points / level / usual[self._owner])
            slowdown = level * np.exp(np.concatenate([_running_median(part) for part in np.split(deviation, cuts)]))
        return slowdown


def _group_medians(values: Array, group: NDArray[np.intp]) -> Array:
    """Return the median of the values of each group, [groups]; groups are numbered from 0."""
    from scipy.ndimage import median

    medians: Array = median(values, group, np.arange(group.max() + 1))
    return medians


def _estimate_levels(points: Array, owner: NDArray[np.intp], sessions: NDArray[np.int_]) -> Array:
    """Return the level of each batch's session: 1 for the largest, the others relative to it by shared benchmarks.

    A session that shares no benchmark with any connected session keeps level 1.
    """
    names, counts = np.unique(sessions, return_counts=True)
    level: Array = np.ones_like(points)
    if len(names) == 1:
        return level
    usual = {int(z): dict(_benchmark_medians(points[sessions == z], owner[sessions == z])) for z in names}
    connected = dict(usual.pop(int(names[counts.argmax()])))
    while usual:
        nearest = max(usual, key=lambda z: len(usual[z].keys() & connected.keys()))
        medians = usual.pop(nearest)
        shared = medians.keys() & connected.keys()
        factor = float(np.median([medians[k] / connected[k] for k in shared])) if shared else 1.0
        level[sessions == nearest] = factor
        connected.update({k: value / factor for k, value in medians.items() if k not in connected})
    return level


def _benchmark_medians(points: Array, owner: NDArray[np.intp]) -> list[tuple[int, float]]:
    """Return (benchmark, median of its points) of a session."""
    benchmarks, group = np.unique(owner, return_inverse=True)
    return list(zip(benchmarks.tolist(), _group_medians(points, group).tolist(), strict=True))


def _running_median(values: Array) -> Array:
    """Return the median within `SMOOTHING_RADIUS` of each value; near the ends, of the nearest radius + 1 or more."""
    from scipy.ndimage import median_filter

    radius = min(SMOOTHING_RADIUS, max((len(values) - 1) // 2, 0))
    filtered: Array = median_filter(values, size=2 * radius + 1, mode="mirror")
    return filtered
