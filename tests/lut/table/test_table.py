import json
import os
import sqlite3

import pytest

from lgc.errors import FileFormatError, MismatchError, MissingEntryError, OutputError
from lgc.lut import Correction, LatencyTable, Target
from lgc.lut.statistics.estimates import Summary
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table.recorder import Recorder
from lgc.lut.table.table import MIN_ENTRY_MS, UNFINISHED, network_key
from lgc.models import Architecture, OpSpec, SearchSpace

TARGET = Target("cpu", "torch", threads=2)


def summary(latency_ms, ci_ms=0.1):
    return Summary(latency_ms, ci_ms, median_ms=2.0, min_ms=0.5, spread_pct=3.0, visits=4, samples=12)


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
    """The first two entries: `a` follows from two subjects, `b` from one of them."""
    a, b = (OpSpec.parse(entry.key) for entry in table.entries()[:2])
    table.add_benchmarks("carrier", {"carrier": [(str(a), "carrier", -0.5)]})
    table.add_benchmarks("operator", {"probe": [(str(a), "probe", 0.25), (str(b), "probe", 2.0)]})
    return a, b


def first(table):
    return table.entries()[0].key


def test_a_new_table_waits_for_every_entry(table, mini_space):
    assert {entry.status for entry in table.entries()} == {"pending"}
    assert [entry.key for entry in table.entries()][:2] == [str(spec) for spec in mini_space.plan.stem]
    assert (table.benchmarks(), table.networks(), table.sample_batches()) == ([], [], [])
    assert table.metadata("calibration") is None
    assert table.correction("dense") is None


def test_what_was_created_is_opened(table, path, mini_space):
    with LatencyTable.open(path) as opened:
        assert (opened.target, opened.space) == (TARGET, mini_space)
        assert opened.protocol == {"statistic": "minima"}
        assert opened.environment == {"device_name": "x"}
        assert opened.entries() == table.entries()


def test_subjects_are_registered_once_and_keep_what_is_known(table, path, recorder, specs):
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


def test_an_entry_follows_from_its_subjects(table, recorder, specs):
    """a = probe / 4 - carrier / 2, b = 2 * probe; intervals add up as independent errors do."""
    a, b = specs
    recorder.finish({"probe": (summary(8.0, ci_ms=0.4), None), "carrier": (summary(3.0, ci_ms=0.6), None)})
    table.finalize()
    assert table.latency_ms(a) == pytest.approx(8.0 / 4 - 3.0 / 2)
    assert table.entry(a).ci_ms == pytest.approx((0.1**2 + 0.3**2) ** 0.5)
    assert (table.latency_ms(b), table.entry(b).ci_ms) == (16.0, 0.8)
    assert [entry.status for entry in table.entries()].count("measured") == 2
    assert (table.entry(a).status, table.entry(a).reason) == ("measured", None)


def test_an_entry_waits_for_all_of_its_subjects(table, recorder, specs):
    recorder.finish({"probe": (summary(8.0), None)})
    table.finalize()
    assert [table.entry(spec).status for spec in specs] == ["pending", "measured"]


def test_a_noisy_or_failed_subject_makes_its_entries_so(table, recorder, specs):
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
    assert (table.latency_ms(b), table.entry(b).reason) == (16.0, None), "mended by a measurement"


def test_a_difference_below_nothing_is_next_to_nothing(table, recorder, specs):
    recorder.finish({"probe": (summary(1.0), None), "carrier": (summary(3.0), None)})
    table.finalize()
    assert table.latency_ms(specs[0]) == MIN_ENTRY_MS > 0
    assert (table.entry(specs[0]).status, table.entry(specs[0]).reason) == ("noisy", "indistinguishable from zero")


def visited(recorder, values, subject="probe"):
    recorder.record(
        SampleBatch(subject, number, 100.0 * recorder.session + number, [value]) for number, value in enumerate(values)
    )


