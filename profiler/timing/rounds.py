"""The timing protocol: rounds over all subjects in random order, until each is known well enough.

Noise of a shared machine then hits every subject alike, and what is compared was measured side by side. All timing
passes through `Runner.run` and `clock`, so the protocol runs the same on a simulated device.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...lut.statistics.estimates import BATCHES_PER_INSTANCE
from ...lut.statistics.measurement import Measurement, SampleBatch
from ..backends import Runner
from ..backends.base import pause_gc
from .stopping import StoppingRule

VISIT_MS = 4.0
MIN_REPEATS, MAX_REPEATS = 3, 40
COMMIT_S = 1.0
"""Visits are handed over about this often: what a crash can lose."""
FIRST_CHECK = 8
"""Rounds before the first verdicts are sought, and between any two at least."""
COMPANY = 32
"""Subjects that a round has at least, known ones among them: alone, a probe would find its caches warm."""
CHECKS = 1.2
"""Verdicts are sought again after so many times the rounds."""


@dataclass(frozen=True)
class RoundProgress:
    """Where a long job stands.

    Attributes:
        label: what is being done.
        done: share of the whole, 0 to 1.
        left_s: estimate of the seconds left; None while nothing is known.
    """

    label: str
    done: float
    left_s: float | None


OnProgress = Callable[[RoundProgress], None]
OnBatches = Callable[[list[SampleBatch]], None]
OnVerdicts = Callable[[Measurement, dict[str, str]], None]
Clock = Callable[[], float]


def quiet(_: RoundProgress) -> None:
    """Report progress to nobody."""


def steady_clock() -> Clock:
    """Unix time in seconds that never jumps: taken once, carried on by the monotonic clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class Rounds:
    """Measures prepared runners, interleaved, until there is a verdict on each.

    Args:
        runners: prepared runners, by subject; a graph that is loaded anew takes its place here.
        paces: how each is visited.
        statistic: what a visit counts as, see `lut.statistics`.
        session: number of the session that the visits belong to.
        before: visits already made, to these subjects and others.
        on_visits: takes the visits of about `COMMIT_S` at a time.
        on_verdicts: takes the measurement so far, and subject -> verdict of those that are known now.
        load: prepares the graph of a subject once more; None keeps the runners as they are.
        seed: of the visiting order.
        on_progress: told after each round.
        clock: unix seconds that never jump.
    """

    def __init__(
        self,
        runners: dict[str, Runner],
        paces: Mapping[str, StoppingRule],
        statistic: str,
        *,
        load: Callable[[str], Runner | None] | None = None,
        session: int = 0,
        before: Sequence[SampleBatch] = (),
        on_visits: OnBatches = lambda _: None,
        on_verdicts: OnVerdicts = lambda *_: None,
        seed: int = 0,
        on_progress: OnProgress = quiet,
        clock: Clock | None = None,
    ) -> None:
        self._runners, self._paces, self._statistic = runners, dict(paces), statistic
        self._visits = list(before)
        self._on_visits, self._on_verdicts, self._on_progress = on_visits, on_verdicts, on_progress
        self._seed, self._clock = seed, clock or steady_clock()
        self._load, self._loads = load, dict.fromkeys(runners, 0)
        self._open = list(runners)
        self._made = dict.fromkeys(runners, 0)
        self._session = session
        self._spent_s, self._loading_s = dict.fromkeys(runners, 0.0), dict.fromkeys(runners, 0.0)

    def run(self, seconds: float | None = None, *, always: Sequence[str] = (), least: int = 0) -> Measurement:
        """Measure until there is a verdict on every subject; all visits, those made before included.

        Args:
            seconds: no visit is begun after so many, loading included; None for no limit.
            always: subjects that are visited to the end, whatever is known of them, and not waited for.
            least: visits that each subject without a verdict gets even if that takes longer than `seconds`.
        """
        start = self._clock()

        def over() -> bool:
            return seconds is not None and self._clock() - start > seconds and self._fewest() >= least

        repeats = {subject: self._runs(subject) for subject in self._runners}
        self._open = [subject for subject in self._open if subject not in always]
        pending: list[SampleBatch] = []
        handed, check, number, late = start, 0, 0, False
        while not late:
            if number >= check:
                self._hand_over(pending)
                left_s = self._judge()
                if number or not self._open:  # before the first round nothing is known of what is left
                    self._tell(start, seconds, left_s, least)
                check = self._next_check(number)
                if not self._open:
                    break
            order = self._order(number, always)
            self._load_anew(order, over)
            for subject in order:
                late = over()
                if late:
                    break
                pending.append(self._visit(subject, repeats[subject]))
                if self._clock() - handed > COMMIT_S:
                    self._hand_over(pending)
                    handed = self._clock()
            number += 1
        self._hand_over(pending)
        if late:
            self._judge()
        return Measurement(self._visits, self._statistic)

    @property
    def undecided(self) -> list[str]:
        """Subjects without a verdict."""
        return list(self._open)

    def _fewest(self) -> int:
        """Visits that the least visited subject has."""
        return min(self._made.values(), default=0)

    def _next_check(self, number: int) -> int:
        """Round of the next check: ever later, but none after an open subject has had its most visits."""
        left = [(self._paces[subject], self._paces[subject].most - self._made[subject]) for subject in self._open]
        soon = min((pace.period * visits for pace, visits in left if visits > 0), default=FIRST_CHECK)
        return min(max(number + FIRST_CHECK, int(number * CHECKS)), number + soon)

    def _order(self, number: int, always: Sequence[str]) -> list[str]:
        """Subjects of a round: those whose turn it is and company from the others, shuffled."""
        draw = random.Random(f"{self._seed}/{self._session}/{number}")
        wanted = {*self._open, *always}
        company = [subject for subject in self._runners if subject not in wanted]
        wanted |= set(draw.sample(company, min(len(company), max(COMPANY - len(wanted), 0))))
        turn = [
            subject
            for index, subject in enumerate(self._runners)
            if subject in wanted and (number + index) % self._paces[subject].period == 0
        ]
        draw.shuffle(turn)
        return turn

    def _load_anew(self, subjects: Sequence[str], over: Callable[[], bool]) -> None:
        """Load again what has been visited often enough in one place; before the round, so that none is visited hot.

        When the first loads end differs with the length of a subject's name: in a round only some probes are loaded.
        Each gets as many visits as an interval needs to count it.
        """
        for subject in subjects:
            pace, made = self._paces[subject], self._made[subject]
            if self._load is None or pace.reload is None or made < min(pace.reload, BATCHES_PER_INSTANCE) or over():
                continue
            affordable = self._loading_s[subject] <= pace.loading * self._spent_s[subject]
            if affordable and (made + len(subject)) % pace.reload == 0:
                begun = self._clock()
                runner = self._load(subject)
                self._loading_s[subject] += self._clock() - begun
                if runner is not None:
                    self._runners[subject].close()  # only now: the new one must not get the old one's memory
                    self._runners[subject] = runner
                    self._loads[subject] += 1

    def _visit(self, subject: str, runs: int) -> SampleBatch:
        at = self._clock()
        with pause_gc():
            durations = self._runners[subject].run(runs)
        self._spent_s[subject] += self._clock() - at
        self._made[subject] += 1
        return SampleBatch(subject, self._made[subject] - 1, at, durations, self._session, self._loads[subject])

    def _hand_over(self, pending: list[SampleBatch]) -> None:
        if pending:
            self._on_visits(list(pending))
            self._visits += pending
            pending.clear()

    def _judge(self) -> float:
        """Seek verdicts on what is open; the estimate of the seconds left."""
        measurement = Measurement(self._visits, self._statistic)
        verdicts, left_s = {}, 0.0
        for subject in self._open:
            points = measurement.points(subject)
            pace = self._paces[subject]
            verdict = pace.verdict(points, self._spent_s[subject], measurement.instances(subject))
            if verdict is not None:
                verdicts[subject] = verdict
            elif len(points):
                summary = measurement.summary(subject)
                wanted = pace.visits_wanted(summary.latency_ms, summary.ci_ms, len(points))
                each = self._spent_s[subject] / max(self._made[subject], 1)
                left_s += max(wanted - len(points), 1) * each
        self._open = [subject for subject in self._open if subject not in verdicts]
        if verdicts:
            self._on_verdicts(measurement, verdicts)
        return left_s

    def _tell(self, start: float, seconds: float | None, left_s: float, least: int) -> None:
        spent = self._clock() - start
        if seconds is not None:
            for_least_s = spent * (least / max(self._fewest(), 1) - 1)
            left_s = min(left_s, max(seconds - spent, for_least_s, 0.0))
        self._on_progress(RoundProgress("measuring", spent / max(spent + left_s, 1e-9), left_s))

    def _runs(self, subject: str) -> int:
        """Runs a visit."""
        fixed = self._paces[subject].runs
        if fixed is not None:
            return fixed
        once = min(self._runners[subject].run(MIN_REPEATS))
        return max(MIN_REPEATS, min(MAX_REPEATS, round(VISIT_MS / max(once, 1e-3))))
