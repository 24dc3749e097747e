"""Measuring a set of workloads on a target: compile, warm up, pin, visit in rounds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from ...errors import MeasurementError, UsageError
from ...lut.statistics.estimates import MEDIANS, MINIMA
from ...lut.statistics.measurement import Measurement, SampleBatch
from ...lut.table.table import NETWORK_PREFIX
from ...lut.target import Target
from ..backends import Backend, Runner, Workload
from ..machine.environment import pinned
from .rounds import MIN_REPEATS, OnBatches, OnProgress, OnVerdicts, RoundProgress, Rounds, quiet
from .stopping import StoppingRule, stopping_rule

MIN_ROUNDS = 4
MIN_RUNS = 200
"""Runs of a network that a frame rate needs."""
WARM_UP_SHARE = 0.3
"""Unrecorded time before a frame rate is measured, as a share of the recorded: 3 s before 10 s."""
ENERGY_S = 1.0
"""How long a network runs to tell its energy: counters move in steps of up to a tenth of a second."""
ENERGY_BATCH_S = 0.1
"""Runs queued at once meanwhile: gaps between batches, in which the device draws power too, are short against it."""
LOADING_SHARE = 0.2
"""How long loading a network anew may take while its frame rate is measured, as a share of its runs."""
COMPILE_SHARE = 0.6
"""Part of a budget that compiling may use; what is not compiled by then is left for another call."""
OnFailure = Callable[[str, str], None]


@dataclass(frozen=True)
class MeasureJob:
    """What is to be measured, and how it is visited."""

    workload: Workload
    pace: StoppingRule


@dataclass(frozen=True)
class Assignment:
    """A workload, and where it is to be run."""

    backend: Backend
    target: Target
    workload: Workload

    def ready(self) -> Runner:
        """It compiled and warmed up.

        Raises:
            MeasurementError: the backend refuses it.
        """
        runner = self.backend.compile(self.workload, self.target)
        runner.prepare()
        return runner


def placed(backend: Backend, target: Target, workloads: Mapping[str, Workload]) -> dict[str, Assignment]:
    """Workloads that all run in one place."""
    return {subject: Assignment(backend, target, workload) for subject, workload in workloads.items()}


def default_statistic(target: Target) -> str:
    """What a visit counts as; see `lut.statistics`."""
    return MINIMA if target.device.is_cpu else MEDIANS


def check_protocol(target: Target, rounds: int | None = None) -> None:
    """Show that this machine can measure so.

    Raises:
        UsageError: more threads than cores, or too few rounds.
    """
    cores = os.cpu_count() or 1
    if target.device.is_cpu and target.threads > cores:
        raise UsageError(f"{target.threads} threads asked for, but this machine has {cores} cores")
    if rounds is not None and rounds < MIN_ROUNDS:
        raise UsageError(f"{rounds} rounds are too few for a statistic: at least {MIN_ROUNDS}")


def measure(
    backend: Backend,
    target: Target,
    jobs: Mapping[str, MeasureJob],
    *,
    on_failure: OnFailure,
    on_visits: OnBatches = lambda _: None,
    on_verdicts: OnVerdicts = lambda *_: None,
    on_pinned: Callable[[], object] = lambda: None,
    on_energy: Callable[[str, float], None] = lambda *_: None,
    energy_mj: Callable[[], float | None] = lambda: None,
    session: int = 0,
    before: Sequence[SampleBatch] = (),
    always: Sequence[str] = (),
    budget_s: float | None = None,
    seed: int = 0,
    worker: int = 0,
    on_progress: OnProgress = quiet,
) -> tuple[Measurement, list[str]]:
    """Measure every job until it is known well enough; the measurement, and the jobs without a verdict.

    Args:
        backend: made for `target` by `require`.
        target: where to measure.
        jobs: what, by subject.
        on_failure: takes subject and reason of a workload that the backend refuses.
        on_visits: takes visits as they come, see `Rounds`.
        on_verdicts: takes what has become known, see `Rounds`.
        on_pinned: called once this process is kept to its cores.
        on_energy: takes network and energy of one run, in millijoules, where the device counts it.
        energy_mj: what the device has used so far, in millijoules; None where it does not count.
        session: number of the session that the visits belong to.
        before: visits already made.
        always: jobs that are visited to the end and not waited for.
        budget_s: seconds, of compiling and measuring, after which nothing is begun.
        seed: of the visiting order.
        worker: which of several processes on this machine this is.
        on_progress: told how far it is.

    Raises:
        UsageError: more threads than cores, or a budget in which nothing could be measured.
    """
    check_protocol(target)
    start = time.monotonic()
    places = placed(backend, target, {subject: job.workload for subject, job in jobs.items()})
    compile_s = None if budget_s is None else COMPILE_SHARE * budget_s
    refused: list[str] = []

    def refuse(subject: str, reason: str) -> None:
        refused.append(subject)
        on_failure(subject, reason)

    with pinned(target, worker), prepared(places, refuse, on_progress, compile_s) as runners:
        on_pinned()
        left_s = None if budget_s is None else budget_s - (time.monotonic() - start)
        if left_s is not None and (left_s <= 0 or (jobs and not runners and not refused)):
            raise UsageError(
                f"the budget was used up by compiling {len(runners)} of {len(jobs)} graphs before anything was "
                "measured: allow more time (--budget)"
            )
        rounds = Rounds(
            runners,
            {subject: job.pace for subject, job in jobs.items()},
            default_statistic(target),
            load=partial(_load, places),
            session=session,
            before=before,
            on_visits=on_visits,
            on_verdicts=on_verdicts,
            seed=seed,
            on_progress=on_progress,
        )
        found = rounds.run(left_s, always=always)
        for subject, runner in runners.items():
            late = budget_s is not None and time.monotonic() - start > budget_s
            if (
                not late
                and subject.startswith(NETWORK_PREFIX)
                and (spent := energy_per_run(runner, energy_mj)) is not None
            ):
                on_energy(subject, spent)
    return found, rounds.undecided


def _load(places: Mapping[str, Assignment], subject: str) -> Runner | None:
    """The subject's workload made ready once more; None if that fails now, though it went well before."""
    try:
        return places[subject].ready()
    except MeasurementError:
        return None


