"""Upgrade tables of older schemas: a migration per version, applied to a copy.

A migration converts a schema to the next one in an SQLite transaction. Latencies and predictions stay the same. Values
that the older schema lacks are computed from its sample batches, or are unknown.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, LgcError, OutputError
from ...files import atomic_path
from ..statistics.measurement import Measurement, SampleBatch
from . import schema
from .rows import Benchmark, Entry, columns
from .table import LatencyTable

_VERSION_OFFSET = 60
"""Offset of `user_version` in an SQLite file: four bytes, big-endian (sqlite.org/fileformat2.html)."""

_WRITE_ERROR_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""SQLite's error codes of the disk rather than the content."""


def upgrade_table(path: Path) -> tuple[int, Path | None]:
    """Upgrade the table at `path` to the current schema atomically. The old file is kept as `PATH.vN`.

    Returns:
        Schema version of the old file and the path of its copy; None instead of a path if it was current.

    Raises:
        FileFormatError: The file is not a table, is damaged, or comes from a newer lgc.
        OutputError: The file cannot be written, another process holds its lock, or `PATH.vN` exists.
    """
    version = read_schema_version(path)
    if version not in MIGRATIONS:
        if version < schema.TABLE_SCHEMA_VERSION:
            schema.open_store(path, (version,)).close()  # raises for other files
            raise FileFormatError(f"{path} is a damaged latency table: schema {version} is unknown")
        LatencyTable.open(path, inspect=True).close()
        return version, None
    kept = path.with_name(f"{path.name}.v{version}")
    if kept.exists() and not kept.samefile(path):
        raise OutputError(f"{kept} already exists, so the old table cannot be kept there: move it away")
    with (
        atomic_path(path, replace=True) as copy,
        closing(schema.open_store(path, (version,))) as store,
        store.transaction(),
    ):
        _copy_database(path, copy)
        _migrate(copy, path, version)
        _keep_old_file(path, kept)
    return version, kept


def read_schema_version(path: Path) -> int:
    """Return the schema version in the file's header; the current version if the file is too short to have one."""
    if not path.is_file() or path.stat().st_size < _VERSION_OFFSET + 4:
        return schema.TABLE_SCHEMA_VERSION
    with path.open("rb") as file:
        return int.from_bytes(file.read(_VERSION_OFFSET + 4)[_VERSION_OFFSET:], "big")


def _copy_database(path: Path, copy: Path) -> None:
    """Copy a database that may be locked for writing."""
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as connection:
            source.backup(connection)
    except sqlite3.Error as error:
        raise OutputError(f"cannot copy {path} for its upgrade: {error}") from error


def _migrate(copy: Path, path: Path, version: int) -> None:
    """Migrate `copy` from `version` to the current schema and check the result."""
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            while version != schema.TABLE_SCHEMA_VERSION:
                connection.execute("BEGIN")
                MIGRATIONS[version](connection)
                version += 1
                connection.execute(f"PRAGMA user_version = {version}")
                connection.execute("COMMIT")
            connection.execute("VACUUM")
        with LatencyTable.open(copy, inspect=True) as table:
            if not table.missing_operators:
                table.networks()
            table.measurement()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None) or 0  # errors about invalid UTF-8 have none
        if code & 0xFF in _WRITE_ERROR_CODES:
            raise OutputError(f"cannot rewrite {path}: {error}") from error
        raise FileFormatError(f"{path} is a damaged latency table: {error}") from error
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path} is a damaged latency table: its content fails at {error}") from error
    except LgcError as error:
        reason = " ".join(str(error).replace(str(copy), str(path)).split())
        named = reason if str(path) in reason else f"{path} is a damaged latency table: {reason}"
        raise FileFormatError(named) from error


def _keep_old_file(path: Path, kept: Path) -> None:
    """Hard-link the old file to `kept`, or copy it if the file system has no hard links."""
    if kept.exists():  # the same file, from an upgrade that was killed after this step
        return
    try:
        try:
            os.link(path, kept)
        except OSError:
            shutil.copy2(path, kept)
    except OSError as error:
        raise OutputError(f"cannot write {kept}: {error.strerror or error}") from error


_BATCH_COLUMNS_1 = "subject, round, at_unix_s, durations_ms"


def add_columns(connection: sqlite3.Connection) -> None:
    """Migrate to a schema with more columns: add those that the table lacks, with their defaults or NULL."""
    for table, row_class in (("entries", Entry), ("subjects", Benchmark)):
        stored = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for name, declaration in columns(row_class).items():
            if name not in stored:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {declaration}")


