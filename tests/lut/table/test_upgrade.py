"""Upgrades of older schemas: content afterwards, and state after failures."""

import json
import random
import sqlite3
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError, OutputError
from lgc.lut import LatencyTable, PredictionReport, Predictor, Target
from lgc.lut.table import upgrade as module
from lgc.lut.table.schema import TABLE_SCHEMA_VERSION
from lgc.lut.table.table import entry_keys, network_key
from lgc.lut.table.upgrade import MIGRATIONS, read_schema_version, upgrade_table
from lgc.models import OpSpec
from lgc.profiler.profile import calibrate

MEASUREMENT_1 = """
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'measured', 'failed')),
    reason TEXT,
    latency_ms REAL CHECK (latency_ms > 0),
    median_ms REAL,
    min_ms REAL,
    spread_pct REAL,
    samples INTEGER NOT NULL DEFAULT 0,
    CHECK ((status = 'measured') = (latency_ms IS NOT NULL)),
    CHECK ((status = 'failed') = (reason IS NOT NULL))
"""
DDL_1 = f"""
PRAGMA application_id = {0x6C676331};
PRAGMA user_version = 1;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL CHECK (json_valid(value))) STRICT;
CREATE TABLE entries (key TEXT PRIMARY KEY, {MEASUREMENT_1}) STRICT;
CREATE TABLE networks (
    key TEXT PRIMARY KEY,
    architecture TEXT NOT NULL CHECK (json_valid(architecture)),
    scope TEXT NOT NULL,
    {MEASUREMENT_1}
) STRICT;
CREATE TABLE visits (
    subject TEXT NOT NULL,
    round INTEGER NOT NULL,
    at_unix_s REAL NOT NULL,
    durations_ms TEXT NOT NULL CHECK (json_valid(durations_ms)),
    PRIMARY KEY (subject, round)
) STRICT, WITHOUT ROWID;
"""
"""Schema of lgc 0.1 at commit 8b91904."""

ENVIRONMENT = {"device_name": "old machine", "system": "Linux", "versions": {"onnxruntime": "1.0"}}
REPORT_1 = {
    "networks": 4,
    "mape_pct": 1.5,
    "bias_pct": -0.5,
    "within_5_pct": 100.0,
    "within_10_pct": 100.0,
    "kendall_tau": 1.0,
    "spearman_rho": 1.0,
    "ceiling_mape_pct": 0.5,
    "ceiling_kendall_tau": 1.0,
}
LINES = {"core": {"intercept_ms": 0.25, "slope": 1.5}, "dense": {"intercept_ms": -0.125, "slope": 2.0}}
ROUNDS = 6


@pytest.fixture
def old(tmp_path, mini_space):
    """Table of schema 1: measured entries, one pending with a batch, one failed, four networks in two scopes."""
    path = tmp_path / "old.lut"
    meta = {
        "target": {"device": "cpu", "backend": "onnxruntime", "precision": "fp32", "threads": 1},
        "space": mini_space.model_dump(mode="json"),
        "protocol": {"name": "interleaved-rounds", "statistic": "minima"},
        "environment": ENVIRONMENT,
        "calibration": LINES,
        "verification": {"core": REPORT_1, "dense": REPORT_1},
    }
    rng = np.random.default_rng(0)
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL_1)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [(key, json.dumps(meta[key])) for key in meta])
        benchmarks = dict.fromkeys(entry_keys(mini_space), "entries")
        connection.executemany("INSERT INTO entries (key) VALUES (?)", [(key,) for key in benchmarks])
        for architecture in mini_space.spread(4, 0):
            for scope in ("core", "dense"):
                key = network_key(architecture, scope)
                benchmarks[key] = "networks"
                row = (key, architecture.model_dump_json(), scope)
                connection.execute("INSERT INTO networks (key, architecture, scope) VALUES (?, ?, ?)", row)
        for at, (key, table) in enumerate(benchmarks.items()):
            ms = rng.uniform(0.1, 1.0)
            batches = ms * rng.uniform(1.0, 1.01, (ROUNDS, 3))
            rows = [(key, n, 1e9 + n + 1e-4 * at, json.dumps(list(batches[n]))) for n in range(ROUNDS)]
            connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", rows)
            connection.execute(
                f"UPDATE {table} SET status = 'measured', latency_ms = ?, median_ms = ?, min_ms = ?, spread_pct = 0.5, "
                "samples = 18 WHERE key = ?",
                (ms, ms, ms, key),
            )
        first, second = list(benchmarks)[:2]
        clear = "latency_ms = NULL, median_ms = NULL, min_ms = NULL, spread_pct = NULL"
        connection.execute(f"UPDATE entries SET status = 'pending', {clear} WHERE key = ?", (first,))
        connection.execute("DELETE FROM visits WHERE subject = ? AND round > 0", (first,))
        connection.execute(f"UPDATE entries SET status = 'failed', reason = 'no', {clear} WHERE key = ?", (second,))
        connection.execute("DELETE FROM visits WHERE subject = ?", (second,))
    connection.close()
    return path


