import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lgc.errors import FileFormatError, MismatchError, MissingEntryError, OutputError
from lgc.lut import Correction, LatencyTable, Target
from lgc.lut.statistics.estimates import Summary
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table.recorder import Recorder
from lgc.lut.table.spaces import load_space
from lgc.lut.table.table import MIN_ENTRY_MS, UNFINISHED, network_key
from lgc.models import OpSpec, SearchSpace

TARGET = Target("cpu", "torch", threads=2)


def summary(latency_ms, ci_ms=0.1):
    return Summary(latency_ms, ci_ms, median_ms=2.0, min_ms=0.5, spread_pct=3.0, batches=4, samples=12)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.lut"


@pytest.fixture
def table(path, mini_space):
    with LatencyTable.create(path, TARGET, mini_space, {"statistic": "minima"}, {"device_name": "x"}) as table:
        yield table


@pytest.fixture
def recorder(table):
    return Recorder(table, "cpu", {})


@pytest.fixture
def specs(table):
    """The first two entries: `a` has two benchmarks, `b` one of them."""
    a, b = (OpSpec.parse(entry.key) for entry in table.entries()[:2])
    table.add_benchmarks("carrier", {"carrier": [(str(a), "carrier", -0.5)]})
    table.add_benchmarks("operator", {"probe": [(str(a), "probe", 0.25), (str(b), "probe", 2.0)]})
    return a, b


def first(table):
    return table.entries()[0].key


def test_new_table_has_pending_entries(table, mini_space):
    assert {entry.status for entry in table.entries()} == {"pending"}
    assert [entry.key for entry in table.entries()][:2] == [str(spec) for spec in mini_space.plan.stem]
    assert (table.benchmarks(), table.networks(), table.sample_batches()) == ([], [], [])
    assert table.metadata("calibration") is None
    assert table.correction("dense") is None


def test_created_table_can_be_opened(table, path, mini_space):
    with LatencyTable.open(path) as opened:
        assert (opened.target, opened.space) == (TARGET, mini_space)
        assert opened.protocol == {"statistic": "minima"}
        assert opened.environment == {"device_name": "x"}
        assert opened.entries() == table.entries()


def test_registering_again_changes_nothing(table, path, recorder, specs):
    recorder.finish({"probe": (summary(1.5), None)})
    recorder.record_energy({"probe": 7.0})
    before = table.benchmarks()
    table.add_benchmarks("operator", {"probe": [(str(specs[0]), "probe", 99.0)]})
    with LatencyTable.open(path) as opened:
        carrier, probe = opened.benchmarks()
        assert opened.benchmarks() == before
        assert opened.benchmarks("operator") == [probe]
        assert (carrier.key, carrier.kind, carrier.status, carrier.latency_ms) == (
            "carrier",
            "carrier",
            "pending",
            None,
        )
        assert (probe.status, probe.reason, probe.latency_ms, probe.ci_ms) == ("measured", None, 1.5, 0.1)
        assert (probe.median_ms, probe.min_ms, probe.spread_pct) == (2.0, 0.5, 3.0)
        assert (probe.visits, probe.samples, probe.energy_mj) == (4, 12, 7.0)
        assert opened.components(specs[0]) == {"carrier": -0.5, "probe": 0.25}


def test_entry_combines_its_benchmarks(table, recorder, specs):
    """a = probe / 4 - carrier / 2, b = 2 * probe; intervals add up like independent errors."""
    a, b = specs
    recorder.finish({"probe": (summary(8.0, ci_ms=0.4), None), "carrier": (summary(3.0, ci_ms=0.6), None)})
    table.finalize()
    assert table.latency_ms(a) == pytest.approx(8.0 / 4 - 3.0 / 2)
    assert table.entry(a).ci_ms == pytest.approx((0.1**2 + 0.3**2) ** 0.5)
    assert (table.latency_ms(b), table.entry(b).ci_ms) == (16.0, 0.8)
    assert [entry.status for entry in table.entries()].count("measured") == 2
    assert (table.entry(a).status, table.entry(a).reason) == ("measured", None)


