"""Sessions of a table: claims and records."""

import itertools
import json
import os
import subprocess
import sys
import time

import pytest

from lgc.errors import OutputError
from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.estimates import Summary
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table import recorder
from lgc.lut.table.recorder import LEASE_S, Recorder
from lgc.lut.table.table import FINISHED, UNFINISHED

SUMMARY = Summary(1.5, 0.1, median_ms=2.0, min_ms=0.5, spread_pct=3.0, batches=4, samples=12)
BENCHMARKS = [f"probe{index:02}" for index in range(12)]


@pytest.fixture
def table(tmp_path, mini_space):
    with LatencyTable.create(tmp_path / "t.lut", Target("cpu", "torch"), mini_space, {"statistic": "minima"}, {}) as t:
        t.add_benchmarks("operator", {key: [] for key in BENCHMARKS})
        yield t


class Processes:
    """Sessions of simulated processes, some of which run."""

    def __init__(self, table, monkeypatch):
        self.table, self.alive = table, set()
        self._patch = monkeypatch
        monkeypatch.setattr(recorder, "_is_active", lambda pid, seen: pid != os.getpid() and pid in self.alive)

    def claims(self, pid, share, among=None):
        """Start a process that claims a share; return its recorder and keys."""
        self.alive.add(pid)
        with self._patch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid)
            session = Recorder(self.table, "cpu", {})
            return session, session.claim(share, among)


@pytest.fixture
def processes(table, monkeypatch):
    return Processes(table, monkeypatch)


def statuses(table):
    return {benchmark.key: benchmark.status for benchmark in table.benchmarks()}


def test_session_records_process_device_and_time(table, monkeypatch):
    monkeypatch.setattr(recorder, "time", FakeTime(1000.0))
    first, second = (Recorder(table, device, {"clock": device}) for device in ("cuda:0", "cuda:1"))
    assert (first.session, second.session) == (1, 2)
    rows = table.store.rows("SELECT id, device, pid, started_unix_s, seen_unix_s, environment FROM sessions")
    assert [row[:5] for row in rows] == [(n + 1, f"cuda:{n}", os.getpid(), 1000.0, 1000.0) for n in range(2)]
    assert json.loads(rows[1][5]) == {"clock": "cuda:1"}


class FakeTime:
    def __init__(self, now):
        self.now = now

    def time(self):
        return self.now


def test_unfinished_benchmarks_are_claimed_in_order(table):
    session = Recorder(table, "cpu", {})
    assert session.claim() == BENCHMARKS
    session.finish({"probe00": (SUMMARY, None), "probe01": (SUMMARY, "loud"), "probe02": (SUMMARY, UNFINISHED)})
    session.fail("probe03", "refused")
    holders = dict(table.store.rows("SELECT key, session FROM subjects"))
    assert holders == dict.fromkeys(BENCHMARKS[:4]) | dict.fromkeys(BENCHMARKS[4:], session.session)
    session.release()
    assert Recorder(table, "cpu", {}).claim() == BENCHMARKS[2:]


