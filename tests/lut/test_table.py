import json
import sqlite3

import pytest

from lgc.errors import FileFormatError, MismatchError, MissingEntryError, OutputError
from lgc.lut import LatencyTable, Target
from lgc.lut.statistics import Summary
from lgc.lut.table import network_key
from lgc.models import OpSpec, SearchSpace

TARGET = Target("cpu", "torch", threads=2)
SUMMARY = Summary(latency_ms=1.5, median_ms=2.0, min_ms=1.0, spread_pct=3.0, samples=12)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.lut"


@pytest.fixture
def table(path, mini_space):
    with LatencyTable.create(path, TARGET, mini_space, {"statistic": "median"}, {"device_name": "x"}) as table:
        yield table


def first(table):
    return table.entries()[0].key


def test_a_new_table_waits_for_every_entry(table, mini_space):
    assert {entry.status for entry in table.entries()} == {"pending"}
    assert [entry.key for entry in table.entries()][:2] == [str(spec) for spec in mini_space.plan.stem]
    assert table.rounds_done() == {}
    assert table.networks() == []
    assert table.note("calibration") is None


def test_what_was_created_is_opened(table, path, mini_space):
    with LatencyTable.open(path) as opened:
        assert (opened.target, opened.space) == (TARGET, mini_space)
        assert opened.protocol == {"statistic": "median"}
        assert opened.environment == {"device_name": "x"}
        assert opened.entries() == table.entries()


def test_a_summary_is_kept(table, path):
    table.record_summary(first(table), SUMMARY)
    with LatencyTable.open(path) as opened:
        entry = opened.entry(OpSpec.parse(first(table)))
        assert (entry.status, entry.reason) == ("measured", None)
        assert (entry.latency_ms, entry.median_ms, entry.min_ms) == (1.5, 2.0, 1.0)
        assert (entry.spread_pct, entry.samples) == (3.0, 12)
        assert opened.latency_ms(OpSpec.parse(first(table))) == 1.5
        assert [entry.status for entry in opened.entries()].count("measured") == 1


def test_operators_that_take_no_time_cost_nothing_and_have_no_entry(table):
    for spec in (OpSpec("zero", 4, 4, 8, 8), OpSpec("skip", 4, 4, 8, 8)):
        assert table.latency_ms(spec) == 0
        with pytest.raises(MissingEntryError):
            table.entry(spec)


def test_an_unknown_entry_names_the_profile_command(table):
    with pytest.raises(MissingEntryError, match=r"has no entry conv_3x3/c7-7/9x9/s1/b1; .*lgc-profile --space SPACE"):
        table.latency_ms(OpSpec("conv_3x3", 7, 7, 9, 9))


def test_a_pending_entry_names_the_profile_command(table, path):
    with pytest.raises(MissingEntryError) as caught:
        table.latency_ms(OpSpec.parse(first(table)))
    assert f"{first(table)} not measured yet; fill it with: {table.profile_command()}" in str(caught.value)
    assert table.profile_command() == (
        f"lgc-profile --device cpu --backend torch --precision fp32 --threads 2 --space mini.yaml --input 32x32 "
        f"--out {path}"
    )


def test_a_failed_entry_says_why_and_is_mended_by_a_measurement(table):
    table.record_failure(first(table), "out of memory")
    with pytest.raises(MissingEntryError, match="failed: out of memory; fill it with: lgc-profile"):
        table.latency_ms(OpSpec.parse(first(table)))
    assert table.entries()[0].reason == "out of memory"
    table.record_summary(first(table), SUMMARY)
    assert table.entries()[0].reason is None
    assert table.latency_ms(OpSpec.parse(first(table))) == 1.5


def test_presets_are_profiled_by_name(tmp_path):
    space = SearchSpace.load("tiny")
    with LatencyTable.create(tmp_path / "a.lut", Target("cuda:1", "tensorrt", "fp16"), space, {}, {}) as table:
        assert table.profile_command() == (
            f"lgc-profile --device cuda:1 --backend tensorrt --precision fp16 --space tiny --input 192x256 "
            f"--out {tmp_path / 'a.lut'}"
        )


def test_a_frame_has_a_row_for_each_entry(table):
    pd = pytest.importorskip("pandas")
    table.record_summary(first(table), SUMMARY)
    table.record_failure(table.entries()[1].key, "refused")
    frame = table.to_frame()
    assert list(frame.index) == [entry.key for entry in table.entries()]
    assert {"operator", "c_in", "c_out", "height", "width", "stride", "batch"} <= set(frame.columns)
    assert {"status", "reason", "latency_ms", "median_ms", "min_ms", "spread_pct", "samples"} <= set(frame.columns)
    row = frame.loc[first(table)]
    assert (row.operator, row.c_in, row.stride, row.latency_ms) == ("conv_3x3", 3, 2, 1.5)
    assert list(frame.status[:3]) == ["measured", "failed", "pending"]
    assert pd.isna(frame.latency_ms.iloc[1])


def test_visits_are_counted_by_subject_and_read_in_order_of_rounds(table):
    a, b = (entry.key for entry in table.entries()[:2])
    table.record_visits([(a, 1, 11.0, [0.3]), (b, 0, 12.0, [0.5, 0.6])])
    table.record_visits([(a, 0, 13.0, [0.1, 0.2])])
    assert table.rounds_done() == {a: 2, b: 1}
    assert table.visits(a) == [[0.1, 0.2], [0.3]]
    assert table.visits(b) == [[0.5, 0.6]]
    assert table.visits("nothing") == []


