"""The timing protocol: rounds over all benchmarks in random order, until each has converged.

Noise of a shared machine then affects all benchmarks equally, and compared benchmarks run side by side. All timing goes
through `Runner.run` and `clock`, so the protocol also runs on a simulated device.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...lut.statistics.estimates import BATCHES_PER_INSTANCE
from ...lut.statistics.measurement import Measurement, SampleBatch
from ..backends import Runner
from ..backends.base import pause_gc
from .observer import MeasurementObserver, RoundProgress
from .stopping import StoppingRule

BATCH_MS = 4.0
"""Duration of a sample batch, in milliseconds."""
MIN_REPEATS, MAX_REPEATS = 3, 40
COMMIT_S = 1.0
"""Seconds between two commits of sample batches: the most that a crash loses."""
FIRST_CHECK = 8
"""Rounds before the first check, and the minimum between two checks."""
MIN_ROUND_SIZE = 32
"""Minimum of benchmarks per round, converged ones included: alone, a probe would find its caches warm."""
CHECK_GROWTH = 1.2
"""Ratio of the rounds at two successive checks."""


Clock = Callable[[], float]


@dataclass(frozen=True)
class Session:
    """Session: one process that measures.

    Attributes:
        number: number of the session, which its sample batches name.
        earlier: sample batches of earlier sessions, of these and other benchmarks.
        seed: seed of the measuring order.
        worker: index of this process among those on this machine.
    """

    number: int = 0
    earlier: Sequence[SampleBatch] = ()
    seed: int = 0
    worker: int = 0


STANDALONE = Session()
"""Session of a measurement outside a table."""


def steady_clock() -> Clock:
    """Return a clock of Unix seconds that never jumps: the offset is read once, the rest is monotonic."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class Rounds:
    """Interleaved measurement of prepared runners until all benchmarks have converged.

    Args:
        runners: prepared runners, by benchmark; a reload replaces the runner in place.
        rules: stopping rule of each benchmark.
        statistic: statistic of a sample batch, see `lut.statistics`.
        observer: receives new sample batches about every `COMMIT_S`; decisions and progress at each check.
        session: session that the new sample batches belong to.
        load: function that prepares another instance of a benchmark's graph; None disables reloads.
        clock: Unix seconds that never jump.
    """

    def __init__(
        self,
        runners: dict[str, Runner],
        rules: Mapping[str, StoppingRule],
        statistic: str,
        observer: MeasurementObserver,
        *,
        session: Session = STANDALONE,
        load: Callable[[str], Runner | None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._runners, self._rules, self._statistic = runners, dict(rules), statistic
        self._observer, self._session, self._batches = observer, session, list(session.earlier)
        self._clock = clock or steady_clock()
        self._load, self._instances = load, dict.fromkeys(runners, 0)
        self._phase = {benchmark: position / len(runners) for position, benchmark in enumerate(runners)}
        self._open = list(runners)
        self._made = dict.fromkeys(runners, 0)
        self._spent_s, self._loading_s = dict.fromkeys(runners, 0.0), dict.fromkeys(runners, 0.0)

    def run(self, seconds: float = math.inf, *, always: Sequence[str] = (), min_batches: int = 0) -> Measurement:
        """Measure until every benchmark is decided; return all sample batches, earlier ones included.

        Args:
            seconds: time limit, reloads included.
            always: benchmarks that run in every round, decided or not, and are not waited for.
            min_batches: batches of every undecided benchmark, even beyond `seconds`.
        """
        start = self._clock()

        def is_over() -> bool:
            return self._clock() - start > seconds and self._min_made() >= min_batches

        repeats = {benchmark: self._count_runs(benchmark) for benchmark in self._runners}
        self._open = [benchmark for benchmark in self._open if benchmark not in always]
        pending: list[SampleBatch] = []
        committed, check, number, late = start, 0, 0, False
        while not late:
            if number >= check:
                self._commit(pending)
                left_s = self._decide()
                if number or not self._open:  # the first round has no estimate yet
                    self._report(start, seconds, left_s, min_batches)
                check = self._next_check(number)
                if not self._open:
                    break
            order = self._order(number, always)
            self._reload(order, is_over)
            for benchmark in order:
                late = is_over()
                if late:
                    break
                pending.append(self._measure(benchmark, repeats[benchmark]))
                if self._clock() - committed > COMMIT_S:
                    self._commit(pending)
                    committed = self._clock()
            number += 1
        self._commit(pending)
        if late:
            self._decide()
        return Measurement(self._batches, self._statistic)

    @property
    def undecided(self) -> list[str]:
        """Benchmarks without a decision."""
        return list(self._open)

    def _min_made(self) -> int:
        """Return the smallest number of new batches of a benchmark."""
        return min(self._made.values(), default=0)

    def _next_check(self, number: int) -> int:
        """Return the round of the next check: ever later, but before a benchmark exceeds its maximum."""
        left = [
            (self._rules[benchmark], self._rules[benchmark].max_batches - self._made[benchmark])
            for benchmark in self._open
        ]
        soon = min((rule.period * batches for rule, batches in left if batches > 0), default=FIRST_CHECK)
        return min(max(number + FIRST_CHECK, int(number * CHECK_GROWTH)), number + soon)

    def _order(self, number: int, always: Sequence[str]) -> list[str]:
        """Return the benchmarks of a round, shuffled: undecided ones in their period, others up to the minimum."""
        draw = random.Random(f"{self._session.seed}/{self._session.number}/{number}")
        chosen = {*self._open, *always}
        others = [benchmark for benchmark in self._runners if benchmark not in chosen]
        chosen |= set(draw.sample(others, min(len(others), max(MIN_ROUND_SIZE - len(chosen), 0))))
        order = [
            benchmark
            for index, benchmark in enumerate(self._runners)
            if benchmark in chosen and (number + index) % self._rules[benchmark].period == 0
        ]
        draw.shuffle(order)
        return order

    def _reload(self, benchmarks: Sequence[str], is_over: Callable[[], bool]) -> None:
        """Replace instances that have had their batches; before the round, so that no benchmark runs right after it.

        Reloads are spread evenly over their period, so a round reloads only some of the benchmarks. Every instance gets
        the batches that a confidence interval needs to count it.
        """
        for benchmark in benchmarks:
            rule, made = self._rules[benchmark], self._made[benchmark]
            if self._load is None or rule.reload is None or made < min(rule.reload, BATCHES_PER_INSTANCE) or is_over():
                continue
            offset = int(self._phase[benchmark] * rule.reload)
            affordable = self._loading_s[benchmark] <= rule.loading * self._spent_s[benchmark]
            if affordable and (made + offset) % rule.reload == 0:
                start = self._clock()
                runner = self._load(benchmark)
                self._loading_s[benchmark] += self._clock() - start
                if runner is not None:
                    self._runners[benchmark].close()  # after loading: the new instance must not reuse its memory
                    self._runners[benchmark] = runner
                    self._instances[benchmark] += 1

    def _measure(self, benchmark: str, runs: int) -> SampleBatch:
        at = self._clock()
        with pause_gc():
            durations = self._runners[benchmark].run(runs)
        self._spent_s[benchmark] += self._clock() - at
        self._made[benchmark] += 1
        number, instance = self._made[benchmark] - 1, self._instances[benchmark]
        return SampleBatch(benchmark, number, at, durations, self._session.number, instance)

    def _commit(self, pending: list[SampleBatch]) -> None:
        if pending:
            self._observer.on_batches(list(pending))
            self._batches += pending
            pending.clear()

    def _decide(self) -> float:
        """Decide on the open benchmarks; return the estimated seconds left."""
        measurement = Measurement(self._batches, self._statistic)
        decisions, left_s = {}, 0.0
        for benchmark in self._open:
            points = measurement.points(benchmark)
            rule = self._rules[benchmark]
            decision = rule.decide(points, self._spent_s[benchmark], measurement.instances(benchmark))
            if decision is not None:
                decisions[benchmark] = decision
            elif len(points):
                summary = measurement.summary(benchmark)
                needed = rule.estimate_batches(summary.latency_ms, summary.ci_ms, len(points))
                batch_s = self._spent_s[benchmark] / max(self._made[benchmark], 1)
                left_s += max(needed - len(points), 1) * batch_s
        self._open = [benchmark for benchmark in self._open if benchmark not in decisions]
        if decisions:
            self._observer.on_decisions(measurement, decisions)
        return left_s

    def _report(self, start: float, seconds: float, left_s: float, min_batches: int) -> None:
        spent = self._clock() - start
        min_left_s = spent * (min_batches / max(self._min_made(), 1) - 1)
        left_s = min(left_s, max(seconds - spent, min_left_s, 0.0))
        self._observer.on_progress(RoundProgress("measuring", spent / max(spent + left_s, 1e-9), left_s))

    def _count_runs(self, benchmark: str) -> int:
        """Return the runs per batch."""
        fixed = self._rules[benchmark].runs
        if fixed is not None:
            return fixed
        once = min(self._runners[benchmark].run(MIN_REPEATS))
        return max(MIN_REPEATS, min(MAX_REPEATS, round(BATCH_MS / max(once, 1e-3))))
