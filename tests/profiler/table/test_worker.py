"""What one call, or one process, leaves unfinished another goes on with; and the speeds of several are told apart."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lgc.errors import MissingEntryError, UsageError
from lgc.lut import LatencyTable
from lgc.lut.table import recorder
from lgc.lut.table.recorder import Recorder
from lgc.lut.table.table import FINISHED, NETWORK_PREFIX, UNFINISHED
from lgc.profiler.profile import MEDIAN_TO_95, calibrate, profile
from lgc.profiler.table.worker import HEARTBEAT_S, SENTINELS, ProcessShare
from lgc.profiler.timing import stopping
from lgc.profiler.timing.contexts import register_benchmarks
from lgc.profiler.timing.rounds import COMMIT_S

from ..conftest import NO_NETWORKS, QUICK, TARGET, latencies, relative, rows, statuses, truth


def interrupt(*_):
    raise KeyboardInterrupt


class Guess:
    """An interpolator that knows nothing but a number."""

    def __init__(self, latencies_ms, cis_ms):
        assert latencies_ms.keys() == cis_ms.keys()
        self.latency_ms, self.error_pct, self.known = 7.0, 20.0, latencies_ms

    def __call__(self, spec):
        assert spec not in self.known
        if spec.operator == "argmax":
            raise MissingEntryError("no other argmax")
        return self


@pytest.fixture
def company(monkeypatch):
    """Fewer subjects in a round than the mini space has, so that a call need not take all of them along."""
    for module in ("table.worker", "timing.rounds"):
        monkeypatch.setattr(f"lgc.profiler.{module}.MIN_ROUND_SIZE", SENTINELS)


@pytest.fixture
def fewer_visits(monkeypatch):
    """For what does not depend on how well things are known."""
    for name in ("CPU_PROBE", "CPU_NETWORK"):
        pace = getattr(stopping, name)
        monkeypatch.setattr(
            stopping,
            name,
            replace(pace, min_batches=pace.min_batches // 2, max_batches=pace.max_batches // 2, reload=8),
        )


@pytest.mark.usefixtures("fewer_visits")
class TestGoingOn:
    """What one call left unfinished the next goes on with."""

    @pytest.mark.parametrize("runs", [50, 700, 1200])
    def test_crash_loses_at_most_the_last_second(self, device, mini_space, out, runs):
        """And what was committed is not measured again."""
        made = []

        def crash(name):
            made.append(device.clock.now)
            if len(made) > runs:
                raise KeyboardInterrupt

        device.pace, device.on_run = 40.0, crash
        with pytest.raises(KeyboardInterrupt):
            profile(mini_space, TARGET, out, networks=0)
        before = rows(out)
        longest_s = np.diff(made).max()
        assert 0 < len(made) - len(before) <= sum(at > device.clock.now - COMMIT_S - longest_s for at in made)
        assert len(before) > len(made) / 2 or runs == 50
        assert set(statuses(out).values()) == {"pending"}
        assert {session for _, session in rows(out, "key, session", "subjects")} == {None}, "given back"
        device.on_run = lambda name: None
        result = profile(mini_space, TARGET, out, networks=0)
        assert set(before) <= set(rows(out))
        assert result.measured == result.entries
        counts = Counter(key for key, *_ in rows(out))
        assert max(counts.values()) < 1.5 * stopping.CPU_PROBE.min_batches

    @pytest.mark.parametrize("step", ["finalize", "_update_entries", "set_metadata"])
    def test_call_killed_after_last_batch_is_resumed(self, device, mini_space, out, monkeypatch, step):
        """Wherever it was between its last visit and its end: nothing has to be measured, or even compiled, again."""
        with monkeypatch.context() as patched:
            patched.setattr(LatencyTable, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=4)
        before, compiled = rows(out), list(device.compiled)
        with LatencyTable.open(out) as table:
            assert table.metadata(FINISHED) is None
        result = profile(mini_space, TARGET, out, networks=4)
        assert result.measured == result.entries
        assert result.verification.networks == 4
        assert rows(out) == before
        assert device.compiled == compiled
        with LatencyTable.open(out) as table:
            assert table.correction("dense").networks == 4
            assert table.metadata(FINISHED)

    @pytest.mark.parametrize("step", ["finalize", "_update_entries"])
    def test_a_killed_call_leaves_no_stale_verification(self, device, mini_space, out, monkeypatch, step):
        """It was to measure what the call before had only estimated when it calibrated the table."""
        monkeypatch.setattr("lgc.lut.statistics.interpolation.Interpolator", Guess)
        device.refused = []
        profile(mini_space, TARGET, out, networks=4)
        with LatencyTable.open(out) as table, table.store.transaction() as connection:
            connection.execute("UPDATE subjects SET status = 'pending', latency_ms = NULL WHERE key LIKE '%add/%'")
            connection.execute("DELETE FROM visits WHERE subject LIKE '%add/%'")
            connection.execute("UPDATE entries SET status = 'interpolated', latency_ms = 9.0 WHERE key LIKE 'add/%'")
        with LatencyTable.open(out) as table:
            stale = calibrate(table)
        with monkeypatch.context() as patched:
            patched.setattr(LatencyTable, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=4)
        result = profile(mini_space, TARGET, out, networks=4)
        assert (result.measured, result.interpolated) == (result.entries, 0)
        assert result.verification != stale
        with LatencyTable.open(out) as table:
            assert calibrate(table) == result.verification

    def test_earlier_batches_allow_decisions_without_compiling(self, device, mini_space, out, monkeypatch):
        """It was killed when it wanted to write its first verdicts down."""
        with monkeypatch.context() as patched:
            patched.setattr(Recorder, "finish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=0)
        before = rows(out)
        counts = Counter(key for key, *_ in before)
        assert (
            stopping.CPU_PROBE.min_batches
            <= min(counts.values())
            == max(counts.values())
            < 1.2 * stopping.CPU_PROBE.min_batches
        )
        assert set(counts) == set(statuses(out))
        assert set(statuses(out).values()) == {"pending"}
        device.compiled.clear()
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy) == (result.entries, 0)
        assert device.compiled == []
        assert rows(out) == before

    def test_budget_over_while_measuring_keeps_noisy_entries(self, device, mini_space, out):
        device.pace = 200.0
        first = profile(mini_space, TARGET, out, networks=0, budget_s=18.0)
        assert 18.0 < device.clock.now - 1000.0 < 18.4
        assert (first.measured, first.noisy, first.pending) == (first.entries, first.entries, 0)
        with LatencyTable.open(out) as table:
            assert {subject.reason for subject in table.benchmarks()} == {UNFINISHED}
            assert {subject.status for subject in table.benchmarks()} == {"noisy"}
        before, built = rows(out), list(device.built)
        second = profile(mini_space, TARGET, out, networks=0)
        assert (second.measured, second.noisy) == (second.entries, 0)
        assert set(before) < set(rows(out))
        assert device.built == built * 2
        assert max(Counter(key for key, *_ in rows(out)).values()) < 1.5 * stopping.CPU_PROBE.min_batches

    def test_budget_over_while_compiling_leaves_entries_pending(self, device, mini_space, out, company):
        """Carriers come first, then operators: what is measured makes whole entries."""
        device.compile_s = 1.0
        first = profile(mini_space, TARGET, out, networks=4, budget_s=40.0)
        built = list(device.built)
        assert len(built) == 25
        assert Counter(statuses(out).values()) == {"measured": 25, "pending": len(statuses(out)) - 25}
        assert 0 < first.measured < first.entries
        assert first.measured + first.interpolated + first.pending == first.entries
        device.built.clear()
        second = profile(mini_space, TARGET, out, networks=4)
        assert (second.measured, second.pending, second.interpolated) == (second.entries, 0, 0)
        assert second.verification.networks == 4
        again = set(built) & set(device.built)
        assert SENTINELS / 2 <= len(again) <= 2 * SENTINELS, "only what ties the two calls is measured twice"
        assert len(device.built) == len(statuses(out)) - 25 + len(again)

    def test_pending_entries_are_interpolated_until_measured(self, device, mini_space, out, monkeypatch):
        monkeypatch.setattr("lgc.lut.statistics.interpolation.Interpolator", Guess)
        device.compile_s = 1.0
        first = profile(mini_space, TARGET, out, networks=0, budget_s=40.0)
        assert min(first.measured, first.interpolated, first.pending) > 0
        assert first.measured + first.interpolated + first.pending == first.entries
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                if entry.status == "interpolated":
                    assert (entry.latency_ms, entry.ci_ms) == (7.0, 7.0 * 20.0 / 100 * MEDIAN_TO_95)
                    assert "20 %" in entry.reason
                elif entry.status == "pending":
                    assert entry.key.startswith("argmax")
        second = profile(mini_space, TARGET, out, networks=0)
        assert (second.measured, second.interpolated) == (second.entries, 0)
        assert all(latency < 7.0 for latency in latencies(out).values())

    def test_many_small_budgets_come_to_an_end(self, device, mini_space, out):
        device.compile_s = 1.0
        for _ in range(20):
            result = profile(mini_space, TARGET, out, networks=4, budget_s=30.0)
            if result.verification is not None and result.interpolated == 0:
                break
        assert (result.measured, result.failed) == (result.entries, {})
        assert set(statuses(out).values()) == {"measured"}

    def test_budget_too_small_is_rejected(self, device, mini_space, out):
        device.compile_s = 3.0
        with pytest.raises(UsageError, match=r"the budget ran out after compiling 1 of \d+ graphs") as refused:
            profile(mini_space, TARGET, out, networks=0, budget_s=2.0)
        assert refused.value.exit_code == 2
        assert set(statuses(out).values()) == {"pending"}
        device.compile_s = 0.01
        result = profile(mini_space, TARGET, out, networks=0)
        assert result.measured == result.entries

    def test_budget_over_after_own_share_is_accepted(self, device, mini_space, out):
        """A process beside others takes on its own part first; where that took all the time, it is done."""
        device.compile_s = 1.0
        device.pace = 20.0
        result = profile(mini_space, TARGET, out, process=ProcessShare(fraction=0.5), networks=0, budget_s=36.0)
        assert 0 < result.measured < result.entries

    def test_budget_over_before_compiling_is_rejected(self, device, mini_space, out, monkeypatch):
        """Say while torch was imported."""

        def slow(*arguments):
            device.clock.now += 5.0
            return register_benchmarks(*arguments)

        monkeypatch.setattr("lgc.profiler.profile.register_benchmarks", slow)
        with pytest.raises(UsageError, match=r"the budget ran out after compiling 0 of \d+ graphs"):
            profile(mini_space, TARGET, out, networks=0, budget_s=2.0)

    def test_zero_budget_only_updates_the_table(self, device, mini_space, out, monkeypatch):
        """What others have measured, say, or this one before it was killed."""
        fresh = profile(mini_space, TARGET, out, networks=4, budget_s=0.0)
        assert (fresh.pending, fresh.measured, device.compiled) == (fresh.entries, 0, [])
        with monkeypatch.context() as patched:
            patched.setattr(LatencyTable, "finalize", interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=4)
        device.compiled.clear()
        result = profile(mini_space, TARGET, out, networks=4, budget_s=0.0)
        assert (result.pending, result.measured, device.compiled) == (0, result.entries, [])
        assert result.verification.networks == 4

    def test_heartbeat_continues_during_long_compilation(self, device, mini_space, out):
        """Other processes go by when a session was last seen."""
        silences = []

        def look(progress):
            ((seen, _),) = rows(out, "seen_unix_s, id", "sessions")
            silences.append(device.clock.now - seen)

        device.compile_s = 10.0
        profile(mini_space, TARGET, out, **NO_NETWORKS, on_progress=look)
        assert len(silences) > 30
        assert max(silences) <= HEARTBEAT_S + device.compile_s

    def test_networks_are_added_to_a_table(self, device, mini_space, out, company):
        profile(mini_space, TARGET, out, networks=0)
        before, built = rows(out), list(device.built)
        device.built.clear()
        result = profile(mini_space, TARGET, out, networks=5)
        assert set(before) < set(rows(out))
        assert result.verification.networks == 5
        again = [name for name in device.built if name != "mini network"]
        assert device.built.count("mini network") == 5 + 4, "fewer in scope core"
        assert set(again) < set(built)
        assert SENTINELS <= len(again) <= 2 * SENTINELS

    def test_pending_benchmark_runs_with_measured_benchmarks(self, device, mini_space, out):
        """A probe alone with a few others would find its caches warm: as many are compiled as a round is to have."""
        device.refused = ["probe/add/c4-4"]
        profile(mini_space, TARGET, out, **NO_NETWORKS)
        device.refused = []
        device.built.clear()
        profile(mini_space, TARGET, out, **NO_NETWORKS)
        assert set(device.built) == set(statuses(out)), "all there is in so small a space"
        assert len(device.built) > 2 * SENTINELS

    def test_verdicts_on_earlier_visits_know_their_loads(self, device, mini_space, out, monkeypatch):
        """Visits to a few places that differ by some percent are not enough, however many they are."""
        device.noise, device.place = 0.001, 0.05
        for name in ("CPU_PROBE", "CPU_NETWORK"):
            monkeypatch.setattr(stopping, name, replace(getattr(stopping, name), reload=16))
        with monkeypatch.context() as patched:
            patched.setattr(Recorder, "finish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            found, rule = table.measurement(), stopping.CPU_PROBE
            known = {
                key
                for key in statuses(out)
                if rule.decide(found.points(key), instances=found.instances(key)) is not None
            }
            careless = {key for key in statuses(out) if rule.decide(found.points(key)) is not None}
        assert len(careless) > 2 * len(known)
        device.built.clear()
        profile(mini_space, TARGET, out, networks=0)
        assert set(device.built) >= set(statuses(out)) - known != set()

    def test_failed_operator_is_measured_by_next_call(self, device, mini_space, out, company):
        key = "add/c4-4/8x8/s1/b1"
        device.refused = [f"probe/{key}"]
        result = profile(mini_space, TARGET, out, **QUICK)
        assert result.failed == {key: f"refused: probe/{key}/x1"}
        assert (result.measured, result.verification) == (result.entries - 1, None)
        device.refused = []
        device.built.clear()
        result = profile(mini_space, TARGET, out, **QUICK)
        assert (result.failed, result.measured) == ({}, result.entries)
        assert f"probe/{key}/x1" in device.built
        assert len(device.built) <= 1 + 2 * SENTINELS
        assert result.verification.networks == 4

    def test_failures_of_a_last_call_are_reported(self, device, mini_space, out):
        """The first call had no time for it, the second is refused: nothing but that is new."""
        device.compile_s = 1.0
        profile(mini_space, TARGET, out, networks=0, budget_s=40.0)
        left = [key for key, status in statuses(out).items() if status == "pending"]
        device.refused = left
        result = profile(mini_space, TARGET, out, networks=0)
        assert len(result.failed) == len(left) > 0
        assert result.pending == 0

    def test_failed_carrier_fails_its_entries(self, device, mini_space, out):
        device.refused = ["carrier/c4/8x8/x1"]
        result = profile(mini_space, TARGET, out, **NO_NETWORKS)
        with LatencyTable.open(out) as table:
            needing = {str(spec) for spec in mini_space.specs() if "carrier/c4/8x8/x1" in table.components(spec)}
        assert set(result.failed) == needing != set()
        assert set(result.failed.values()) == {"refused: carrier/c4/8x8/x1"}

    def test_failed_networks_are_not_verified(self, device, mini_space, out):
        device.refused = ["mini network"]
        result = profile(mini_space, TARGET, out, **QUICK)
        assert (result.measured, result.verification) == (result.entries, None)
        assert set(result.failed.values()) == {"refused: mini network"}
        assert {status for key, status in statuses(out).items() if key.startswith(NETWORK_PREFIX)} == {"failed"}

    def test_everything_refused_is_told_as_that(self, device, mini_space, out):
        device.refused = ["probe", "carrier", "mini"]
        result = profile(mini_space, TARGET, out, networks=0, budget_s=100.0)
        assert len(result.failed) == result.entries


@pytest.mark.usefixtures("fewer_visits")
class TestSessions:
    """Several calls, or several processes, at several speeds."""

    @pytest.mark.parametrize(("pace", "budget_s"), [(0.6, None), (0.6, 7.0), (1.5, 34.0)])
    def test_shared_benchmarks_align_calls_at_different_speeds(self, device, mini_space, out, pace, budget_s):
        """An entry is a difference of subjects: measured at two speeds and untied, it would be far off."""
        device.compile_s, device.noise = 1.0, 0.002
        profile(mini_space, TARGET, out, networks=0, budget_s=budget_s or 34.0)
        assert "pending" in statuses(out).values()
        device.pace, device.compile_s = pace, 1.0 if budget_s else 0.01
        calls = 0
        while "pending" in statuses(out).values() and calls < 20:
            calls += 1
            profile(mini_space, TARGET, out, networks=0, budget_s=budget_s)
        assert set(statuses(out).values()) == {"measured"}
        assert len(rows(out, "id, device", "sessions")) > 1
        wanted = {key: ms for key, ms in truth(out).items() if "argmax" not in key}
        ratios = relative(latencies(out), wanted)
        assert max(ratios.values()) - min(ratios.values()) < 0.06

    def test_two_processes_measure_different_benchmarks(self, device, mini_space, out, monkeypatch, company):
        """The second one starts in the middle of the first, on a device that is slower."""
        alive = set()
        monkeypatch.setattr(recorder, "_is_active", lambda pid, seen: pid in alive and pid != recorder.os.getpid())
        built = {}

        def start(pid, share):
            with monkeypatch.context() as patched:
                patched.setattr(recorder.os, "getpid", lambda: pid)
                alive.add(pid)
                device.built = built[pid] = []
                result = profile(mini_space, TARGET, out, process=ProcessShare(fraction=share), networks=0)
                alive.discard(pid)
            return result

        def interject(name):
            if "second" not in results and device.runs.total() > 500:
                results["second"] = None
                device.pace = 1.5
                results["second"] = start(102, 1.0)
                device.pace, device.built = 1.0, built[101]

        results = {}
        device.compile_s, device.pace, device.on_run = 0.1, 1.0, interject
        results["first"] = start(101, 0.5)
        assert results["first"].measured == results["first"].entries
        shared = set(built[101]) & set(built[102])
        assert 0 < len(shared) <= 2 * SENTINELS
        assert set(built[101]) | set(built[102]) == set(statuses(out))
        assert len(built[101]) + len(built[102]) == len(statuses(out)) + len(shared)
        wanted = {key: ms for key, ms in truth(out).items() if "argmax" not in key}
        ratios = relative(latencies(out), wanted)
        assert max(ratios.values()) - min(ratios.values()) < 0.06

    def test_benchmarks_of_another_process_are_skipped(self, device, mini_space, out, monkeypatch):
        profile(mini_space, TARGET, out, networks=0, budget_s=0.5)
        with LatencyTable.open(out) as table, monkeypatch.context() as patched:
            patched.setattr(recorder.os, "getpid", lambda: 101)
            patched.setattr(recorder, "_is_active", lambda pid, seen: pid == 101)
            taken = Recorder(table, "cpu", {}).claim(0.5)
            patched.setattr(recorder.os, "getpid", lambda: 102)
            device.compiled.clear()
            profile(mini_space, TARGET, out, networks=0)
        measured = {key for key, status in statuses(out).items() if status == "measured"}
        assert taken
        assert not measured & set(taken)
        assert measured | set(taken) == set(statuses(out))
        monkeypatch.setattr(recorder, "_is_active", lambda pid, seen: False)
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy) == (result.entries, 0), "and taken over when it is dead"
