import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lgc.errors import MeasurementError, UsageError
from lgc.lut import Target
from lgc.lut.statistics.estimates import BATCHES_PER_INSTANCE
from lgc.models import OpSpec
from lgc.profiler.timing.measure import (
    COMPILE_SHARE,
    ENERGY_BATCH_S,
    ENERGY_S,
    MIN_ROUNDS,
    MIN_RUNS,
    WARM_UP_SHARE,
    MeasureJob,
    assign,
    default_statistic,
    energy_per_run,
    measure,
    measure_rounds,
    measure_seconds,
)
from lgc.profiler.timing.observer import MeasurementObserver
from lgc.profiler.timing.rounds import MIN_REPEATS, Session
from lgc.profiler.timing.stopping import CONVERGED, CPU_NETWORK, StoppingRule
from lgc.profiler.timing.workloads import network_workload, operator_workload

from .. import conftest as law

CPU, GPU = Target("cpu", "torch"), Target("cuda:0", "torch")
SPECS = [OpSpec("conv_3x3", 4, 4, 16, 16), OpSpec("add", 4, 4, 16, 16), OpSpec("concat", 4, 8, 16, 16)]
PACE = StoppingRule(runs=2, period=1, min_batches=16, max_batches=64)


@pytest.fixture
def workloads():
    return {f"alone/{spec}": operator_workload(spec) for spec in SPECS}


class Measured(MeasurementObserver):
    """What `measure` did."""

    def __init__(self, device, workloads, target=CPU, pace=PACE, **options):
        self.visits, self.verdicts, self.failures, self.energy = [], {}, {}, {}
        self.progress = []
        super().__init__(options.pop("on_progress", self.progress.append))
        jobs = {key: MeasureJob(workload, pace) for key, workload in workloads.items()}
        self.device, self.start = device, device.clock.now
        try:
            self.found, self.undecided = measure(device, target, jobs, self, **options)
        finally:
            self.seconds = device.clock.now - self.start

    def on_failure(self, benchmark, workload, reason):
        self.failures[benchmark] = reason

    def on_start(self):
        self.done_at_start = len(self.device.compiled), self.device.runs.total()

    def on_batches(self, batches):
        self.visits += batches

    def on_decisions(self, measurement, decisions):
        self.verdicts |= decisions

    def on_energy(self, energy_mj):
        self.energy |= energy_mj


def test_every_workload_is_compiled_measured_and_closed(device, workloads):
    done = Measured(device, workloads)
    assert done.failures == {}
    assert done.verdicts == dict.fromkeys(workloads, CONVERGED)
    assert done.undecided == []
    assert {visit.benchmark for visit in done.visits} == set(workloads)
    assert {len(visit.durations_ms) for visit in done.visits} == {2}
    assert device.compiled == device.prepared == device.closed == list(workloads)


def test_graph_is_reloaded_while_measured(device, workloads):
    done = Measured(device, workloads, pace=StoppingRule(runs=2, period=1, min_batches=32, max_batches=64, reload=8))
    loads = {key: {visit.instance for visit in done.visits if visit.benchmark == key} for key in workloads}
    assert all(len(found) >= 4 for found in loads.values())
    wanted = {key: max(found) + 1 for key, found in loads.items()}
    assert Counter(device.compiled) == Counter(device.prepared) == Counter(device.closed) == wanted


def test_graph_that_cannot_reload_keeps_its_instance(device, workloads):
    """Out of memory, say: what has been measured is worth more than nothing."""
    device.on_run = lambda name: setattr(device, "refused", ["alone"])
    done = Measured(device, workloads, pace=StoppingRule(runs=2, period=1, min_batches=32, max_batches=64, reload=8))
    assert done.failures == {}
    assert {visit.instance for visit in done.visits} == {0}
    assert done.verdicts == dict.fromkeys(workloads, CONVERGED)


def test_start_follows_compiling_and_precedes_runs(device, workloads):
    assert Measured(device, workloads).done_at_start == (3, 0)


def test_durations_are_the_devices(device, workloads):
    device.noise = 0
    done = Measured(device, workloads)
    for spec in SPECS:
        durations = {ms for visit in done.visits if visit.benchmark == f"alone/{spec}" for ms in visit.durations_ms}
        assert durations == {law.alone_ms(spec)}
        assert done.found.summary(f"alone/{spec}").latency_ms == pytest.approx(law.alone_ms(spec))