def test_a_visit_recorded_twice_is_kept_once_and_as_it_was(table):
    key = first(table)
    table.record_visits([(key, 0, 1.0, [0.1])])
    table.record_visits([(key, 0, 2.0, [0.9]), (key, 1, 3.0, [0.2])])
    assert table.rounds_done() == {key: 2}
    assert table.visits(key) == [[0.1], [0.2]]


def test_a_visit_that_is_no_measurement_is_not_dropped_silently(table):
    with pytest.raises(OutputError, match="cannot write"):
        table.record_visits([(first(table), 0, 1.0, [0.1]), (first(table), 1, 1.0, [float("nan")])])
    assert table.rounds_done() == {}


def test_networks_are_registered_once_for_each_scope(table, mini_space):
    architecture = mini_space.sample(0)
    keys = [table.add_network(architecture, scope) for scope in ("dense", "core", "dense")]
    assert keys[0] == keys[2] == network_key(architecture, "dense") != keys[1]
    table.record_summary(keys[0], SUMMARY)
    table.record_failure(keys[1], "refused")
    (dense, stored, scope), (core, _, _) = table.networks()
    assert (stored, scope) == (architecture, "dense")
    assert (dense.status, dense.latency_ms) == ("measured", 1.5)
    assert (core.status, core.reason) == ("failed", "refused")
    assert {entry.status for entry in table.entries()} == {"pending"}


def test_notes_are_kept_and_replaced(table, path):
    table.write_note("verification", {"mape_pct": 1.0})
    table.write_note("verification", {"mape_pct": 2.0})
    with LatencyTable.open(path) as opened:
        assert opened.note("verification") == {"mape_pct": 2.0}


def test_nothing_is_overwritten(table, path, mini_space, tmp_path):
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"t\.lut exists already \(an SQLite database\)"):
        LatencyTable.create(path, TARGET, mini_space, {}, {})
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="exists already"):
        LatencyTable.create(tmp_path, TARGET, mini_space, {}, {})


def test_a_table_that_cannot_be_created_leaves_nothing(tmp_path, mini_space):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        LatencyTable.create(tmp_path / "file" / "t.lut", TARGET, mini_space, {}, {})
    with pytest.raises(TypeError):
        LatencyTable.create(tmp_path / "t.lut", TARGET, mini_space, {}, {"thing": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_creation_left_is_in_nobodys_way(tmp_path, mini_space):
    (tmp_path / ".t.lut.new").write_bytes(b"half a table")
    LatencyTable.create(tmp_path / "t.lut", TARGET, mini_space, {}, {}).close()
    assert [path.name for path in tmp_path.iterdir()] == ["t.lut"]


def test_requirements_name_what_differs(table, mini_space):
    table.require(target=TARGET, space=mini_space)
    other = Target("cuda:0", "tensorrt", "fp16")
    with pytest.raises(MismatchError) as caught:
        table.require(target=other, space=mini_space.with_input(64, 64))
    message = str(caught.value)
    for difference in (
        "device cpu, not cuda:0",
        "backend torch, not tensorrt",
        "precision fp32, not fp16",
        "threads 2, not 1",
        "space mini 32x32",
        "not mini 64x64",
        "lgc-profile",
    ):
        assert difference in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("PRAGMA user_version = 2", r"has table schema 2, this lgc reads 1: update lgc"),
        ("PRAGMA user_version = 0", r"has table schema 0, this lgc reads 1: build it anew with lgc-profile"),
        ("DELETE FROM entries WHERE rowid = 1", "its content fails at entry conv_3x3/c3-4/32x32/s2/b1"),
        ("UPDATE entries SET key = 'x' WHERE rowid = 1", "damaged latency table"),
        ("PRAGMA application_id = 1", "is no latency table but an SQLite database of another program"),
        ("DROP TABLE meta", "damaged latency table: no such table: meta"),
        ("DELETE FROM meta WHERE key = 'target'", "damaged latency table: its content fails at 'target'"),
        ("UPDATE meta SET value = '[]' WHERE key = 'target'", "damaged latency table"),
        ("UPDATE meta SET value = '{}' WHERE key = 'space'", "no search space: name: Field required"),
        ("UPDATE meta SET value = json_set(value, '$.device', 'gpu') WHERE key = 'target'", "device 'gpu' is neither"),
        ("UPDATE meta SET value = json_set(value, '$.threads', 'two') WHERE key = 'target'", "damaged latency table"),
    ],
)
def test_a_table_that_is_not_right_is_refused(table, path, change, complaint):
    table.close()
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(FileFormatError, match=complaint) as caught:
        LatencyTable.open(path)
    assert str(path) in str(caught.value)


def test_a_network_that_is_none_is_refused(table, path, mini_space):
    table.add_network(mini_space.sample(0), "dense")
    table.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE networks SET architecture = ?", (json.dumps({"space": {}}),))
    connection.close()
    with LatencyTable.open(path) as opened, pytest.raises(FileFormatError, match="a network of it is none"):
        opened.networks()


def test_foreign_files_are_named(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=f"no latency table but .*{noun}") as caught:
            LatencyTable.open(path)
        assert str(path) in str(caught.value)


def test_a_table_used_after_closing_says_so_as_an_error_of_lgc(table):
    table.close()
    with pytest.raises(FileFormatError):
        table.entries()