def test_settling_takes_all_visits_into_account(table, recorder, specs):
    """A subject's statistics are of what is there, not of what its first session knew."""
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
def test_settling_judges_by_what_is_known_at_last(table, recorder, specs, values, before, after):
    """Visits that a subject made as company of others may have mended it, or shown that it was not known after all.

    Another subject's visits keep the machine's speed, so that these differences are the subject's own.
    """
    steady = [SampleBatch("carrier", n, n / 10, [3.0]) for n in range(80)]
    recorder.record([*steady, *(SampleBatch("probe", n, 0.05 + 2 * n, [value]) for n, value in enumerate(values))])
    recorder.finish({"probe": (summary(1.0), before)})
    table.finalize()
    (probe,) = table.benchmarks("operator")
    assert (probe.status, probe.reason) == after


def test_interpolation_fills_what_is_not_measured(table, recorder, specs):
    a, b = specs
    recorder.finish({"probe": (summary(8.0), None)})
    table.finalize()
    table.interpolate({a: (0.5, 0.2, "two neighbours"), b: (99.0, 0.0, "never")})
    entry = table.entry(a)
    assert (entry.status, entry.reason, entry.latency_ms, entry.ci_ms) == ("interpolated", "two neighbours", 0.5, 0.2)
    assert (table.latency_ms(a), table.latency_ms(b)) == (0.5, 16.0)
    recorder.finish({"carrier": (summary(1.0), None)})
    table.finalize()
    assert (table.entry(a).status, table.latency_ms(a)) == ("measured", 1.5), "a measurement is worth more"


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
    assert f"{first(table)} not measured yet; measure it with: {table.profile_command()}" in str(caught.value)
    assert table.profile_command() == (
        f"lgc-profile --device cpu --backend torch --precision fp32 --threads 2 --space mini.yaml --input 32x32 "
        f"--out {path}"
    )


def test_presets_are_profiled_by_name(tmp_path):
    space = SearchSpace.load("tiny")
    with LatencyTable.create(tmp_path / "a.lut", Target("cuda:1", "tensorrt", "fp16"), space, {}, {}) as table:
        assert table.profile_command() == (
            f"lgc-profile --device cuda:1 --backend tensorrt --precision fp16 --space tiny --input 192x256 "
            f"--out {tmp_path / 'a.lut'}"
        )


def test_a_frame_has_a_row_for_each_entry(table, recorder, specs):
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


def test_visits_are_read_in_order_of_session_and_round(table, recorder):
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
    assert [visit.session for visit in table.sample_batches()] == [first] * 3 + [second]
    assert table.sample_batches("nothing") == []


def test_health_is_read_in_order_of_time(table, recorder):
    late, early = {"at_unix_s": 9.0, "throttle": ["power cap"]}, {"at_unix_s": 3.5, "throttle": None}
    recorder.record([], [late])
    Recorder(table, "cpu", {}).record([], [early])
    assert table.hardware_samples() == [early, late]


@pytest.mark.parametrize("durations", ["[]", "[0.0]", "[-1.0]", "5", '"x"', "[null]", '{"0.5": 1}'])
def test_a_visit_that_is_no_measurement_is_damage(table, path, recorder, durations):
    recorder.record([SampleBatch("a", 0, 1.0, [0.1])])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE visits SET durations_ms = ?", (durations,))
    connection.close()
    with pytest.raises(FileFormatError, match=r"t\.lut is a damaged latency table"):
        table.measurement()


def test_an_entry_of_a_subject_that_is_not_there_is_damage(table, path, recorder, specs):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM subjects WHERE key = 'carrier'")
    connection.close()
    with pytest.raises(FileFormatError, match=r"t\.lut is a damaged latency table: it lacks carrier"):
        table.finalize()


def test_networks_are_registered_once_for_each_scope(table, mini_space, recorder):
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


def test_networks_that_differ_in_their_head_are_two(tmp_path, headed_space):
    choices = headed_space.sample(0).choices
    networks = [Architecture.from_choices(headed_space, choices, head) for head in range(3)]
    with LatencyTable.create(tmp_path / "several.lut", TARGET, headed_space, {}, {}) as table:
        keys = [table.add_network(network, "dense") for network in networks]
        assert len(set(keys)) == 3
        assert [table.add_network(network, "dense") for network in networks] == keys
        assert [stored for _, stored, _ in table.networks()] == networks


def test_the_key_of_a_network_with_the_own_head_is_its_operators(mini_space, headed_space):
    """As it stands in tables that were made before a space could have several heads."""
    for space in (mini_space, headed_space):
        assert network_key(space.sample(0), "core") == "network/core/2-1-2-1-2-0-2-1-0-1-1-2-2-2-1"
    other = Architecture.from_choices(headed_space, headed_space.sample(0).choices, 2)
    assert network_key(other, "core") == "network/core/2-1-2-1-2-0-2-1-0-1-1-2-2-2-1/h8"