def energy_per_run(runner: Runner, energy_mj: Callable[[], float | None]) -> float | None:
    """Measure the energy of one run in millijoules, over `ENERGY_S` of runs without gaps; None without a counter.

    Args:
        runner: a prepared runner.
        energy_mj: the device's counter so far, in millijoules; None where it has none.
    """
    if energy_mj() is None:
        return None
    batch = 1
    while _seconds(runner, batch) < ENERGY_BATCH_S:  # warms the device up too
        batch *= 2
    before, start, runs = energy_mj(), time.monotonic(), 0
    while time.monotonic() - start < ENERGY_S:
        runner.run_untimed(batch)
        runs += batch
    after = energy_mj()
    return None if before is None or after is None else (after - before) / runs


def _seconds(runner: Runner, runs: int) -> float:
    """Return the wall time of `runs` runs."""
    start = time.monotonic()
    runner.run_untimed(runs)
    return time.monotonic() - start


def measure_rounds(
    backend: Backend,
    target: Target,
    workloads: Mapping[str, Workload],
    rounds: int | None = None,
    *,
    on_progress: OnProgress = quiet,
) -> Measurement:
    """Measure whole networks by the table's protocol, without a table.

    Args:
        backend: made for `target` by `require`.
        target: where to measure.
        workloads: what, by subject.
        rounds: visits to each at most; the protocol's if None.
        on_progress: told how far it is.

    Raises:
        MeasurementError: the backend refuses a workload.
    """
    check_protocol(target, rounds)
    pace = stopping_rule(target, "network", "").at_most(rounds)
    jobs = {subject: MeasureJob(workload, replace(pace, period=1)) for subject, workload in workloads.items()}
    return measure(backend, target, jobs, on_failure=_refuse, on_progress=on_progress)[0]


def measure_seconds(
    places: Mapping[str, Assignment], seconds: float, *, on_progress: OnProgress = quiet
) -> Measurement:
    """Measure by the frame-rate protocol: `WARM_UP_SHARE` of `seconds` unrecorded, then `seconds`, `MIN_RUNS` at least.

    On a CPU graphs are loaded anew as for a table, as far as `LOADING_SHARE` allows, so that one place in memory is not
    taken for the network; where loading fails, the graph stays where it is.

    Args:
        places: what is visited in turn, each in its own place; all on one device, with as many threads.
        seconds: for all of them together, loading included.
        on_progress: told how far it is.

    Raises:
        MeasurementError: a backend refuses a workload; the message names it.
    """
    target = next(iter(places.values())).target
    check_protocol(target)
    reload = stopping_rule(target, "network", "").reload
    endless = StoppingRule(
        runs=None, period=1, least=10**9, most=10**9, reload=reload, loading=LOADING_SHARE, cap_s=math.inf
    )

    def refuse(subject: str, reason: str) -> None:
        name = places[subject].workload.name
        raise MeasurementError(reason if name in reason else f"{name}: {reason}")

    with pinned(target), prepared(places, refuse, on_progress) as runners:
        rounds = partial(
            Rounds,
            runners,
            dict.fromkeys(runners, endless),
            default_statistic(target),
            load=partial(_load, places),
            on_progress=on_progress,
        )
        rounds().run(WARM_UP_SHARE * seconds)
        return rounds().run(seconds, least=-(-MIN_RUNS // MIN_REPEATS))


def _refuse(key: str, reason: str) -> None:
    raise MeasurementError(reason)


@contextmanager
def prepared(
    places: Mapping[str, Assignment],
    on_failure: OnFailure,
    on_progress: OnProgress = quiet,
    seconds: float | None = None,
) -> Iterator[dict[str, Runner]]:
    """Compile and warm up every workload; close all at the end.

    One that its backend refuses is told to `on_failure` and left out; so are those not begun after `seconds`.
    """
    runners: dict[str, Runner] = {}
    start = time.monotonic()
    try:
        for number, (key, place) in enumerate(places.items(), start=1):
            if seconds is not None and time.monotonic() - start > seconds:
                break
            try:
                runners[key] = place.ready()
            except MeasurementError as error:
                on_failure(key, str(error).splitlines()[0])
            left = (time.monotonic() - start) / number * (len(places) - number)
            on_progress(RoundProgress("compiling", number / len(places), left))
        yield runners
    finally:
        for runner in runners.values():
            runner.close()
