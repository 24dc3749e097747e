"""Merging of tables: results, rejected inputs, and state after failures."""

import sqlite3

import pytest

from lgc.errors import FileFormatError, MeasurementError, MismatchError, OutputError, UsageError
from lgc.lut import LatencyTable, Target
from lgc.lut.exchange.merge import merge_tables
from lgc.lut.table import schema
from lgc.lut.table.recorder import UNFINISHED, Recorder
from lgc.models import SearchSpace
from lgc.profiler.profile import calibrate

CARRIER = "carrier/"


def nothing(table):
    """Replace the calibration."""


def halves(carried, **options):
    """Measure the space in two parts at two speeds: carriers in both, networks in the first."""
    keys = sorted(benchmark.key for benchmark in carried("all.lut").benchmarks("operator"))
    mine, theirs = set(keys[::2]), set(keys[1::2])
    a = carried("a.lut", keep=lambda key: key not in theirs, **options)
    b = carried("b.lut", keep=lambda key: key not in mine and "network" not in key, speed=1.4, seed=1)
    return a, b


def test_two_parts_merge_at_equal_speed(carried, tmp_path):
    a, b = halves(carried)
    assert {entry.status for table in (a, b) for entry in table.entries()} == {"measured", "pending"}
    found = merge_tables([a, b], tmp_path / "c.lut", nothing)
    assert (found.missing, found.sessions, found.other_inputs, found.untied) == (0, 2, (), ())
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert found.entries == len(merged.entries()) == len(a.entries())
        assert {entry.status for entry in merged.entries()} == {"measured"}
        speeds = [entry.latency_ms / carried.true_ms(entry.key) for entry in merged.entries()]
        assert max(speeds) / min(speeds) < 1.05
        assert len(merged.sample_batches()) == len(a.sample_batches()) + len(b.sample_batches())
        assert {batch.session for batch in merged.sample_batches()} == {1, 2}
        assert merged.metadata("merged") == {"from": [str(a.path), str(b.path)]}
        assert (merged.target, merged.space, merged.protocol) == (a.target, a.space, a.protocol)


def test_only_complete_tables_are_calibrated(carried, tmp_path):
    a, b = halves(carried, networks=8)
    merge_tables([a, b], tmp_path / "c.lut", calibrate)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert merged.correction("dense").networks == 8
        assert merged.metadata("verification")["dense"]["mape_pct"] < 2
    merge_tables([a, a], tmp_path / "d.lut", calibrate)
    with LatencyTable.open(tmp_path / "d.lut") as merged:
        assert merged.metadata("calibration") is None
        assert "pending" in {entry.status for entry in merged.entries()}


def test_merge_with_a_copy_changes_nothing(carried, tmp_path):
    table = carried(networks=4)
    merge_tables([table, table], tmp_path / "c.lut", nothing)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert merged.sample_batches() == table.sample_batches()
        assert merged.entries() == table.entries()
        assert merged.benchmarks() == table.benchmarks()
        assert [row[1:] for row in merged.networks()] == [row[1:] for row in table.networks()]


def test_hardware_samples_are_merged_once(carried, tmp_path):
    table = carried()
    Recorder(table, "cpu", {}).record([], [{"at_unix_s": 5.0, "steal_pct": 1.5}])
    merge_tables([table, table], tmp_path / "c.lut", nothing)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert merged.store.rows("SELECT session, at_unix_s FROM health") == [(2, 5.0)]


def test_claims_are_not_merged(carried, tmp_path):
    a, b = carried("a.lut"), carried("b.lut", seed=1)
    with a.store.transaction() as connection:
        connection.execute("UPDATE subjects SET session = 1")
    merge_tables([a, b], tmp_path / "c.lut", nothing)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert set(merged.store.rows("SELECT session FROM subjects")) == {(None,)}


def test_most_precise_entry_wins(carried, tmp_path):
    a, b = carried("a.lut"), carried("b.lut", seed=1)
    first, second, third = (benchmark.key for benchmark in a.benchmarks("operator")[:3])
    with a.store.transaction() as connection:
        set_to = f"UPDATE subjects SET status = ?, reason = '{UNFINISHED}', latency_ms = ? WHERE key = ?"
        connection.execute(set_to, ("failed", None, first))
        connection.execute(set_to, ("noisy", 1.0, second))
    with b.store.transaction() as connection:
        connection.execute(set_to, ("failed", None, third))
    a.finalize()
    b.finalize()
    merge_tables([a, b], tmp_path / "c.lut", nothing)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert {entry.status for entry in merged.entries()} == {"measured"}
    merge_tables([a, a], tmp_path / "d.lut", nothing)
    with LatencyTable.open(tmp_path / "d.lut") as merged:
        assert [entry.status for entry in merged.entries()].count("failed") == 1
        assert [entry.status for entry in merged.entries()].count("noisy") == 1


def test_measurement_replaces_an_estimate(carried, tmp_path):
    a, b = halves(carried)
    estimates = {"interpolated": [entry for entry in a.entries() if entry.status == "pending"]}
    with a.store.transaction() as connection:
        connection.executemany(
            "UPDATE entries SET status = 'interpolated', latency_ms = 9.0, ci_ms = 1.0 WHERE key = ?",
            [(entry.key,) for entry in estimates["interpolated"]],
        )
    merge_tables([a, b], tmp_path / "c.lut", nothing)
    merge_tables([a, a], tmp_path / "d.lut", nothing)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        assert {entry.status for entry in merged.entries()} == {"measured"}
    with LatencyTable.open(tmp_path / "d.lut") as merged:
        assert {entry.status for entry in merged.entries()} == {"measured", "interpolated"}


