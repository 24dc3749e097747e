"""Measurement of workloads on a target: compile, warm up, pin, run in rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from ...errors import MeasurementError, UsageError
from ...lut.statistics.estimates import MEDIANS, MINIMA
from ...lut.statistics.measurement import Measurement
from ...lut.table.table import NETWORK_PREFIX
from ...lut.target import Target
from ..backends import Backend, Runner, Workload
from ..machine.cpu_limits import require_threads
from ..machine.environment import pinned
from .observer import MeasurementObserver, OnProgress, RoundProgress, quiet
from .rounds import MIN_REPEATS, STANDALONE, Rounds, Session
from .stopping import StoppingRule, stopping_rule

MIN_ROUNDS = 4
MIN_RUNS = 200
"""Minimum of runs for a frame rate."""
WARM_UP_SHARE = 0.3
"""Warm-up of a frame rate, as a share of the recorded time: 3 s before 10 s."""
ENERGY_S = 1.0
"""Duration of an energy measurement: counters advance in steps of up to 0.1 s."""
ENERGY_BATCH_S = 0.1
"""Duration of the runs queued at once, long against the gaps, in which the device draws power too."""
RELOAD_SHARE = 0.2
"""Limit of the reload time during a frame-rate measurement, as a share of the run time."""
COMPILE_SHARE = 0.6
"""Share of a budget for compiling; graphs not compiled by then stay pending."""

EnergyCounter = Callable[[], float | None]
"""Energy counter of a device, in millijoules; it returns None where unavailable."""


@dataclass(frozen=True)
class MeasureJob:
    """A workload to measure.

    Attributes:
        workload: computation to compile and time.
        rule: stopping rule.
        is_reference: True for a reference benchmark, which runs in every round and is not waited for.
    """

    workload: Workload
    rule: StoppingRule
    is_reference: bool = False


@dataclass(frozen=True)
class Assignment:
    """A workload with its backend and target."""

    backend: Backend
    target: Target
    workload: Workload

    def prepare(self) -> Runner:
        """Compile and warm up the workload.

        Raises:
            MeasurementError: the backend rejects it.
        """
        runner = self.backend.compile(self.workload, self.target)
        runner.prepare()
        return runner


def assign(backend: Backend, target: Target, workloads: Mapping[str, Workload]) -> dict[str, Assignment]:
    """Assign all workloads to one backend and target."""
    return {benchmark: Assignment(backend, target, workload) for benchmark, workload in workloads.items()}


def default_statistic(target: Target) -> str:
    """Return the statistic of a sample batch; see `lut.statistics`."""
    return MINIMA if target.device.is_cpu else MEDIANS


def check_protocol(target: Target, rounds: int | None = None) -> None:
    """Check that this machine can run the protocol.

    Raises:
        UsageError: more threads than this process may use cores, or fewer rounds than `MIN_ROUNDS`.
    """
    require_threads(target)
    if rounds is not None and rounds < MIN_ROUNDS:
        raise UsageError(f"--rounds {rounds}: at least {MIN_ROUNDS} are needed for a statistic")


def measure(
    backend: Backend,
    target: Target,
    jobs: Mapping[str, MeasureJob],
    observer: MeasurementObserver,
    *,
    session: Session = STANDALONE,
    budget_s: float = math.inf,
    energy_mj: EnergyCounter = lambda: None,
) -> tuple[Measurement, list[str]]:
    """Measure every job until it is decided; return the measurement and the undecided jobs.

    Args:
        backend: backend of `target`, checked by `require_backend`.
        target: device, backend, precision and threads.
        jobs: jobs by benchmark.
        observer: receives progress, failures and results.
        session: session of this process, with the earlier sample batches.
        budget_s: time limit of compiling and measuring, in seconds.
        energy_mj: energy counter of the device.

    Raises:
        UsageError: more threads than cores, or a budget too short to measure anything.
    """
    check_protocol(target)
    end = time.monotonic() + budget_s
    assignments = assign(backend, target, {benchmark: job.workload for benchmark, job in jobs.items()})
    with pinned(target, session.worker), prepared(assignments, observer, COMPILE_SHARE * budget_s) as runners:
        observer.on_start()
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise UsageError(
                f"the budget ran out after compiling {len(runners)} of {len(jobs)} graphs, nothing was measured: "
                "increase --budget"
            )
        rounds = Rounds(
            runners,
            {benchmark: job.rule for benchmark, job in jobs.items()},
            default_statistic(target),
            observer,
            session=session,
            load=partial(_load, assignments),
        )
        references = [benchmark for benchmark, job in jobs.items() if job.is_reference]
        measurement = rounds.run(left_s, always=references)
        observer.on_energy(_measure_energy(runners, energy_mj, end))
    return measurement, rounds.undecided


def _load(assignments: Mapping[str, Assignment], benchmark: str) -> Runner | None:
    """Prepare another instance of a workload; None if that fails now."""
    try:
        return assignments[benchmark].prepare()
    except MeasurementError:
        return None


def _measure_energy(runners: Mapping[str, Runner], energy_mj: EnergyCounter, end: float) -> dict[str, float]:
    """Return the energy per run in millijoules of the networks measured before the monotonic time `end`."""
    energies = {}
    for benchmark, runner in runners.items():
        if time.monotonic() > end:
            break
        if benchmark.startswith(NETWORK_PREFIX) and (spent := energy_per_run(runner, energy_mj)) is not None:
            energies[benchmark] = spent
    return energies


def energy_per_run(runner: Runner, energy_mj: EnergyCounter) -> float | None:
    """Measure the energy of one run in millijoules, over `ENERGY_S` of runs without gaps; None without a counter.

    Args:
        runner: a prepared runner.
        energy_mj: energy counter of the device.
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
        backend: backend of `target`, checked by `require_backend`.
        target: device, backend, precision and threads.
        workloads: workloads by benchmark.
        rounds: maximum of batches each; the protocol's if None.
        on_progress: receives the progress.

    Raises:
        MeasurementError: the backend rejects a workload; the message names it.
    """
    check_protocol(target, rounds)
    rule = stopping_rule(target, "network", "").limit_batches(rounds)
    jobs = {benchmark: MeasureJob(workload, replace(rule, period=1)) for benchmark, workload in workloads.items()}
    return measure(backend, target, jobs, MeasurementObserver(on_progress))[0]


def measure_seconds(
    assignments: Mapping[str, Assignment], seconds: float, *, on_progress: OnProgress = quiet
) -> Measurement:
    """Measure by the frame-rate protocol: a warm-up of `WARM_UP_SHARE`, then `seconds` and at least `MIN_RUNS` runs.

    Graphs are reloaded as for a table, within `RELOAD_SHARE`, so that no single place in memory decides the result. A
    failed reload keeps the instance.

    Args:
        assignments: workloads with their targets, interleaved; all on one device with the same number of threads.
        seconds: recorded time of all together, reloads included.
        on_progress: receives the progress.

    Raises:
        MeasurementError: a backend rejects a workload; the message names it.
    """
    target = next(iter(assignments.values())).target
    check_protocol(target)
    reload = stopping_rule(target, "network", "").reload
    unlimited = StoppingRule(
        runs=None, period=1, min_batches=10**9, max_batches=10**9, reload=reload, loading=RELOAD_SHARE, cap_s=math.inf
    )
    observer = MeasurementObserver(on_progress)
    with pinned(target), prepared(assignments, observer) as runners:
        rounds = partial(
            Rounds,
            runners,
            dict.fromkeys(runners, unlimited),
            default_statistic(target),
            observer,
            load=partial(_load, assignments),
        )
        rounds().run(WARM_UP_SHARE * seconds)
        return rounds().run(seconds, min_batches=-(-MIN_RUNS // MIN_REPEATS))


@contextmanager
def prepared(
    assignments: Mapping[str, Assignment], observer: MeasurementObserver, seconds: float = math.inf
) -> Iterator[dict[str, Runner]]:
    """Compile and warm up every workload; close all runners at the end.

    The observer receives the progress, and the workloads that their backend rejects. Workloads not started within
    `seconds` are left out.
    """
    runners: dict[str, Runner] = {}
    start = time.monotonic()
    try:
        for number, (benchmark, assignment) in enumerate(assignments.items(), start=1):
            if time.monotonic() - start > seconds:
                break
            try:
                runners[benchmark] = assignment.prepare()
            except MeasurementError as error:
                observer.on_failure(benchmark, assignment.workload, str(error).splitlines()[0])
            left_s = (time.monotonic() - start) / number * (len(assignments) - number)
            observer.on_progress(RoundProgress("compiling", number / len(assignments), left_s))
        yield runners
    finally:
        for runner in runners.values():
            runner.close()
