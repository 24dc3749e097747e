"""Measurement of workloads on a target: compile, warm up, pin, run in rounds."""

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
from .rounds import MIN_REPEATS, OnBatches, OnDecisions, OnProgress, RoundProgress, Rounds, quiet
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

OnFailure = Callable[[str, str], None]


@dataclass(frozen=True)
class MeasureJob:
    """A workload to measure, and its stopping rule."""

    workload: Workload
    rule: StoppingRule


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
        UsageError: more threads than cores, or fewer rounds than `MIN_ROUNDS`.
    """
    cores = os.cpu_count() or 1
    if target.device.is_cpu and target.threads > cores:
        raise UsageError(f"--threads {target.threads}: this machine has {cores} cores")
    if rounds is not None and rounds < MIN_ROUNDS:
        raise UsageError(f"--rounds {rounds}: at least {MIN_ROUNDS} are needed for a statistic")


def measure(
    backend: Backend,
    target: Target,
    jobs: Mapping[str, MeasureJob],
    *,
    on_failure: OnFailure,
    on_batches: OnBatches = lambda _: None,
    on_decisions: OnDecisions = lambda *_: None,
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
    """Measure every job until it is decided; return the measurement and the undecided jobs.

    Args:
        backend: backend of `target`, checked by `require_backend`.
        target: device, backend, precision and threads.
        jobs: jobs by benchmark.
        on_failure: receives benchmark and reason of a workload that the backend rejects.
        on_batches: receives new sample batches, see `Rounds`.
        on_decisions: receives new decisions, see `Rounds`.
        on_pinned: called once the process is pinned to its cores.
        on_energy: receives network and energy per run, in millijoules, where the device has a counter.
        energy_mj: energy counter of the device, in millijoules; None where unavailable.
        session: number of the session.
        before: earlier sample batches.
        always: jobs that run in every round and are not waited for.
        budget_s: time limit of compiling and measuring, in seconds.
        seed: seed of the measuring order.
        worker: index of this process among those on this machine.
        on_progress: receives the progress.

    Raises:
        UsageError: more threads than cores, or a budget too short to measure anything.
    """
    check_protocol(target)
    start = time.monotonic()
    assignments = assign(backend, target, {benchmark: job.workload for benchmark, job in jobs.items()})
    compile_s = None if budget_s is None else COMPILE_SHARE * budget_s
    rejected: list[str] = []

    def reject(benchmark: str, reason: str) -> None:
        rejected.append(benchmark)
        on_failure(benchmark, reason)

    with pinned(target, worker), prepared(assignments, reject, on_progress, compile_s) as runners:
        on_pinned()
        left_s = None if budget_s is None else budget_s - (time.monotonic() - start)
        if left_s is not None and (left_s <= 0 or (jobs and not runners and not rejected)):
            raise UsageError(
                f"the budget ran out after compiling {len(runners)} of {len(jobs)} graphs, nothing is measured: "
                "allow more time (--budget)"
            )
        rounds = Rounds(
            runners,
            {benchmark: job.rule for benchmark, job in jobs.items()},
            default_statistic(target),
            load=partial(_load, assignments),
            session=session,
            before=before,
            on_batches=on_batches,
            on_decisions=on_decisions,
            seed=seed,
            on_progress=on_progress,
        )
        measurement = rounds.run(left_s, always=always)
        for benchmark, runner in runners.items():
            over = budget_s is not None and time.monotonic() - start > budget_s
            if (
                not over
                and benchmark.startswith(NETWORK_PREFIX)
                and (spent := energy_per_run(runner, energy_mj)) is not None
            ):
                on_energy(benchmark, spent)
    return measurement, rounds.undecided


def _load(assignments: Mapping[str, Assignment], benchmark: str) -> Runner | None:
    """Prepare another instance of a workload; None if that fails now."""
    try:
        return assignments[benchmark].prepare()
    except MeasurementError:
        return None


def energy_per_run(runner: Runner, energy_mj: Callable[[], float | None]) -> float | None:
    """Measure the energy of one run in millijoules, over `ENERGY_S` of runs without gaps; None without a counter.

    Args:
        runner: a prepared runner.
        energy_mj: energy counter of the device, in millijoules; None where unavailable.
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
        MeasurementError: the backend rejects a workload.
    """
    check_protocol(target, rounds)
    rule = stopping_rule(target, "network", "").limit_batches(rounds)
    jobs = {benchmark: MeasureJob(workload, replace(rule, period=1)) for benchmark, workload in workloads.items()}
    return measure(backend, target, jobs, on_failure=_reject, on_progress=on_progress)[0]


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

    def reject(benchmark: str, reason: str) -> None:
        name = assignments[benchmark].workload.name
        raise MeasurementError(reason if name in reason else f"{name}: {reason}")

    with pinned(target), prepared(assignments, reject, on_progress) as runners:
        rounds = partial(
            Rounds,
            runners,
            dict.fromkeys(runners, unlimited),
            default_statistic(target),
            load=partial(_load, assignments),
            on_progress=on_progress,
        )
        rounds().run(WARM_UP_SHARE * seconds)
        return rounds().run(seconds, min_batches=-(-MIN_RUNS // MIN_REPEATS))


def _reject(key: str, reason: str) -> None:
    raise MeasurementError(reason)


@contextmanager
def prepared(
    assignments: Mapping[str, Assignment],
    on_failure: OnFailure,
    on_progress: OnProgress = quiet,
    seconds: float | None = None,
) -> Iterator[dict[str, Runner]]:
    """Compile and warm up every workload; close all runners at the end.

    Workloads that their backend rejects go to `on_failure`. Those not started within `seconds` are left out.
    """
    runners: dict[str, Runner] = {}
    start = time.monotonic()
    try:
        for number, (key, assignment) in enumerate(assignments.items(), start=1):
            if seconds is not None and time.monotonic() - start > seconds:
                break
            try:
                runners[key] = assignment.prepare()
            except MeasurementError as error:
                on_failure(key, str(error).splitlines()[0])
            left = (time.monotonic() - start) / number * (len(assignments) - number)
            on_progress(RoundProgress("compiling", number / len(assignments), left))
        yield runners
    finally:
        for runner in runners.values():
            runner.close()