def test_batches_of_a_session_join_earlier_batches(device, workloads):
    device.pace = 100.0
    first = Measured(device, workloads, session=Session(3), budget_s=0.5)
    assert 3 < len(first.visits) < 48
    second = Measured(device, workloads, session=Session(4, first.visits))
    assert {visit.session for visit in first.visits} == {3}
    assert {visit.session for visit in second.visits} == {4}
    assert len(second.found.batches) == len(first.visits) + len(second.visits)


def test_failed_workload_does_not_stop_others(device, workloads):
    refused = f"alone/{SPECS[1]}"
    device.refused = [refused]
    done = Measured(device, workloads)
    assert done.failures == {refused: f"refused: {refused}"}
    assert set(done.verdicts) == {visit.benchmark for visit in done.visits} == set(workloads) - {refused}


def test_only_measurement_errors_become_failures(device, workloads, monkeypatch):
    def out_of_memory(workload, target):
        raise MeasurementError("out of memory\nTried to allocate 2 GiB\n")

    monkeypatch.setattr(device, "compile", out_of_memory)
    done = Measured(device, workloads)
    assert done.failures == dict.fromkeys(workloads, "out of memory")
    assert done.visits == []

    def broken(workload, target):
        raise RuntimeError("a bug")

    monkeypatch.setattr(device, "compile", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        Measured(device, workloads)


def test_more_threads_than_cores_are_refused(device, workloads):
    cores = os.cpu_count()
    with pytest.raises(UsageError, match=f"--threads {cores + 1}: this machine has {cores} cores"):
        Measured(device, workloads, target=Target("cpu", "torch", threads=cores + 1))
    assert device.compiled == []


@pytest.mark.parametrize("rounds", [MIN_ROUNDS - 1, 0, -1])
def test_too_few_rounds_are_refused(device, workloads, rounds):
    with pytest.raises(UsageError, match=f"--rounds {rounds}: at least {MIN_ROUNDS} are needed"):
        measure_rounds(device, CPU, workloads, rounds)
    assert device.compiled == []


class TestBudget:
    def test_compilation_leaves_time_to_measure(self, device, workloads):
        """A second each, of a budget of 4: three of them do not fit into its share, so two are left out."""
        device.compile_s = 1.5
        done = Measured(device, workloads, budget_s=4.0)
        assert COMPILE_SHARE * 4.0 < 2 * 1.5
        assert device.compiled == list(workloads)[:2]
        assert set(done.verdicts) == set(device.compiled)
        assert done.undecided == [], "what was not begun is for another call"
        assert device.closed == device.compiled

    def test_measuring_ends_when_the_budget_does(self, device, workloads):
        device.pace = 100.0
        done = Measured(device, workloads, budget_s=1.0)
        longest = max(map(law.alone_ms, SPECS)) * 100 * 2 / 1000 * 1.01
        assert 1.0 <= done.seconds <= 1.0 + longest
        assert sorted(done.undecided) == sorted(workloads)
        assert done.verdicts == {}

    def test_one_that_compiling_uses_up_is_refused(self, device, workloads):
        device.compile_s = 2.0
        complaint = "the budget ran out after compiling 1 of 3 graphs, nothing was measured"
        with pytest.raises(UsageError, match=complaint):
            Measured(device, workloads, budget_s=1.0)
        assert len(device.compiled) == 1
        assert device.closed == device.compiled
        assert device.runs == Counter()

    def test_budget_without_time_to_compile_is_rejected(self, device, workloads):
        with pytest.raises(UsageError, match="ran out after compiling 0 of 3 graphs"):
            Measured(device, workloads, budget_s=-1.0)

    def test_refusals_are_no_lack_of_time(self, device, workloads):
        """All of it is refused long before the budget is over: that is told, and nothing else."""
        device.refused = ["alone/"]
        done = Measured(device, workloads, budget_s=100.0)
        assert len(done.failures) == 3


def test_progress_of_both_stages_ends_at_one(device, workloads):
    told = Measured(device, workloads).progress
    assert {progress.label: progress.done for progress in told} == {"compiling": 1, "measuring": 1}
    assert [progress.label for progress in told] == sorted(progress.label for progress in told)
    assert all(progress.left_s >= 0 for progress in told)


def test_progress_estimates_the_compile_time(device, workloads):
    device.compile_s = 2.0
    told = Measured(device, workloads).progress
    assert [progress.left_s for progress in told if progress.label == "compiling"] == pytest.approx([4.0, 2.0, 0.0])


class TestEnergy:
    """A counter of millijoules that rises by 30 in each second of simulated time."""

    @pytest.fixture
    def networks(self, mini_space):
        return {f"network/{seed}": network_workload(mini_space.sample(seed), "core") for seed in range(2)}

    def test_of_one_run_of_each_network(self, device, workloads, networks):
        device.noise = 0
        done = Measured(device, workloads | networks, energy_mj=lambda: 30 * device.clock.now)
        assert set(done.energy) == set(networks)
        for seed in range(2):
            run_s = done.found.summary(f"network/{seed}").latency_ms / 1000
            assert done.energy[f"network/{seed}"] == pytest.approx(30 * run_s)

    def test_energy_takes_seconds_outside_the_batches(self, device, networks):
        with_counter = Measured(device, networks, energy_mj=lambda: 30 * device.clock.now)
        without = Measured(device, networks)
        assert without.energy == {}
        spent = with_counter.seconds - without.seconds  # batches of twice ENERGY_BATCH_S at most, likewise before
        assert 2 * ENERGY_S <= spent <= 2 * (ENERGY_S + 6 * ENERGY_BATCH_S)
        assert sum(with_counter.found.batches[0].durations_ms) < 10

    @pytest.mark.parametrize("lost", [2, 3])
    def test_of_a_lost_counter_is_unknown(self, device, networks, lost):
        answers = iter([*[5.0] * (lost - 1), None, *[5.0] * (3 - lost)] * 2)
        assert Measured(device, networks, energy_mj=lambda: next(answers)).energy == {}

    def test_leaves_out_the_gaps_between_batches(self, device):
        class WithGaps:
            """Runs of 1 ms; a host that needs 1 ms before each batch, in which the device draws power too."""

            def run_untimed(self, repeats):
                device.clock.now += 1e-3 * (repeats + 1)

        spent = energy_per_run(WithGaps(), lambda: 30 * device.clock.now)
        assert spent == pytest.approx(0.03, rel=0.011)


def test_networks_without_table_are_measured_until_converged(device, workloads):
    found = measure_rounds(device, CPU, workloads)
    for spec in SPECS:
        key = f"alone/{spec}"
        assert CPU_NETWORK.min_batches <= len(found.points(key)) <= CPU_NETWORK.max_batches
        assert found.summary(key).latency_ms == pytest.approx(law.alone_ms(spec), rel=0.01)
        assert CPU_NETWORK.decide(found.points(key)) == CONVERGED
    device.refused = [f"alone/{SPECS[0]}"]
    with pytest.raises(MeasurementError, match="refused: alone/conv_3x3"):
        measure_rounds(device, CPU, workloads)


@pytest.mark.parametrize("rounds", [4, 8, 12])
def test_no_more_visits_than_asked_for(device, workloads, rounds):
    device.noise = 1.0
    found = measure_rounds(device, CPU, workloads, rounds)
    assert {len(found.durations(key)) for key in workloads} == {rounds}


class TestFrameRate:
    """`measure_seconds`, by the clock of the simulated device."""

    @pytest.mark.parametrize("noise", [0.0, 0.01, 0.5])
    @pytest.mark.parametrize("seconds", [0.1, 3.0, 10.0])
    def test_records_requested_seconds_after_warm_up(self, device, workloads, seconds, noise):
        """However early the latency is known: a frame rate is of some time, in which clocks and caches settle."""
        device.noise, device.compile_s = noise, 0.0
        begun = device.clock.now
        found = measure_seconds(assign(device, CPU, workloads), seconds)
        recorded = device.clock.now - found.batches[0].at_unix_s
        warm_up = found.batches[0].at_unix_s - begun
        assert set(found.benchmarks) == set(workloads)
        assert warm_up == pytest.approx(WARM_UP_SHARE * seconds, abs=0.1)
        assert seconds - 0.1 <= recorded <= seconds + 1.5, "the runs that tell how many make a visit are not recorded"
        assert warm_up + recorded >= (1 + WARM_UP_SHARE) * seconds
        assert all(sum(map(len, found.durations(key))) >= MIN_RUNS for key in workloads)
        assert sorted(device.closed) == sorted(device.compiled), "each load was closed, and once"

    def test_is_of_several_places_in_memory(self, device, workloads):
        """One place would tell the latency that it gives, again and again, and be several percent off."""
        device.noise, device.place = 0.0, 0.05
        found = measure_seconds(assign(device, CPU, workloads), 10.0)
        for spec in SPECS:
            key = f"alone/{spec}"
            loads = found.instances(key)
            first, *later, _ = np.bincount(loads)
            assert BATCHES_PER_INSTANCE <= first < CPU_NETWORK.reload + BATCHES_PER_INSTANCE
            assert set(later) == {CPU_NETWORK.reload}
            off = found.summary(key).latency_ms / law.alone_ms(spec) - 1
            assert abs(off) < 4 * 0.05 / np.sqrt(loads.max() + 1)

    @pytest.mark.parametrize(("pace", "seconds"), [(1.0, 10.0), (1000.0, 1.0)])
    def test_rounds_are_numbered_without_gaps(self, device, workloads, pace, seconds):
        """By which visits are compared that were made at about the same time."""
        device.pace = pace
        found = measure_seconds(assign(device, CPU, workloads), seconds)
        for key in workloads:
            rounds = [visit.round for visit in found.batches if visit.benchmark == key]
            assert rounds == list(range(len(rounds)))

    def test_slow_networks_have_the_minimum_of_runs(self, device, workloads):
        device.pace = 1000.0
        told = []
        found = measure_seconds(assign(device, CPU, workloads), 1.0, on_progress=told.append)
        for key in workloads:
            runs = sum(map(len, found.durations(key)))
            assert MIN_RUNS <= runs < 2 * MIN_RUNS
            assert device.runs[key] > runs + MIN_REPEATS
        left = [progress.left_s for progress in told if progress.label == "measuring"]
        assert max(left) > 10.0, "what they take, not what was asked for"

    def test_slow_networks_have_their_time_however_long(self, device, workloads):
        device.pace, seconds = 1000.0, 600.0
        begun = device.clock.now
        found = measure_seconds(assign(device, CPU, workloads), seconds)
        assert device.clock.now - begun == pytest.approx((1 + WARM_UP_SHARE) * seconds, rel=0.01)
        assert set(found.benchmarks) == set(workloads)

    def test_a_refusal_ends_it(self, device, workloads):
        device.refused = ["alone/add"]
        with pytest.raises(MeasurementError, match="refused: alone/add"):
            measure_seconds(assign(device, CPU, workloads), 1.0)
        assert len(device.closed) == 1, "what had been compiled is closed"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
class TestPinning:
    def test_cpu_measurement_is_pinned_and_released(self, device, workloads):
        before, during = os.sched_getaffinity(0), set()

        def note(progress):
            during.add(frozenset(os.sched_getaffinity(0)))

        Measured(device, workloads, on_progress=note)
        (pinned,) = during
        assert len(pinned) == 1
        assert pinned <= before
        assert os.sched_getaffinity(0) == before
        during.clear()
        Measured(device, workloads, target=GPU, on_progress=note)
        assert during == {frozenset(before)}

    @pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is all there is")
    def test_workers_are_pinned_to_different_cores(self, device, workloads):
        cores = [set(), set()]
        for worker in (0, 1):
            Measured(
                device,
                workloads,
                session=Session(worker=worker),
                on_progress=lambda _, worker=worker: cores[worker].update(os.sched_getaffinity(0)),
            )
        assert len(cores[0]) == len(cores[1]) == 1
        assert not cores[0] & cores[1]

    def test_an_interrupted_measurement_lets_the_cores_go(self, device, workloads):
        before = os.sched_getaffinity(0)

        def interrupt(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Measured(device, workloads, on_progress=interrupt)
        assert os.sched_getaffinity(0) == before
        assert device.closed == device.compiled


def test_a_shared_cpu_gets_the_minima():
    assert (default_statistic(CPU), default_statistic(replace(CPU, threads=4))) == ("minima", "minima")
    assert default_statistic(GPU) == "medians"