def test_entry_waits_for_all_its_benchmarks(table, recorder, specs):
    recorder.finish({"probe": (summary(8.0), None)})
    table.finalize()
    assert [table.entry(spec).status for spec in specs] == ["pending", "measured"]


def test_entry_inherits_noise_and_failure(table, recorder, specs):
    a, b = specs
    recorder.finish({"probe": (summary(8.0), None), "carrier": (summary(1.0), "known to 9 %, not 1 %")})
    table.finalize()
    assert (table.entry(a).status, table.entry(a).reason) == ("noisy", "carrier: known to 9 %, not 1 %")
    assert table.latency_ms(a) == 1.5
    assert table.entry(b).status == "measured"
    recorder.fail("probe", "out of memory")
    table.finalize()
    for spec in specs:
        assert (table.entry(spec).status, table.entry(spec).latency_ms) == ("failed", None)
        with pytest.raises(MissingEntryError, match="failed: out of memory; measure it with: lgc-profile"):
            table.latency_ms(spec)
    recorder.finish({"probe": (summary(8.0), None)})
    table.finalize()
    assert (table.latency_ms(b), table.entry(b).reason) == (16.0, None), "repaired by a measurement"


def test_negative_difference_is_clipped(table, recorder, specs):
    recorder.finish({"probe": (summary(1.0), None), "carrier": (summary(3.0), None)})
    table.finalize()
    assert table.latency_ms(specs[0]) == MIN_ENTRY_MS > 0
    assert (table.entry(specs[0]).status, table.entry(specs[0]).reason) == ("noisy", "indistinguishable from zero")


def visited(recorder, values, benchmark="probe"):
    recorder.record(
        SampleBatch(benchmark, number, 100.0 * recorder.session + number, [value])
        for number, value in enumerate(values)
    )


def test_finalize_uses_all_batches(table, recorder, specs):
    """Statistics cover all batches, not only those of the first session."""
    visited(recorder, [1.0, 3.0, 2.0])
    visited(Recorder(table, "cpu", {}), [5.0, 4.0])
    recorder.finish({"probe": (summary(1.0), None)})
    table.finalize()
    (probe,) = table.benchmarks("operator")
    assert (probe.visits, probe.samples, probe.min_ms, probe.median_ms) == (5, 5, 1.0, 3.0)
    assert probe.latency_ms == table.measurement().summary("probe").latency_ms
    assert table.latency_ms(specs[1]) == 2 * probe.latency_ms


@pytest.mark.parametrize(
    ("values", "before", "after"),
    [
        ([1.0, 1.01, 1.02, 1.01], None, ("measured", None)),
        ([1.0, 1.01, 1.02, 1.01], "known to 9 % after 4 s", ("measured", None)),
        ([1.0, 1.5, 1.0, 1.5], None, ("noisy", "confidence interval of ±20.0 %")),
        ([1.0, 1.5, 1.0, 1.5], "known to 9 % after 4 s", ("noisy", "known to 9 % after 4 s")),
        ([1.0, 1.01, 1.02, 1.01], UNFINISHED, ("noisy", UNFINISHED)),
    ],
)
def test_finalize_updates_the_status(table, recorder, specs, values, before, after):
    """Later batches of a benchmark can remove or reveal its noise.

    The carrier's batches give the machine's speed, so these differences are the benchmark's own.
    """
    steady = [SampleBatch("carrier", n, n / 10, [3.0]) for n in range(80)]
    recorder.record([*steady, *(SampleBatch("probe", n, 0.05 + 2 * n, [value]) for n, value in enumerate(values))])
    recorder.finish({"probe": (summary(1.0), before)})
    table.finalize()
    (probe,) = table.benchmarks("operator")
    assert (probe.status, probe.reason) == after


def test_interpolation_fills_unmeasured_entries(table, recorder, specs):
    a, b = specs
    recorder.finish({"probe": (summary(8.0), None)})
    table.finalize()
    table.interpolate({a: (0.5, 0.2, "two neighbours"), b: (99.0, 0.0, "never")})
    entry = table.entry(a)
    assert (entry.status, entry.reason, entry.latency_ms, entry.ci_ms) == ("interpolated", "two neighbours", 0.5, 0.2)
    assert (table.latency_ms(a), table.latency_ms(b)) == (0.5, 16.0)
    recorder.finish({"carrier": (summary(1.0), None)})
    table.finalize()
    assert (table.entry(a).status, table.latency_ms(a)) == ("measured", 1.5), "a measurement has precedence"


