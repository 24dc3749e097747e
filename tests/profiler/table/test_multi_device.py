import os
import sqlite3

import pytest

from lgc.device import Device
from lgc.errors import MismatchError
from lgc.lut import LatencyTable, Target
from lgc.profiler.table import multi_device as fleet
from lgc.profiler.table.multi_device import profile_on, require_equal

CPU = Target("cpu", "onnxruntime")
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes that time need two cores")


@pytest.fixture
def gpus(monkeypatch):
    """Fingerprints of devices that are not there, by name; equal until a test changes one."""
    found = {
        f"cuda:{index}": {
            "device_name": "H100",
            "tf32": False,
            "versions": {"torch": "2.11"},
            "gpu": {"uuid": f"GPU-{index}", "driver": "580", "power_limit_w": 700.0, "temperature_c": 30 + index},
        }
        for index in range(2)
    }
    monkeypatch.setattr(fleet, "require_backend", lambda target, *precisions: None)
    monkeypatch.setattr(fleet, "fingerprint", lambda target, backend: found[target.device])
    return found


@pytest.fixture(scope="module")
def filled(mini_space, tmp_path_factory):
    """A table that two processes filled, and the result of the call."""
    out = tmp_path_factory.mktemp("filled") / "t.lut"
    return out, profile_on([Device("cpu"), Device("cpu")], mini_space, CPU, out, rounds=6, networks=4)


@two_cores
def test_two_processes_fill_one_table(filled):
    out, result = filled
    assert (result.measured, result.pending, result.failed) == (result.entries, 0, {})
    assert result.verification.networks == 4
    with LatencyTable.open(out) as table:
        measured = {}
        for visit in table.sample_batches():
            measured.setdefault(visit.benchmark, set()).add(visit.session)
        pids = dict(table.store.rows("SELECT id, pid FROM sessions"))
        assert {subject.status for subject in table.benchmarks()} <= {"measured", "noisy"}
        assert all(entry.latency_ms > 0 for entry in table.entries())
    assert len({pids[session] for sessions in measured.values() for session in sessions}) == 2
    shared = [subject for subject, sessions in measured.items() if len(sessions) > 1]
    assert 4 <= len(shared) < len(measured), "only sentinels are measured by both, and company for few subjects"
    assert not any(key.startswith("network/") for key in shared)


@two_cores
def test_last_pass_measures_share_of_dead_process(mini_space, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "_work", _die)
    result = profile_on([Device("cpu"), Device("cpu")], mini_space, CPU, tmp_path / "t.lut", rounds=4, networks=4)
    assert (result.measured, result.failed) == (result.entries, {})


def _die(*_):
    raise SystemExit(9)


def test_equal_devices_may_share_a_table(gpus):
    require_equal([Device("cuda:0"), Device("cuda:1")], Target("cuda:0", "torch"))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"device_name": "A100"}, "device H100, not A100"),
        ({"gpu": {"driver": "580", "power_limit_w": 400.0}}, "power limit 700.0 W, not 400.0 W"),
        ({"versions": {"torch": "2.12"}}, "torch 2.11, not 2.12"),
    ],
    ids=str,
)
def test_unequal_devices_are_rejected_without_a_file(gpus, mini_space, tmp_path, change, difference):
    gpus["cuda:1"] |= change
    out = tmp_path / "t.lut"
    with pytest.raises(MismatchError, match=f"cuda:0 and cuda:1 differ.*{difference}"):
        profile_on([Device("cuda:0"), Device("cuda:1")], mini_space, Target("cuda:0", "torch"), out)
    assert not out.exists()


@two_cores
def test_the_table_names_the_processes(filled):
    out, _ = filled
    connection = sqlite3.connect(out)
    devices = {row[0] for row in connection.execute("SELECT device FROM sessions")}
    leases = connection.execute("SELECT count(*) FROM subjects WHERE session IS NOT NULL").fetchone()[0]
    connection.close()
    assert (devices, leases) == ({"cpu"}, 0)
