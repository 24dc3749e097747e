"""The timing protocol: rounds over all subjects in random order, a few short repeats a visit.

Noise of a shared machine then hits every subject alike, and what is compared was measured side by side. All timing
passes through `Runner.run` and `clock`, so the protocol runs the same on a simulated device.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ..lut.measurement import Visits
from .backends import Runner

VISIT_MS = 4.0
MIN_REPEATS, MAX_REPEATS = 3, 40


@dataclass(frozen=True)
class Progress:
    """Where a long job stands.

    Attributes:
        label: what is being done.
        done: share of the whole, 0 to 1.
        left_s: estimate of the seconds left; None while nothing is known.
    """

    label: str
    done: float
    left_s: float | None


OnProgress = Callable[[Progress], None]
OnRound = Callable[[Visits], None]


def quiet(_: Progress) -> None:
    """Report progress to nobody."""


def interleave(
    runners: Mapping[str, Runner],
    done: Mapping[str, int],
    rounds: int,
    on_round: OnRound,
    *,
    seed: int = 0,
    budget_s: float | None = None,
    min_rounds: int = 3,
    on_progress: OnProgress = quiet,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Measure every runner `rounds` times, interleaved.

    Args:
        runners: prepared runners, by subject.
        done: rounds already behind each subject, which are not measured again.
        rounds: visits that each subject is to have in all.
        on_round: takes the visits of a finished round, (subject, round, unix time in seconds, durations in ms) each.
        seed: of the visiting order.
        budget_s: seconds after which no further round is begun, once each subject has `min_rounds`.
        min_rounds: see `budget_s`.
        on_progress: told after each visit.
        clock: seconds; only differences count.
    """
    start, visited = clock(), 0
    repeats = {subject: _repeats(runner) for subject, runner in runners.items()}
    total = sum(max(rounds - done.get(subject, 0), 0) for subject in runners)
    for number in range(rounds):
        if budget_s is not None and number >= min_rounds and clock() - start > budget_s:
            break
        open_subjects = [subject for subject in runners if done.get(subject, 0) <= number]
        random.Random(f"{seed}/{number}").shuffle(open_subjects)
        visits: Visits = []
        for subject in open_subjects:
            with _no_collector():
                durations = runners[subject].run(repeats[subject])
            visits.append((subject, number, time.time(), durations))
            visited += 1
            on_progress(_progress(clock() - start, visited, total, budget_s))
        if visits:
            on_round(visits)


def _progress(spent_s: float, visited: int, total: int, budget_s: float | None) -> Progress:
    """How far the rounds are, by visits or by the budget, whichever ends first."""
    left_s, share = spent_s / visited * (total - visited), visited / total
    if budget_s is not None and budget_s - spent_s < left_s:
        left_s, share = max(budget_s - spent_s, 0.0), spent_s / max(budget_s, spent_s)
    return Progress("measuring", share, left_s)


def _repeats(runner: Runner) -> int:
    """Runs a visit, so that it lasts about `VISIT_MS`."""
    once = min(runner.run(MIN_REPEATS))
    return max(MIN_REPEATS, min(MAX_REPEATS, round(VISIT_MS / max(once, 1e-3))))


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of a timed visit."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