@pytest.fixture
def finished(old):
    """Same table with every entry measured."""
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE entries SET status = 'measured', latency_ms = 0.5, reason = NULL")
    connection.close()
    return old


def rows_1(path, query):
    connection = sqlite3.connect(path)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


def test_old_table_names_the_upgrade_command(old):
    with pytest.raises(FileFormatError, match=rf"has table schema 1, this lgc reads 3: .* lgc-lut upgrade {old}"):
        LatencyTable.open(old)


def test_upgrade_keeps_the_content(old):
    before = old.read_bytes()
    entries = rows_1(old, "SELECT key, status, reason, latency_ms FROM entries ORDER BY rowid")
    batches = rows_1(old, "SELECT subject, round, at_unix_s, durations_ms FROM visits ORDER BY subject, round")
    networks = rows_1(old, "SELECT key, architecture, scope, latency_ms, samples FROM networks ORDER BY rowid")
    assert upgrade_table(old) == (1, old.with_name("old.lut.v1"))
    assert old.with_name("old.lut.v1").read_bytes() == before
    assert {path.name for path in old.parent.iterdir()} == {"old.lut", "old.lut.v1"}
    with LatencyTable.open(old) as table:
        assert [(e.key, e.status, e.reason, e.latency_ms) for e in table.entries()] == entries
        assert [benchmark.key for benchmark in table.benchmarks("operator")] == [
            f"alone/{entry[0]}" for entry in entries
        ]
        for entry in table.entries():
            assert table.components(OpSpec.parse(entry.key)) == {f"alone/{entry.key}": 1.0}
            assert (entry.ci_ms is None) == (entry.latency_ms is None)
            assert entry.ci_ms is None or 0 < entry.ci_ms < 0.02 * entry.latency_ms
        found = sorted(
            (v.benchmark.removeprefix("alone/"), *v[1:3], json.dumps(v.durations_ms)) for v in table.sample_batches()
        )
        assert found == batches
        assert {batch.session for batch in table.sample_batches()} == {1}
        assert [
            (s.key, json.loads(a.model_dump_json()), scope, s.latency_ms, s.samples) for s, a, scope in table.networks()
        ] == [(key, json.loads(text), *rest) for key, text, *rest in networks]
        assert {benchmark.visits for benchmark in table.benchmarks("network")} == {ROUNDS}
        assert table.protocol == {"name": "interleaved-rounds", "statistic": "minima", "context": "isolated"}
        assert table.target == Target("cpu", "onnxruntime")
        session = table.store.rows("SELECT id, device, pid, started_unix_s, seen_unix_s, environment FROM sessions")
        times = [row[2] for row in batches]
        assert session == [(1, "cpu", 0, min(times), max(times), json.dumps(ENVIRONMENT))]


def test_predictions_stay_equal(finished, mini_space):
    latency = dict(rows_1(finished, "SELECT key, latency_ms FROM entries"))
    upgrade_table(finished)
    with LatencyTable.open(finished) as table:
        for scope, line in LINES.items():
            predictor = Predictor(mini_space, table, scope)
            for seed in range(5):
                architecture = mini_space.sample(seed)
                total = sum(latency.get(str(spec), 0.0) for spec in architecture.specs(scope))
                expected = line["intercept_ms"] + line["slope"] * total
                assert predictor.predict(architecture) == pytest.approx(expected)
            correction = table.correction(scope)
            assert (correction.form, correction.networks, correction.half_width_pct()) == ("affine", 4, None)
        assert PredictionReport.from_dict(table.metadata("verification")["dense"]).mape_pct == 1.5


def test_upgraded_table_can_be_calibrated(finished):
    upgrade_table(finished)
    with LatencyTable.open(finished) as table:
        table.finalize()
        assert calibrate(table).networks == 4


def test_table_without_networks_or_batches(old):
    with sqlite3.connect(old) as connection:
        for change in ("DELETE FROM visits", "DELETE FROM networks", "DELETE FROM meta WHERE key LIKE '%ation'"):
            connection.execute(change)
        connection.execute("UPDATE entries SET status = 'pending', reason = NULL, latency_ms = NULL")
    connection.close()
    upgrade_table(old)
    with LatencyTable.open(old) as table:
        assert {entry.status for entry in table.entries()} == {"pending"}
        assert table.metadata("calibration") is table.metadata("verification") is None


def test_current_table_is_unchanged(old):
    upgrade_table(old)
    before = {path.name: path.read_bytes() for path in old.parent.iterdir()}
    assert upgrade_table(old) == (TABLE_SCHEMA_VERSION, None)
    assert {path.name: path.read_bytes() for path in old.parent.iterdir()} == before