def test_free_operators_have_no_entry(table):
    for spec in (OpSpec("zero", 4, 4, 8, 8), OpSpec("skip", 4, 4, 8, 8)):
        assert table.latency_ms(spec) == 0
        with pytest.raises(MissingEntryError):
            table.entry(spec)


def test_unknown_entry_names_the_profile_command(table):
    with pytest.raises(MissingEntryError, match=r"has no entry conv_3x3/c7-7/9x9/s1/b1; .*lgc-profile --space SPACE"):
        table.latency_ms(OpSpec("conv_3x3", 7, 7, 9, 9))


def test_pending_entry_names_the_profile_command(table, path):
    with pytest.raises(MissingEntryError) as caught:
        table.latency_ms(OpSpec.parse(first(table)))
    assert f"{first(table)} not measured yet; measure it with: {table.profile_command()}" in str(caught.value)
    assert table.profile_command() == (
        f"lgc-profile --device cpu --backend torch --precision fp32 --threads 2 --space {path} --input 32x32 "
        f"--classes 3 --out {path}"
    )


def test_spaces_are_loaded_from_tables(table, path):
    """The command that resumes a table needs no other file."""
    assert load_space(path).fingerprint == table.space.fingerprint
    assert load_space("tiny").fingerprint == SearchSpace.load("tiny").fingerprint


def test_changed_presets_are_profiled_from_tables(tmp_path):
    content = {**SearchSpace.load("tiny").model_dump(mode="json"), "operators": ["zero", "skip", "conv_3x3"]}
    path = tmp_path / "a table.lut"
    with LatencyTable.create(path, Target("cpu", "torch"), SearchSpace.check(content, "tiny"), {}, {}) as table:
        assert f" --space '{path}' --input 192x256 " in table.profile_command()


def test_presets_are_profiled_by_name(tmp_path):
    space = SearchSpace.load("tiny")
    with LatencyTable.create(tmp_path / "a.lut", Target("cuda:1", "tensorrt", "fp16"), space, {}, {}) as table:
        assert table.profile_command() == (
            f"lgc-profile --device cuda:1 --backend tensorrt --precision fp16 --space tiny --input 192x256 "
            f"--classes 11 --out {tmp_path / 'a.lut'}"
        )
        assert "--classes 4 --out b.lut" in table.profile_command(out=Path("b.lut"), classes=4)


def test_frame_has_a_row_per_entry(table, recorder, specs):
    pd = pytest.importorskip("pandas")
    recorder.finish({"probe": (summary(1.5), None)})
    recorder.fail("carrier", "refused")
    table.finalize()
    frame = table.to_frame()
    assert list(frame.index) == [entry.key for entry in table.entries()]
    assert {"operator", "c_in", "c_out", "height", "width", "stride", "batch"} <= set(frame.columns)
    assert {"status", "reason", "latency_ms", "ci_ms"} <= set(frame.columns)
    row = frame.loc[str(specs[1])]
    assert (row.operator, row.c_in, row.stride, row.latency_ms) == ("conv_3x3", 4, 2, 3.0)
    assert list(frame.status[:3]) == ["failed", "measured", "pending"]
    assert pd.isna(frame.latency_ms.iloc[0])


def test_batches_are_ordered_by_session_and_round(table, recorder):
    other = Recorder(table, "cpu", {})
    other.record([SampleBatch("a", 0, 14.0, [0.4])])
    recorder.record([SampleBatch("a", 1, 11.0, [0.3]), SampleBatch("b", 0, 12.0, [0.5, 0.6])])
    recorder.record([SampleBatch("a", 0, 13.0, [0.1, 0.2])])
    first, second = recorder.session, other.session
    a = [
        SampleBatch("a", 0, 13.0, [0.1, 0.2], first),
        SampleBatch("a", 1, 11.0, [0.3], first),
        SampleBatch("a", 0, 14.0, [0.4], second),
    ]
    b = SampleBatch("b", 0, 12.0, [0.5, 0.6], first)
    assert table.sample_batches("a") == a
    assert sorted(table.sample_batches()) == sorted([*a, b])
    assert [batch.session for batch in table.sample_batches()] == [first] * 3 + [second]
    assert table.sample_batches("nothing") == []