def test_notes_are_kept_and_replaced(table, path):
    table.set_metadata("verification", {"mape_pct": 1.0})
    table.set_metadata("verification", {"mape_pct": 2.0})
    with LatencyTable.open(path) as opened:
        assert opened.metadata("verification") == {"mape_pct": 2.0}


def test_a_correction_is_kept_for_each_scope(table):
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
def test_a_calibration_that_is_none_is_damage(table, calibration):
    table.set_metadata("calibration", {"dense": calibration})
    with pytest.raises(FileFormatError, match="damaged latency table: its calibration fails at"):
        table.correction("dense")


def test_nothing_is_overwritten(table, path, mini_space, tmp_path):
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"t\.lut already exists \(an SQLite database\)"):
        LatencyTable.create(path, TARGET, mini_space, {}, {})
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="already exists"):
        LatencyTable.create(tmp_path, TARGET, mini_space, {}, {})


def test_a_table_that_cannot_be_created_leaves_nothing(tmp_path, mini_space):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"):
        LatencyTable.create(tmp_path / "file" / "t.lut", TARGET, mini_space, {}, {})
    with pytest.raises(TypeError):
        LatencyTable.create(tmp_path / "t.lut", TARGET, mini_space, {}, {"thing": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_creation_left_is_in_nobodys_way(tmp_path, mini_space):
    (tmp_path / f".t.lut.{os.getpid()}").write_bytes(b"half a table")
    LatencyTable.create(tmp_path / "t.lut", TARGET, mini_space, {}, {}).close()
    assert [path.name for path in tmp_path.iterdir()] == ["t.lut"]


def test_a_table_that_another_process_makes_meanwhile_is_not_overwritten(tmp_path, mini_space, monkeypatch):
    path = tmp_path / "t.lut"
    connect = sqlite3.connect

    def meanwhile(*arguments, **options):
        path.write_text("other")
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", meanwhile)
    with pytest.raises(OutputError, match=r"t\.lut already exists"):
        LatencyTable.create(path, TARGET, mini_space, {}, {})
    assert path.read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["t.lut"]


def test_a_table_that_another_process_holds_for_too_long_is_not_called_damaged(table, path, monkeypatch):
    table.close()
    connect, holder = sqlite3.connect, sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda *words, **options: connect(*words, **{**options, "timeout": 0.05}))
    with pytest.raises(OutputError, match=r"t\.lut is locked by another process: try again later"):
        LatencyTable.open(path)
    holder.close()
    LatencyTable.open(path).close()


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
        ("PRAGMA user_version = 3", r"has table schema 3, this lgc reads 2: update lgc"),
        ("PRAGMA user_version = 1", r"has table schema 1, this lgc reads 2: .* lgc-lut upgrade \S*t\.lut"),
        ("DELETE FROM entries WHERE rowid = 1", "its content fails at entry conv_3x3/c3-4/32x32/s2/b1"),
        ("UPDATE entries SET key = 'x' WHERE rowid = 1", "damaged latency table"),
        ("PRAGMA application_id = 1", "it is an SQLite database of another program"),
        ("DROP TABLE meta", "damaged latency table: no such table: meta"),
        ("DELETE FROM meta WHERE key = 'target'", "damaged latency table: its content fails at 'target'"),
        ("UPDATE meta SET value = '[]' WHERE key = 'target'", "damaged latency table"),
        ("UPDATE meta SET value = '{}' WHERE key = 'space'", "invalid search space: name: Field required"),
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
def test_the_file_itself_refuses_nonsense(table, path, row):
    """Whatever program writes it."""
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint"):
        connection.execute(f"INSERT INTO subjects (key, kind, status, reason, latency_ms) VALUES {row}")
    connection.close()


def test_foreign_files_are_named(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun) as caught:
            LatencyTable.open(path)
        assert str(path) in str(caught.value)


def test_a_table_used_after_closing_says_so_as_an_error_of_lgc(table):
    table.close()
    with pytest.raises(FileFormatError):
        table.entries()