def test_every_older_version_has_a_migration():
    assert set(MIGRATIONS) == set(range(1, TABLE_SCHEMA_VERSION))


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (9, "has table schema 9, this lgc reads 3: update lgc"),
        (0, "is a damaged latency table: schema 0 is unknown"),
    ],
)
def test_other_versions_are_rejected(old, version, reason):
    with sqlite3.connect(old) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    assert read_schema_version(old) == version
    assert_rejected(old, FileFormatError, reason)


def assert_rejected(path, error, reason):
    """Check that an upgrade fails with one line that names file and reason, and changes nothing."""
    before = {other.name: other.read_bytes() for other in path.parent.iterdir() if other.is_file()}
    with pytest.raises(error) as caught:
        upgrade_table(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {other.name: other.read_bytes() for other in path.parent.iterdir() if other.is_file()} == before


def test_foreign_files_are_rejected(foreign_files):
    for noun, path in foreign_files.items():
        assert_rejected(path, FileFormatError, noun)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE networks",
        "DROP TABLE visits",
        "ALTER TABLE entries RENAME COLUMN latency_ms TO latency_us",
        "ALTER TABLE visits RENAME COLUMN durations_ms TO durations_us",
        "DELETE FROM meta WHERE key = 'target'",
        "DELETE FROM meta WHERE key = 'protocol'",
        "UPDATE meta SET value = '[]' WHERE key = 'protocol'",
        "UPDATE meta SET value = '[1]' WHERE key = 'calibration'",
        'UPDATE meta SET value = \'{"core": {"slope": "x"}}\' WHERE key = \'calibration\'',
        "UPDATE meta SET value = '3' WHERE key = 'verification'",
        "UPDATE meta SET value = '{}' WHERE key = 'space'",
        "UPDATE visits SET durations_ms = '[0.0]'",
        "UPDATE visits SET durations_ms = '7'",
        "UPDATE visits SET durations_ms = '[\"1\"]'",
        "UPDATE networks SET architecture = '{}'",
        "UPDATE entries SET key = 'sep_conv' WHERE rowid = 3",
        "DELETE FROM entries WHERE rowid = 3",
        "UPDATE entries SET key = CAST(x'ff2f' AS TEXT) WHERE rowid = 3",
        "CREATE TABLE subjects (key TEXT)",
    ],
)
def test_damaged_table_is_rejected(old, change):
    with sqlite3.connect(old) as connection:
        connection.execute(change)
    connection.close()
    assert_rejected(old, FileFormatError, "is a damaged latency table")


def test_existing_backup_is_kept(old):
    kept = old.with_name("old.lut.v1")
    kept.write_text("mine")
    assert_rejected(old, OutputError, "old.lut.v1 already exists")


def test_killed_upgrade_can_be_repeated(old):
    kept = old.with_name("old.lut.v1")
    kept.hardlink_to(old)
    assert upgrade_table(old) == (1, kept)
    assert not kept.samefile(old)


def test_hard_links_are_not_needed(old, monkeypatch):
    def refuse(*paths):
        raise PermissionError

    monkeypatch.setattr(module.os, "link", refuse)
    before = old.read_bytes()
    _, kept = upgrade_table(old)
    assert kept.read_bytes() == before


def test_full_disk_keeps_the_old_table(old, monkeypatch):
    real, pages = sqlite3.connect, old.stat().st_size // 4096

    def cramped(path, **options):
        connection = real(path, **options)
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        return connection

    monkeypatch.setattr(module.sqlite3, "connect", cramped)
    assert_rejected(old, OutputError, "database or disk is full")


def test_locked_table_is_rejected(old, monkeypatch):
    real, held = sqlite3.connect, threading.Event()
    writer = real(old, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(module.sqlite3, "connect", lambda path, **options: real(path, **{**options, "timeout": 0.1}))
    held.set()
    assert_rejected(old, OutputError, "another process has locked it")
    writer.execute("ROLLBACK")
    writer.close()
    assert upgrade_table(old)[0] == 1


@given(st.data())
def test_damaged_file_is_upgraded_or_rejected(finished, data):
    """Any missing byte, page or end raises FileFormatError or gives a complete table."""
    content = finished.read_bytes()
    path = finished.with_name("damaged.lut")
    path.with_name("damaged.lut.v1").unlink(missing_ok=True)
    start = data.draw(st.integers(0, len(content) - 1))
    noise = random.Random(data.draw(st.integers())).randbytes(data.draw(st.sampled_from([1, 2, 64, 4096])))
    cut = data.draw(st.booleans())
    path.write_bytes(content[:start] if cut else content[:start] + noise + content[start + len(noise) :])
    try:
        upgrade_table(path)
    except FileFormatError:
        return
    with LatencyTable.open(path) as table:
        assert len(table.entries()) == len(table.benchmarks("operator"))