def _migrate_1(connection: sqlite3.Connection) -> None:
    """Migrate schema 1, which had operators measured alone and whole networks, from a single unnamed session.

    Operators become benchmarks `alone/KEY` behind their entries, networks become benchmarks, and all sample batches
    belong to session 1 and one instance.
    """
    for name in ("entries", "networks", "visits"):
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    for statement in schema.DDL.split(";"):  # columns of later schemas included: `add_columns` skips them
        if statement.strip() and not any(f"CREATE TABLE {name}" in statement for name in ("meta", "recipes")):
            connection.execute(statement)
    meta = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta").fetchall()}
    batches = [
        (_benchmark_key_1(key), number, at, json.loads(durations))
        for key, number, at, durations in connection.execute(f"SELECT {_BATCH_COLUMNS_1} FROM old_visits").fetchall()
    ]
    measurement = Measurement([SampleBatch(*batch) for batch in batches], meta["protocol"]["statistic"])
    moments = [batch[2] for batch in batches] or [0.0]
    session = (meta["target"]["device"], 0, min(moments), max(moments), json.dumps(meta["environment"]))
    connection.execute("INSERT INTO sessions VALUES (1, ?, ?, ?, ?, ?)", session)
    connection.executemany(
        "INSERT INTO visits (subject, session, round, load, at_unix_s, durations_ms) VALUES (?, 1, ?, 0, ?, ?)",
        [(*batch[:3], json.dumps(batch[3])) for batch in batches],
    )
    names = "key, status, reason, latency_ms, median_ms, min_ms, spread_pct, samples"
    for row in connection.execute(f"SELECT {names}, NULL, NULL FROM old_entries ORDER BY rowid").fetchall():
        ci = _add_benchmark_1(connection, "operator", row, measurement)
        connection.execute(
            "INSERT INTO entries (key, status, reason, latency_ms, ci_ms) VALUES (?, ?, ?, ?, ?)", (*row[:4], ci)
        )
        connection.execute("INSERT INTO terms VALUES (?, ?, 1.0)", (row[0], _benchmark_key_1(row[0])))
    for row in connection.execute(f"SELECT {names}, architecture, scope FROM old_networks ORDER BY rowid").fetchall():
        _add_benchmark_1(connection, "network", row, measurement)
    for name in ("entries", "networks", "visits"):
        connection.execute(f"DROP TABLE old_{name}")
    _convert_meta_1(connection, meta)


def _benchmark_key_1(key: str) -> str:
    """Return the benchmark key of an entry or network of schema 1."""
    return key if key.startswith("network/") else f"alone/{key}"


def _add_benchmark_1(
    connection: sqlite3.Connection, kind: str, row: tuple[Any, ...], measurement: Measurement
) -> float | None:
    """Add the benchmark of an entry or network and return the half width of its interval in ms."""
    key, status, reason, latency, median, minimum, spread, samples, architecture, scope = row
    benchmark = _benchmark_key_1(key)
    num_batches = len(measurement.points(benchmark))
    ci = measurement.summary(benchmark).ci_ms if num_batches and latency is not None else None
    statistics = (latency, ci, median, minimum, spread, num_batches, samples)
    connection.execute(
        "INSERT INTO subjects (key, kind, status, reason, latency_ms, ci_ms, median_ms, min_ms, spread_pct, visits, "
        "samples, architecture, scope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (benchmark, kind, status, reason, *statistics, architecture, scope),
    )
    return ci


def _convert_meta_1(connection: sqlite3.Connection, meta: dict[str, Any]) -> None:
    """Convert the calibration of schema 1, a line. Its reports stay valid without `worst_pct`."""
    content: dict[str, Any] = {"protocol": {**meta["protocol"], "context": "isolated"}}
    reports = meta.get("verification") or {}
    if "calibration" in meta:
        content["calibration"] = {
            scope: {
                "form": "affine",
                "intercept_ms": line["intercept_ms"],
                "weights": [line["slope"]],
                "error_pct": None,
                "networks": reports.get(scope, {}).get("networks", 0),
            }
            for scope, line in meta["calibration"].items()
        }
        content["settled"] = {"schema": 1}
    for key, value in content.items():
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))


def _migrate_2(connection: sqlite3.Connection) -> None:
    """Migrate schema 2, which had no recipes: its operators are those of lgc 0.1."""
    connection.execute(schema.RECIPES_DDL)


MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _migrate_1, 2: _migrate_2}
"""Version -> its migration to the next one."""
