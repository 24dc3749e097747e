"""Columns of entries and benchmarks follow from their row classes."""

import gzip
import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pytest

from lgc.lut import Benchmark, Entry, LatencyTable, Target
from lgc.lut.exchange.merge import merge_tables
from lgc.lut.table import schema, upgrade
from lgc.lut.table.rows import columns, insert_rows, update_rows, upsert_rows

TABLES = Path(__file__).parents[2] / "compat" / "files" / "tables"


@dataclass(frozen=True)
class ExtendedBenchmark(Benchmark):
    """Row class with one more column."""

    memory_bytes: Annotated[int | None, "INTEGER CHECK (memory_bytes >= 0)"]


@pytest.fixture
def connection():
    """Empty table in memory with the columns of `ExtendedBenchmark`."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE subjects ({', '.join(columns(ExtendedBenchmark).values())}) STRICT")
        yield connection


@pytest.fixture
def extended(monkeypatch):
    """Add the column to new tables."""
    old, new = (",\n    ".join(columns(row_class).values()) for row_class in (Benchmark, ExtendedBenchmark))
    assert schema.DDL.count(old) == 1
    monkeypatch.setattr(schema, "DDL", schema.DDL.replace(old, new))


def read(connection):
    query = f"SELECT {', '.join(columns(ExtendedBenchmark))} FROM subjects ORDER BY rowid"
    return [ExtendedBenchmark(*row) for row in connection.execute(query)]


def unpack(name, folder):
    """Return the path of a copy of a table of an earlier lgc."""
    path = folder / f"{name}.lut"
    path.write_bytes(gzip.decompress((TABLES / f"{name}.lut.gz").read_bytes()))
    return path


def table_statements(path):
    """Return the SQL text of each table in a file, without line breaks."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
    return {name: " ".join(sql.split()) for name, sql in rows}


@pytest.mark.parametrize("name", ["schema-2-first", "tiny", "small", "torch", "unfinished"])
def test_schema_equals_that_of_old_tables(name, tmp_path, mini_space):
    """Columns, types, defaults, checks and options of schema 2, in their order; the recipes are of schema 3."""
    new = tmp_path / "new.lut"
    LatencyTable.create(new, Target("cpu", "torch"), mini_space, {}, {}).close()
    old = unpack(name, tmp_path)
    upgraded = Path(shutil.copy(old, tmp_path / "upgraded.lut"))
    assert upgrade.upgrade_table(upgraded)[0] == 2
    statements = table_statements(new)
    assert table_statements(upgraded) == statements
    del statements["recipes"]
    assert table_statements(old) == statements


@pytest.mark.parametrize(
    "row",
    [
        {"status": "measured"},
        {"status": "failed"},
        {"status": "interpolated"},
        {"status": "pending", "latency_ms": 1.0},
        {"status": "measured", "latency_ms": 0.0},
        {"status": "measured", "latency_ms": 1e9},
        {"status": "measured", "latency_ms": 1.0, "ci_ms": -0.1},
        {"status": "unknown"},
    ],
    ids=str,
)
def test_invalid_entries_are_rejected(row):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema.DDL)
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint"):
            insert_rows(connection, "entries", [{"key": "x", **row}])


def test_fields_are_columns_in_order():
    assert list(columns(Entry)) == ["key", "status", "reason", "latency_ms", "ci_ms"]
    assert columns(Entry)["ci_ms"] == "ci_ms REAL CHECK (ci_ms >= 0)"
    assert list(columns(ExtendedBenchmark)) == [*columns(Benchmark), "memory_bytes"]


def test_added_column_is_declared_and_written(connection):
    insert_rows(connection, "subjects", [{"key": "a", "kind": "operator"}, {"key": "b", "kind": "carrier"}])
    update_rows(connection, "subjects", [{"key": "b", "memory_bytes": 7}])
    assert [(row.key, row.status, row.visits, row.memory_bytes) for row in read(connection)] == [
        ("a", "pending", 0, None),
        ("b", "pending", 0, 7),
    ]
    with pytest.raises(sqlite3.IntegrityError, match="memory_bytes >= 0"):
        update_rows(connection, "subjects", [{"key": "a", "memory_bytes": -1}])


def test_update_needs_the_condition(connection):
    insert_rows(connection, "subjects", [{"key": key, "kind": "operator"} for key in "ab"])
    update_rows(connection, "subjects", [{"key": key, "samples": 3} for key in "abc"], "key <> 'a'")
    assert {row.key: row.samples for row in read(connection)} == {"a": 0, "b": 3}


def test_upsert_keeps_the_order(connection):
    insert_rows(connection, "subjects", [{"key": key, "kind": "operator", "energy_mj": 1.0} for key in "abc"])
    rows = [{**asdict(row), "energy_mj": None, "memory_bytes": 5} for row in read(connection)[:2]]
    upsert_rows(connection, "subjects", [{**rows[0], "key": "z"}, rows[1]])
    assert [(row.key, row.energy_mj, row.memory_bytes) for row in read(connection)] == [
        ("a", 1.0, None),
        ("b", None, 5),
        ("c", 1.0, None),
        ("z", None, 5),
    ]


def test_added_column_is_merged(extended, carried, tmp_path):
    a, b = carried("a.lut"), carried("b.lut", seed=1)
    first, second, *_ = (benchmark.key for benchmark in a.benchmarks())
    with a.store.transaction() as connection:
        update_rows(connection, "subjects", [{"key": first, "memory_bytes": 7}])
    merge_tables([a, b], tmp_path / "c.lut", lambda table: None)
    with LatencyTable.open(tmp_path / "c.lut") as merged:
        values = dict(merged.store.rows("SELECT key, memory_bytes FROM subjects"))
        assert (values[first], values[second]) == (7, None)


def test_upgrade_adds_the_column(carried, monkeypatch):
    monkeypatch.setattr(upgrade, "Benchmark", ExtendedBenchmark)
    table = carried()
    before = table.entries(), table.benchmarks()
    with table.store.transaction() as connection:
        upgrade.add_columns(connection)
        assert {row.memory_bytes for row in read(connection)} == {None}
    with LatencyTable.open(table.path) as opened:
        assert (opened.entries(), opened.benchmarks()) == before


def test_upgrade_from_schema_1_adds_it_once(extended, monkeypatch, tmp_path):
    monkeypatch.setattr(upgrade, "Benchmark", ExtendedBenchmark)
    with closing(sqlite3.connect(unpack("schema-1", tmp_path))) as connection:
        upgrade.MIGRATIONS[1](connection)
        upgrade.add_columns(connection)
        rows = read(connection)
    assert {row.memory_bytes for row in rows} == {None}
    assert "measured" in {row.status for row in rows}
