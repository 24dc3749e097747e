"""CPU affinity and quota: threads beyond them are refused, stops by the quota are counted."""

from __future__ import annotations

import os

import pytest

from lgc import control_groups
from lgc.errors import UsageError
from lgc.lut import Target
from lgc.lut.statistics.conditions import describe_throttling
from lgc.profiler.backends import require_backend
from lgc.profiler.machine.cpu_limits import CpuLimits, Throttling, read_cpu_limits, read_throttling
from lgc.profiler.machine.monitor import open_monitor
from lgc.profiler.timing.measure import check_protocol

V2, V1 = "0::/a/b\n", "7:memory:/x\n3:cpu,cpuacct:/a/b\n"
FILES = {
    V2: {"cpu.max": "150000 100000\n", "cpu.stat": "usage_usec 9\nnr_throttled 4\nthrottled_usec 2500\n"},
    V1: {
        "cpu.cfs_quota_us": "150000\n",
        "cpu.cfs_period_us": "100000\n",
        "cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 2500000\n",
    },
}


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Return a function that writes the control groups of this process: `write(lines, folder, files)`."""
    monkeypatch.setattr(control_groups, "_PROC_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "_CGROUPS", tmp_path / "fs")

    def write(lines, folder, files):
        (tmp_path / "cgroup").write_text(lines)
        target = tmp_path / "fs" / folder
        target.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (target / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("lines", "folder"), [(V2, "a/b"), (V2, "a"), (V2, ""), (V1, "cpu,cpuacct/a/b"), (V1, "cpu/a/b"), (V1, "cpu")]
)
def test_quota_is_found_up_to_the_root(groups, lines, folder):
    groups(lines, folder, FILES[lines])
    assert read_cpu_limits().quota == 1.5
    assert read_throttling() == Throttling(4, 2.5)


def test_smallest_quota_counts(groups):
    groups(V2, "", {"cpu.max": "400000 100000"})
    groups(V2, "a/b", {"cpu.max": "50000 100000"})
    groups(V2, "a", {"cpu.max": "max 100000"})
    assert read_cpu_limits().quota == 0.5


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("250000", 2), ("900000", 4), ("max", 4)])
def test_quota_limits_usable_cores(groups, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    groups(V2, "a/b", {"cpu.max": f"{quota} 100000"})
    assert control_groups.count_usable_cores() == cores


@pytest.mark.parametrize("lines", ["", "0::/\n", V1])
def test_no_quota_is_none(groups, lines):
    groups(lines, "cpu", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    assert read_cpu_limits().quota is None
    assert read_throttling() is None


@pytest.mark.parametrize(
    ("threads", "reason"),
    [(9, "this machine has 8 cores"), (4, "may use 3 of the machine's 8 cores"), (3, "the CPU quota is 2.5 cores")],
)
def test_threads_beyond_limits_are_explained(threads, reason):
    limits = CpuLimits(cores=8, allowed=3, quota=2.5)
    assert reason in limits.explain(threads)
    assert limits.explain(2) is None


@pytest.mark.parametrize("check", [require_backend, check_protocol])
def test_threads_beyond_quota_are_refused(groups, check):
    groups(V2, "a/b", {"cpu.max": "50000 100000"})
    with pytest.raises(UsageError, match=r"--threads 1: the CPU quota is 0\.5 cores"):
        check(Target("cpu", "onnxruntime"))


def test_affinity_limits_the_threads_of_commands(call, mini_yaml, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
    arguments = ("--device", "cpu", "--threads", 2, "--space", mini_yaml, "--out", tmp_path / "t.lut")
    message = call("lgc-profile", *arguments).refusal("lgc-profile")
    assert message.startswith("--threads 2: this process may use 1 of the machine's 4 cores (CPU affinity")
    assert not (tmp_path / "t.lut").exists()


def test_monitor_counts_stops_since_previous_sample(groups):
    groups(V2, "a/b", FILES[V2])
    with open_monitor(Target("cpu", "torch")) as monitor:
        groups(V2, "a/b", {"cpu.stat": "nr_throttled 7\nthrottled_usec 12500\n"})
        sample = monitor.sample()
        assert (sample.cpu_throttled_periods, sample.cpu_throttled_ms) == (3, 10.0)
        assert monitor.sample().cpu_throttled_periods == 0


def test_throttling_is_described():
    samples = [
        {"throttle": ["thermal slowdown", "idle"], "cpu_throttled_periods": 3, "cpu_throttled_ms": 1500.0},
        {"throttle": None, "cpu_throttled_periods": 0, "cpu_throttled_ms": 0.0},
        {},
    ]
    assert describe_throttling(samples) == [
        "the GPU was throttled in 1 of 3 samples: thermal slowdown",
        "the CPU quota stopped this process in 1 of 3 samples, for 1.5 s in all: raise the quota, or use fewer threads "
        "and processes",
    ]
    assert describe_throttling([{}]) == []
