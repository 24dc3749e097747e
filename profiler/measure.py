"""Measuring a set of workloads on a target: compile, warm up, pin, interleave."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from ..errors import MeasurementError, UsageError
from ..lut.measurement import Measurement, Visits
from ..lut.statistics import MEDIANS, MINIMA
from ..lut.target import Target
from .backends import Backend, Runner, Workload
from .environment import pinned
from .rounds import MIN_REPEATS, OnProgress, OnRound, Progress, interleave, quiet

CPU_ROUNDS, GPU_ROUNDS = 32, 12
MIN_ROUNDS = 4
MIN_RUNS = 200
"""Runs of a network that a frame rate needs."""
WARM_UP_SHARE = 0.3
"""Unrecorded time before a frame rate is measured, as a share of the recorded: 3 s before 10 s."""
UNBOUNDED = 10**9
OnFailure = Callable[[str, str], None]


def default_rounds(target: Target) -> int:
    """Visits to each subject: more where neighbours on the machine disturb."""
    return CPU_ROUNDS if target.device == "cpu" else GPU_ROUNDS


def default_statistic(target: Target) -> str:
    """What a visit counts as; see `lut.statistics`."""
    return MINIMA if target.device == "cpu" else MEDIANS


def check_protocol(target: Target, rounds: int) -> None:
    """Show that this machine can measure so.

    Raises:
        UsageError: more threads than cores, or too few rounds.
    """
    cores = os.cpu_count() or 1
    if target.device == "cpu" and target.threads > cores:
        raise UsageError(f"{target.threads} threads asked for, but this machine has {cores} cores")
    if rounds < MIN_ROUNDS:
        raise UsageError(f"{rounds} rounds are too few for a statistic: at least {MIN_ROUNDS}")


def measure(
    backend: Backend,
    target: Target,
    workloads: Mapping[str, Workload],
    rounds: int,
    *,
    on_round: OnRound,
    on_failure: OnFailure,
    done: Mapping[str, int] | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = quiet,
) -> list[str]:
    """Bring every workload to `rounds` visits; the keys that were measured.

    Args:
        backend: made for `target` by `require`.
        target: where to measure.
        workloads: what, by key.
        rounds: visits to each in all.
        on_round: takes each finished round's visits.
        on_failure: takes key and reason of a workload that the backend refuses.
        done: visits already behind each key.
        budget_s: seconds, of compiling and measuring, after which no further round is begun.
        seed: of the visiting order.
        on_progress: told how far it is.

    Raises:
        UsageError: more threads than cores, too few rounds, or a budget that compiling alone used up.
    """
    check_protocol(target, rounds)
    start = time.monotonic()
    behind = done or {}
    missing = {key: workload for key, workload in workloads.items() if behind.get(key, 0) < rounds}
    with pinned(target):
        runners = prepare_all(backend, target, missing, on_failure, on_progress)
        spent = time.monotonic() - start
        if budget_s is not None and spent > budget_s:
            raise UsageError(
                f"the budget of {budget_s:.0f} s was used up by compiling ({spent:.0f} s) before anything was measured"
            )
        interleave(
            runners,
            behind,
            rounds,
            on_round,
            seed=seed,
            budget_s=None if budget_s is None else budget_s - spent,
            min_rounds=MIN_ROUNDS,
            on_progress=on_progress,
        )
        for runner in runners.values():
            runner.close()
    return list(runners)


def measure_rounds(
    backend: Backend,
    target: Target,
    workloads: Mapping[str, Workload],
    rounds: int | None = None,
    *,
    on_progress: OnProgress = quiet,
) -> Measurement:
    """Measure by the table's protocol, without a table.

    Raises:
        MeasurementError: the backend refuses a workload.
    """
    visits: Visits = []
    measure(
        backend,
        target,
        workloads,
        default_rounds(target) if rounds is None else rounds,
        on_round=visits.extend,
        on_failure=_refuse,
        on_progress=on_progress,
    )
    return Measurement(visits, default_statistic(target))


def measure_seconds(
    backend: Backend,
    target: Target,
    workloads: Mapping[str, Workload],
    seconds: float,
    *,
    on_progress: OnProgress = quiet,
) -> Measurement:
    """Measure by the frame-rate protocol: `WARM_UP_SHARE` of `seconds` unrecorded, then `seconds`, `MIN_RUNS` at least.

    Raises:
        MeasurementError: the backend refuses a workload.
    """
    check_protocol(target, MIN_ROUNDS)
    visits: Visits = []
    with pinned(target):
        runners = prepare_all(backend, target, workloads, _refuse, on_progress)
        warm_up = WARM_UP_SHARE * seconds
        interleave(runners, {}, UNBOUNDED, lambda _: None, budget_s=warm_up, min_rounds=1, on_progress=on_progress)
        least = -(-MIN_RUNS // MIN_REPEATS)
        interleave(runners, {}, UNBOUNDED, visits.extend, budget_s=seconds, min_rounds=least, on_progress=on_progress)
        for runner in runners.values():
            runner.close()
    return Measurement(visits, default_statistic(target))


def _refuse(key: str, reason: str) -> None:
    raise MeasurementError(reason)


def prepare_all(
    backend: Backend,
    target: Target,
    workloads: Mapping[str, Workload],
    on_failure: OnFailure,
    on_progress: OnProgress = quiet,
) -> dict[str, Runner]:
    """Compile and warm up every workload; one that the backend refuses is told to `on_failure` and left out."""
    runners: dict[str, Runner] = {}
    start = time.monotonic()
    for number, (key, workload) in enumerate(workloads.items(), start=1):
        try:
            runner = backend.compile(workload, target)
            runner.prepare()
            runners[key] = runner
        except (MeasurementError, RuntimeError) as error:  # the latter: torch's and ONNX Runtime's own, out of memory
            on_failure(key, str(error).splitlines()[0])
        left = (time.monotonic() - start) / number * (len(workloads) - number)
        on_progress(Progress("compiling", number / len(workloads), left))
    return runners