def test_hardware_samples_are_ordered_by_time(table, recorder):
    late, early = {"at_unix_s": 9.0, "throttle": ["power cap"]}, {"at_unix_s": 3.5, "throttle": None}
    recorder.record([], [late])
    Recorder(table, "cpu", {}).record([], [early])
    assert table.hardware_samples() == [early, late]


@pytest.mark.parametrize("durations", ["[]", "[0.0]", "[-1.0]", "5", '"x"', "[null]", '{"0.5": 1}', "[[1], [1, 2]]"])
def test_invalid_batch_is_damage(table, path, recorder, durations):
    recorder.record([SampleBatch("a", 0, 1.0, [0.1])])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE visits SET durations_ms = ?", (durations,))
    connection.close()
    with pytest.raises(FileFormatError, match=r"t\.lut is a damaged latency table"):
        table.measurement()


def test_missing_benchmark_is_damage(table, path, recorder, specs):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM subjects WHERE key = 'carrier'")
    connection.close()
    with pytest.raises(FileFormatError, match=r"t\.lut is a damaged latency table: entry .* needs carrier"):
        table.finalize()


def test_networks_are_registered_once_per_scope(table, mini_space, recorder):
    architecture = mini_space.sample(0)
    keys = [table.add_network(architecture, scope) for scope in ("dense", "core", "dense")]
    assert keys[0] == keys[2] == network_key(architecture, "dense") != keys[1]
    recorder.finish({keys[0]: (summary(1.5), None)})
    recorder.fail(keys[1], "refused")
    table.add_network(architecture, "dense")
    (dense, stored, scope), (core, _, _) = table.networks()
    assert (stored, scope) == (architecture, "dense")
    assert (dense.kind, dense.status, dense.latency_ms) == ("network", "measured", 1.5)
    assert (core.status, core.reason) == ("failed", "refused")
    assert table.benchmarks("network") == [dense, core]
    assert {entry.status for entry in table.entries()} == {"pending"}


def test_head_width_distinguishes_networks(tmp_path, headed_space):
    choices = headed_space.sample(0).choices
    networks = [headed_space.build([*choices[:-1], head]) for head in range(3)]
    with LatencyTable.create(tmp_path / "several.lut", TARGET, headed_space, {}, {}) as table:
        keys = [table.add_network(network, "dense") for network in networks]
        assert len(set(keys)) == 3
        assert [table.add_network(network, "dense") for network in networks] == keys
        assert [stored for _, stored, _ in table.networks()] == networks


def test_default_head_is_not_in_the_key(mini_space, headed_space):
    """Keys equal those of tables before spaces with several heads."""
    for space in (mini_space, headed_space):
        assert network_key(space.sample(0), "core") == "network/core/2-1-2-1-2-0-2-1-0-1-1-2-2-2-1"
    other = headed_space.build([*headed_space.sample(0).choices[:-1], 2])
    assert network_key(other, "core") == "network/core/2-1-2-1-2-0-2-1-0-1-1-2-2-2-1/h8"


def test_metadata_is_stored_and_replaced(table, path):
    table.set_metadata("verification", {"mape_pct": 1.0})
    table.set_metadata("verification", {"mape_pct": 2.0})
    with LatencyTable.open(path) as opened:
        assert opened.metadata("verification") == {"mape_pct": 2.0}


def test_corrections_are_stored_per_scope(table):
    table.set_metadata("calibration", {"dense": {"form": "kinds", "intercept_ms": 0.1, "weights": [1, 2, 3]}})
    assert table.correction("dense") == Correction("kinds", 0.1, (1, 2, 3))
    assert table.correction("core") is None