@pytest.fixture
def mini_64(mini_space):
    return mini_space.with_input(64, 64)


def test_other_inputs_contribute_entries_without_networks(carried, mini_64, tmp_path):
    a, b = carried("a.lut", networks=4), carried("b.lut", space=mini_64, networks=4, speed=2.0, seed=1)
    found = merge_tables([a, b], tmp_path / "c.lut", calibrate)
    assert (found.other_inputs, found.untied) == ((b.path,), ()), "some carriers have the same shape in both"
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        keys = {entry.key for entry in merged.entries()}
        assert keys == {entry.key for table in (a, b) for entry in table.entries()}
        assert merged.space == a.space
        assert len(merged.networks()) == 8
        then = {benchmark.key: benchmark.visits for benchmark in a.benchmarks("network")}
        assert {benchmark.key: benchmark.visits for benchmark in merged.benchmarks("network")} == then
        latencies = [entry.latency_ms / carried.true_ms(entry.key) for entry in merged.entries()]
        assert max(latencies) / min(latencies) < 1.1, "same speed everywhere"


def test_other_inputs_may_share_no_benchmark(carried, mini_space, tmp_path):
    a, b = carried("a.lut"), carried("b.lut", space=mini_space.with_input(56, 40), speed=2.0)
    found = merge_tables([a, b], tmp_path / "c.lut", nothing)
    assert found.untied == found.other_inputs == (b.path,)


def test_unconnected_tables_are_rejected(carried, tmp_path):
    keys = [benchmark.key for benchmark in carried("all.lut").benchmarks()]
    a = carried("a.lut", keep=lambda key: key in keys[::2])
    b = carried("b.lut", keep=lambda key: key in keys[1::2])
    c = carried("c.lut")
    with pytest.raises(MismatchError, match=r"a\.lut and .*b\.lut share no benchmark"):
        merge_tables([a, b], tmp_path / "d.lut", nothing)
    assert not (tmp_path / "d.lut").exists()
    assert merge_tables([a, b, c], tmp_path / "d.lut", nothing).sessions == 3, "a third table connects them"


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"target": Target("cuda:0", "onnxruntime")}, "device cpu, not cuda:0"),
        ({"target": Target("cpu", "torch")}, "backend onnxruntime, not torch"),
        ({"environment": {"device_name": "Z80"}}, "device test machine, not Z80"),
        (
            {"environment": {"device_name": "test machine", "versions": {"onnxruntime": "2.0"}}},
            "versions onnxruntime 1.0, not onnxruntime 2.0",
        ),
        ({"space": SearchSpace.load("tiny")}, "space mini, not tiny, in more than the input"),
    ],
    ids=["device", "backend", "machine", "versions", "space"],
)
def test_incompatible_tables_are_rejected(carried, tmp_path, options, difference):
    a, b = carried("a.lut"), carried("b.lut", keep=lambda key: key.startswith(CARRIER), **options)
    with pytest.raises(MismatchError) as caught:
        merge_tables([a, b], tmp_path / "c.lut", nothing)
    assert difference in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_heads_are_rejected(carried, headed_space, tmp_path):
    with pytest.raises(MismatchError, match="space headed, not mini, in more than the input"):
        merge_tables([carried("a.lut", space=headed_space), carried("b.lut")], tmp_path / "c.lut", nothing)


def test_other_contexts_are_rejected(carried, make_table, mini_space, tmp_path):
    with pytest.raises(MismatchError, match="context carriers of interleaved-rounds-2, not isolated"):
        merge_tables([carried("a.lut"), make_table(mini_space, "b.lut")], tmp_path / "c.lut", nothing)


def test_single_table_is_rejected(carried, tmp_path):
    with pytest.raises(UsageError, match="cannot merge 1 table"):
        merge_tables([carried()], tmp_path / "c.lut", nothing)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_existing_output_is_kept(carried, tmp_path):
    a, b = halves(carried)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"b\.lut already exists"):
        merge_tables([a, b], b.path, nothing)
    assert contents(tmp_path) == before


def test_failure_changes_nothing(carried, tmp_path):
    def fail(table):
        raise MeasurementError("no")

    a, b = halves(carried)
    before = contents(tmp_path)
    with pytest.raises(MeasurementError):
        merge_tables([a, b], tmp_path / "c.lut", fail)
    assert contents(tmp_path) == before


def test_full_disk_changes_nothing(carried, tmp_path, monkeypatch):
    a, b = halves(carried)
    before = contents(tmp_path)
    connect = schema.open_store

    def cramped(path, *version):
        store = connect(path, *version)
        store.rows("PRAGMA max_page_count = 16")
        return store

    monkeypatch.setattr(schema, "open_store", cramped)
    with pytest.raises(OutputError, match=r"cannot write .*c\.lut.*: database or disk is full"):
        merge_tables([a, b], tmp_path / "c.lut", nothing)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DELETE FROM sessions", "sample batches of session 1, which is missing"),
        ("DELETE FROM subjects WHERE kind = 'carrier'", "components with carrier/"),
        ("UPDATE visits SET durations_ms = '[0.0]'", "must be positive numbers"),
        ("UPDATE visits SET durations_ms = '{}'", "no run was timed"),
    ],
)
def test_damaged_input_is_named(carried, tmp_path, change, reason):
    a, b = carried("a.lut"), carried("b.lut")
    with sqlite3.connect(b.path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(FileFormatError, match=r"b\.lut is a damaged latency table") as caught:
        merge_tables([a, b], tmp_path / "c.lut", nothing)
    assert reason in str(caught.value)
    assert not (tmp_path / "c.lut").exists()