@pytest.mark.parametrize(("share", "count"), [(1.0, 12), (0.5, 6), (1 / 3, 4), (1 / 4, 3), (1 / 5, 3), (1 / 100, 1)])
def test_share_is_evenly_spaced(table, share, count):
    taken = Recorder(table, "cpu", {}).claim(share)
    assert len(taken) == count
    assert taken == sorted(set(taken))
    steps = [BENCHMARKS.index(b) - BENCHMARKS.index(a) for a, b in itertools.pairwise(taken)]
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_claims_are_limited_to_given_keys(processes, share):
    """A process with other networks leaves these to the processes that registered them."""
    known = {"probe03", "probe04", "probe09", "elsewhere"}
    session, taken = processes.claims(101, 1.0, among=known)
    assert taken == ["probe03", "probe04", "probe09"]
    session.release()
    assert len(processes.claims(102, share, among=known)[1]) == -(-3 * share // 1)
    processes.alive.clear()
    assert processes.claims(103, 1.0)[1] == BENCHMARKS


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_claim_disjoint_benchmarks(processes, count):
    taken = [processes.claims(pid, 1 / count)[1] for pid in range(101, 101 + count)]
    every = [key for keys in taken for key in keys]
    assert sorted(every) == BENCHMARKS
    assert max(map(len, taken)) <= -(-len(BENCHMARKS) // count)
    assert processes.claims(999, 1.0)[1] == []


def test_claims_of_dead_processes_expire(processes):
    _, dead = processes.claims(101, 0.5)
    _, living = processes.claims(102, 1.0)
    processes.alive.remove(101)
    _, heir = processes.claims(103, 1.0)
    assert heir == dead
    assert sorted([*heir, *living]) == BENCHMARKS
    assert processes.claims(104, 1.0)[1] == []


def test_released_benchmarks_can_be_claimed(processes, table):
    session, taken = processes.claims(101, 0.5)
    session.finish({taken[0]: (SUMMARY, None)})
    session.release()
    assert processes.claims(102, 1.0)[1] == [key for key in BENCHMARKS if key != taken[0]]


def test_release_affects_own_claims_only(processes):
    mine, _ = processes.claims(101, 0.5)
    _, theirs = processes.claims(102, 1.0)
    mine.release()
    assert not set(processes.claims(103, 1.0)[1]) & set(theirs)


def test_earlier_session_of_this_process_is_inactive(table):
    assert Recorder(table, "cpu", {}).claim() == Recorder(table, "cpu", {}).claim() == BENCHMARKS


def test_claims_of_others_are_counted(processes):
    session, _ = processes.claims(101, 0.25)
    assert session.count_other_claims() == 0
    other, taken = processes.claims(102, 0.5)
    assert (session.count_other_claims(), other.count_other_claims()) == (6, 3)
    other.finish({taken[0]: (SUMMARY, None)})
    assert session.count_other_claims() == 5
    processes.alive.remove(102)
    assert session.count_other_claims() == 0


@pytest.fixture
def child():
    """Process that runs until the end of the test."""
    running = subprocess.Popen(["sleep", "600"])
    yield running
    running.kill()
    running.wait()


def test_running_and_dead_processes_differ(child):
    now = time.time()
    assert recorder._is_active(child.pid, now)
    assert not recorder._is_active(child.pid, now - LEASE_S - 10), "expired lease"
    assert not recorder._is_active(os.getpid(), now), "this process itself"
    child.kill()
    child.wait()
    assert not recorder._is_active(child.pid, now)


def test_process_of_another_user_is_active(monkeypatch):
    def forbidden(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert recorder._is_active(1, time.time())


def test_records_renew_the_lease(table, monkeypatch):
    clock = FakeTime(0.0)
    monkeypatch.setattr(recorder, "time", clock)
    session = Recorder(table, "cpu", {})
    clock.now = 50.0
    session.record([SampleBatch("probe00", 0, 49.0, [0.1])])
    assert table.store.rows("SELECT started_unix_s, seen_unix_s FROM sessions") == [(0.0, 50.0)]


def test_records_belong_to_their_session(table):
    Recorder(table, "cpu", {})
    session = Recorder(table, "cpu", {})
    sample = {"at_unix_s": 5.0, "sm_clock_mhz": 1980}
    session.record([SampleBatch("probe00", 3, 4.5, (0.1, 0.2), session=77, instance=6)], [sample])
    assert table.sample_batches() == [SampleBatch("probe00", 3, 4.5, [0.1, 0.2], 2, 6)], "the session is the recorder's"
    ((number, at, text),) = table.store.rows("SELECT session, at_unix_s, sample FROM health")
    assert (number, at, json.loads(text)) == (2, 5.0, sample)


def test_duplicate_batch_keeps_the_first(table):
    session = Recorder(table, "cpu", {})
    session.record([SampleBatch("probe00", 0, 1.0, [0.1])])
    session.record([SampleBatch("probe00", 0, 2.0, [0.9]), SampleBatch("probe00", 1, 3.0, [0.2])])
    assert [batch.durations_ms for batch in table.sample_batches("probe00")] == [[0.1], [0.2]]
    Recorder(table, "cpu", {}).record([SampleBatch("probe00", 0, 4.0, [0.3])])
    assert [batch.durations_ms for batch in table.sample_batches("probe00")] == [[0.1], [0.2], [0.3]]


def test_invalid_batch_raises(table):
    session = Recorder(table, "cpu", {})
    with pytest.raises(OutputError, match="cannot write"):
        session.record([SampleBatch("probe00", 0, 1.0, [0.1]), SampleBatch("probe00", 1, 1.0, [float("nan")])])
    assert table.sample_batches() == [], "all or nothing"


def test_failing_and_finishing_replace_each_other(table):
    session = Recorder(table, "cpu", {})
    session.finish({"probe00": (SUMMARY, None), "probe01": (SUMMARY, "known to 9 %, not 1 %")})
    session.fail("probe02", "out of memory")
    found = {benchmark.key: benchmark for benchmark in table.benchmarks()}
    assert (found["probe00"].status, found["probe00"].reason) == ("measured", None)
    assert (found["probe01"].status, found["probe01"].reason) == ("noisy", "known to 9 %, not 1 %")
    assert found["probe01"].latency_ms == SUMMARY.latency_ms
    assert (found["probe02"].status, found["probe02"].reason) == ("failed", "out of memory")
    session.fail("probe00", "lost")
    session.finish({"probe02": (SUMMARY, None)})
    found = {benchmark.key: benchmark for benchmark in table.benchmarks()}
    assert (found["probe00"].status, found["probe00"].latency_ms) == ("failed", None)
    assert (found["probe02"].status, found["probe02"].reason) == ("measured", None)
    assert found["probe02"].latency_ms == SUMMARY.latency_ms


def test_new_results_unset_finished(table):
    """Entries and calibration depend on the benchmarks, so the next process must update them."""
    session = Recorder(table, "cpu", {})
    for change in (
        lambda: session.finish({"probe00": (SUMMARY, None)}),
        lambda: session.fail("probe01", "refused"),
    ):
        table.set_metadata(FINISHED, {"at_unix_s": 1.0})
        session.record([SampleBatch("probe00", len(table.sample_batches()), 1.0, [0.1])])
        assert table.metadata(FINISHED), "batches alone change no benchmark"
        change()
        assert table.metadata(FINISHED) is None


def test_energy_is_recorded(table):
    session = Recorder(table, "cpu", {})
    session.record_energy({})
    session.finish({"probe00": (SUMMARY, None)})
    session.record_energy({"probe00": 7.5})
    assert [benchmark.energy_mj for benchmark in table.benchmarks()[:2]] == [7.5, None]


def test_finishing_is_all_or_nothing(table):
    impossible = Summary(-1.0, 0.1, median_ms=2.0, min_ms=0.5, spread_pct=3.0, batches=4, samples=12)
    with pytest.raises(OutputError, match="cannot write"):
        Recorder(table, "cpu", {}).finish({"probe00": (SUMMARY, None), "probe01": (impossible, None)})
    assert set(statuses(table).values()) == {"pending"}


CLAIMER = """
import sys
from lgc.lut import LatencyTable
from lgc.lut.table.recorder import Recorder
with LatencyTable.open(sys.argv[1]) as table:
    print("ready", flush=True)
    sys.stdin.readline()
    print(*Recorder(table, "cpu", {}).claim(float(sys.argv[2])), flush=True)
    sys.stdin.readline()
"""


def test_concurrent_claims_do_not_overlap(table):
    """Start three processes at the same moment, then kill one: its claims become available."""
    words = [sys.executable, "-c", CLAIMER, table.path, str(1 / 3)]
    running = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        taken = [process.stdout.readline().split() for process in running]
        assert sorted(key for keys in taken for key in keys) == BENCHMARKS
        assert [len(keys) for keys in taken] == [4, 4, 4]
        assert Recorder(table, "cpu", {}).claim() == []
        running[0].kill()
        running[0].wait()
        assert Recorder(table, "cpu", {}).claim() == taken[0]
    finally:
        for process in running:
            process.kill()
            process.communicate()
