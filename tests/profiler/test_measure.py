import os

import pytest

from lgc.errors import MeasurementError, UsageError
from lgc.lut import Target
from lgc.models import OpSpec
from lgc.profiler.measure import (
    MIN_ROUNDS,
    MIN_RUNS,
    default_rounds,
    default_statistic,
    measure,
    measure_rounds,
    measure_seconds,
)
from lgc.profiler.rounds import MIN_REPEATS
from lgc.profiler.workloads import operator_workload

CPU, GPU = Target("cpu", "torch"), Target("cuda:0", "torch")
SPECS = [OpSpec("conv_3x3", 4, 4, 16, 16), OpSpec("add", 4, 4, 16, 16), OpSpec("concat", 4, 8, 16, 16)]


@pytest.fixture
def workloads():
    return {str(spec): operator_workload(spec) for spec in SPECS}


def run(device, workloads, rounds=MIN_ROUNDS, target=CPU, **options):
    visits, failures = {}, {}

    def keep(finished):
        for key, number, _, durations in finished:
            visits.setdefault(key, {})[number] = durations

    measured = measure(device, target, workloads, rounds, on_round=keep, on_failure=failures.__setitem__, **options)
    return measured, visits, failures


def test_everything_is_compiled_warmed_up_measured_and_closed(device, workloads):
    measured, visits, failures = run(device, workloads, 5)
    assert measured == list(workloads)
    assert failures == {}
    assert {key: list(rounds) for key, rounds in visits.items()} == {key: list(range(5)) for key in workloads}
    assert device.compiled == device.prepared == device.closed == list(workloads)


def test_durations_are_the_devices(device, workloads):
    device.noise = 0
    _, visits, _ = run(device, workloads)
    for spec in SPECS:
        found = {duration for durations in visits[str(spec)].values() for duration in durations}
        assert found == {device.true_ms(spec)}


def test_a_refused_workload_is_reported_and_the_others_are_measured(device, workloads):
    refused = str(SPECS[1])
    device.refused = {refused}
    measured, visits, failures = run(device, workloads)
    assert failures == {refused: f"refused: {refused}"}
    assert set(measured) == set(visits) == set(workloads) - {refused}


def test_what_is_done_is_not_compiled(device, workloads):
    first, second, third = workloads
    measured, visits, _ = run(device, workloads, 6, done={first: 6, second: 4})
    assert measured == device.compiled == [second, third]
    assert {key: list(rounds) for key, rounds in visits.items()} == {second: [4, 5], third: list(range(6))}


def test_more_threads_than_cores_are_refused(device, workloads):
    cores = os.cpu_count()
    with pytest.raises(UsageError, match=f"{cores + 1} threads asked for, but this machine has {cores} cores"):
        run(device, workloads, target=Target("cpu", "torch", threads=cores + 1))
    assert device.compiled == []


@pytest.mark.parametrize("rounds", [MIN_ROUNDS - 1, 0, -1])
def test_too_few_rounds_are_refused(device, workloads, rounds):
    with pytest.raises(UsageError, match=f"{rounds} rounds are too few for a statistic: at least {MIN_ROUNDS}"):
        run(device, workloads, rounds)
    with pytest.raises(UsageError, match="too few"):
        measure_rounds(device, CPU, workloads, rounds)


def test_a_budget_that_compiling_uses_up_is_refused(device, workloads):
    with pytest.raises(UsageError, match=r"used up by compiling .* before anything was measured"):
        run(device, workloads, budget_s=0.0)


def test_a_budget_leaves_every_subject_the_same_number_of_rounds(device, workloads):
    _, visits, _ = run(device, workloads, 10**6, budget_s=0.3)
    (rounds,) = {len(found) for found in visits.values()}
    assert MIN_ROUNDS <= rounds < 10**6


def test_progress_names_both_stages_and_ends_at_one(device, workloads):
    told = []
    run(device, workloads, on_progress=told.append)
    stages = {progress.label: progress.done for progress in told}
    assert stages == {"compiling": 1, "measuring": 1}
    assert all(progress.left_s >= 0 for progress in told)


def test_rounds_without_a_table(device, workloads):
    found = measure_rounds(device, CPU, workloads)
    assert {key: len(found.durations(key)) for key in workloads} == dict.fromkeys(workloads, default_rounds(CPU))
    device.refused = {str(SPECS[0])}
    with pytest.raises(MeasurementError, match="refused: conv_3x3"):
        measure_rounds(device, CPU, workloads)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_frame_rate_has_its_least_runs_after_an_unrecorded_warm_up(device, workloads, seconds):
    found = measure_seconds(device, CPU, workloads, seconds)
    assert {key for key, _, _, _ in found.visits} == set(workloads)
    for key in workloads:
        recorded = sum(map(len, found.durations(key)))
        assert recorded >= MIN_RUNS
        assert device.runs[key] > recorded + MIN_REPEATS
    assert device.closed == list(workloads)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
def test_a_cpu_measurement_is_pinned_to_its_threads_and_let_go_after(device, workloads, monkeypatch):
    before, during = os.sched_getaffinity(0), set()

    def note(progress):
        during.add(frozenset(os.sched_getaffinity(0)))

    run(device, workloads, on_progress=note)
    (pinned,) = during
    assert len(pinned) == 1
    assert pinned <= before
    assert os.sched_getaffinity(0) == before
    during.clear()
    run(device, workloads, target=GPU, on_progress=note)
    assert during == {frozenset(before)}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
def test_an_interrupted_measurement_lets_the_cores_go(device, workloads):
    before = os.sched_getaffinity(0)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(device, workloads, on_progress=interrupt)
    assert os.sched_getaffinity(0) == before


def test_a_shared_cpu_gets_the_minima_and_more_rounds():
    assert (default_statistic(CPU), default_statistic(GPU)) == ("minima", "medians")
    assert default_rounds(CPU) > default_rounds(GPU) >= MIN_ROUNDS