@pytest.mark.parametrize(
    "calibration",
    [
        {"intercept_ms": 0.25, "slope": 1.5},
        {"form": "cubic", "weights": [1.0]},
        {"form": "affine", "weights": 1.0},
        {"form": "affine", "weights": [1.0], "speed": 1},
        {"form": "kinds", "weights": [1.0]},
        [],
    ],
    ids=str,
)
def test_invalid_calibration_is_damage(table, calibration):
    table.set_metadata("calibration", {"dense": calibration})
    with pytest.raises(FileFormatError, match="damaged latency table: its calibration fails at"):
        table.correction("dense")


def test_table_with_a_write_ahead_log_opens(table, path):
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        with writer:
            writer.execute("CREATE TABLE other (x)")
            writer.execute("INSERT INTO other VALUES (zeroblob(1000000))")
        assert path.stat().st_size < 1_000_000
        LatencyTable.open(path).close()


def test_locked_table_is_not_called_damaged(table, path, monkeypatch):
    table.close()
    connect, holder = sqlite3.connect, sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda *words, **options: connect(*words, **{**options, "timeout": 0.05}))
    with pytest.raises(OutputError, match=r"t\.lut is locked by another process: try again later"):
        LatencyTable.open(path)
    holder.close()
    LatencyTable.open(path).close()


def test_require_names_the_differences(table, mini_space):
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
        ("PRAGMA user_version = 4", r"has table schema 4, this lgc reads 3: update lgc"),
        ("PRAGMA user_version = 1", r"has table schema 1, this lgc reads 3: .* lgc-lut upgrade \S*t\.lut"),
        ("DELETE FROM entries WHERE rowid = 1", "its content fails at entry conv_3x3/c3-4/32x32/s2/b1"),
        ("UPDATE entries SET key = 'x' WHERE rowid = 1", "damaged latency table"),
        ("PRAGMA application_id = 1", "it is an SQLite database of another program"),
        ("DROP TABLE meta", "damaged latency table: no such table: meta"),
        ("DELETE FROM meta WHERE key = 'target'", "damaged latency table: its content fails at 'target'"),
        ("UPDATE meta SET value = '[]' WHERE key = 'target'", "damaged latency table"),
        ("UPDATE meta SET value = '{}' WHERE key = 'space'", "invalid search space: name: is missing"),
        ("UPDATE meta SET value = '[]' WHERE key = 'space'", "expected a mapping of fields, got list"),
        ("UPDATE meta SET value = json_set(value, '$.device', 'gpu') WHERE key = 'target'", "device 'gpu' is neither"),
        ("UPDATE meta SET value = json_set(value, '$.threads', 'two') WHERE key = 'target'", "damaged latency table"),
    ],
)
def test_damaged_table_is_rejected(table, path, change, complaint):
    table.close()
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(FileFormatError, match=complaint) as caught:
        LatencyTable.open(path)
    assert str(path) in str(caught.value)


def test_invalid_network_is_rejected(table, path, mini_space):
    table.add_network(mini_space.sample(0), "dense")
    table.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE subjects SET architecture = ?", (json.dumps({"space": {}}),))
    connection.close()
    with LatencyTable.open(path) as opened, pytest.raises(FileFormatError, match="one of its networks is invalid"):
        opened.networks()


@pytest.mark.parametrize(
    "row",
    [
        "('x', 'operator', 'measured', NULL, NULL)",
        "('x', 'operator', 'failed', NULL, NULL)",
        "('x', 'operator', 'pending', NULL, 1.0)",
        "('x', 'operator', 'measured', NULL, -1.0)",
        "('x', 'operator', 'measured', NULL, 9e999)",
        "('x', 'operator', 'interpolated', NULL, 1.0)",
        "('x', 'network', 'pending', NULL, NULL)",
        "('x', 'sentinel', 'pending', NULL, NULL)",
    ],
)
def test_schema_rejects_invalid_values(table, path, row):
    """The schema rejects them from any program."""
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint"):
        connection.execute(f"INSERT INTO subjects (key, kind, status, reason, latency_ms) VALUES {row}")
    connection.close()


def test_foreign_files_are_named(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun) as caught:
            LatencyTable.open(path)
        assert str(path) in str(caught.value)


def test_closed_table_raises_an_lgc_error(table):
    table.close()
    with pytest.raises(FileFormatError):
        table.entries()
