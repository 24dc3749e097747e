"""Tables of older schemas brought up to date: one migration for each version, carried out on a copy.

A migration turns the tables of one schema into those of the next, inside an SQLite transaction. Latencies stay as they
were, so predictions do too; what the older schema did not keep is worked out from the raw visits, or unknown.
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
from .table import LatencyTable

_VERSION_OFFSET = 60
"""Where an SQLite file holds `user_version`, four bytes, big end first (sqlite.org/fileformat2.html)."""


_WRITE_ERROR_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""SQLite's errors that tell of the disk, not of the content."""


def upgrade_table(path: Path) -> tuple[int, Path | None]:
    """Bring the table at `path` to this lgc's schema. The older file is kept as `PATH.vN`.

    At every moment there is a whole table at `path`: the new one is made beside it and takes its name at the end.

    Returns:
        The schema that the file had, and where the older file is kept; None if there was nothing to do.

    Raises:
        FileFormatError: it is no table, damaged, or of a newer lgc.
        OutputError: it cannot be written, another process holds it, or `PATH.vN` is there already.
    """
    found = read_schema_version(path)
    if found not in MIGRATIONS:
        if found < schema.TABLE_SCHEMA_VERSION:
            schema.open_store(path, found).close()  # says what is wrong with anything but a latency table
            raise FileFormatError(f"{path} is a damaged latency table: it claims schema {found}, which there never was")
        LatencyTable.open(path).close()
        return found, None
    kept = path.with_name(f"{path.name}.v{found}")
    if kept.exists() and not kept.samefile(path):
        raise OutputError(f"{kept} is there already, and would be where the older table is kept: move it away")
    with atomic_path(path, replace=True) as copy, closing(schema.open_store(path, found)) as store, store.writing():
        _copy_database(path, copy)
        _migrate(copy, path, found)
        _keep_old_file(path, kept)
    return found, kept


def read_schema_version(path: Path) -> int:
    """The schema version that the file claims; this lgc's own for anything that is too short to say."""
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(_VERSION_OFFSET + 4)
    return (
        int.from_bytes(head[_VERSION_OFFSET:], "big")
        if len(head) == _VERSION_OFFSET + 4
        else schema.TABLE_SCHEMA_VERSION
    )


def _copy_database(path: Path, copy: Path) -> None:
    """Copy a database, which may be locked against writers but not against readers."""
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as connection:
            source.backup(connection)
    except sqlite3.Error as error:
        raise OutputError(f"cannot make {path} anew beside it: {error}") from error


def _migrate(copy: Path, path: Path, version: int) -> None:
    """Carry out on `copy` what leads from `version` to this lgc's schema, and show that the outcome is whole."""
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            while version != schema.TABLE_SCHEMA_VERSION:
                connection.execute("BEGIN")
                MIGRATIONS[version](connection)
                version += 1
                connection.execute(f"PRAGMA user_version = {version}")
                connection.execute("COMMIT")
            connection.execute("VACUUM")
        with LatencyTable.open(copy) as table:
            table.networks()
            table.measurement()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None) or 0  # sqlite3's own errors, of text not in UTF-8, have none
        if code & 0xFF in _WRITE_ERROR_CODES:
            raise OutputError(f"cannot write {path} anew: {error}") from error
        raise FileFormatError(f"{path} is a damaged latency table: {error}") from error
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path} is a damaged latency table: its content fails at {error}") from error
    except LgcError as error:
        reason = " ".join(str(error).replace(str(copy), str(path)).split())
        named = reason if str(path) in reason else f"{path} is a damaged latency table: {reason}"
        raise FileFormatError(named) from error


def _keep_old_file(path: Path, kept: Path) -> None:
    """Give the older file a second name, or make a copy where the file system has no second names."""
    if kept.exists():  # an upgrade was killed when it had done this; shown to be the same file
        return
    try:
        try:
            os.link(path, kept)
        except OSError:
            shutil.copy2(path, kept)
    except OSError as error:
        raise OutputError(f"cannot write {kept}: {error.strerror or error}") from error


_DDL_2 = schema.DDL
"""Tables of schema 2; whoever makes schema 3 puts the text of 2 here."""


_BATCH_COLUMNS_1 = "subject, round, at_unix_s, durations_ms"


def _migrate_1(connection: sqlite3.Connection) -> None:
    """Schema 1 held operators measured alone, in `entries`, and whole networks, from one session that it did not name.

    Entries follow from subjects `alone/KEY` now, networks are subjects, and visits belong to session 1 and one load.
    """
    for name in ("entries", "networks", "visits"):
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    for statement in _DDL_2.split(";"):
        if statement.strip() and "CREATE TABLE meta" not in statement:
            connection.execute(statement)
    meta = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta").fetchall()}
    visits = [
        (_benchmark_key_1(subject), number, at, json.loads(durations))
        for subject, number, at, durations in connection.execute(
            f"SELECT {_BATCH_COLUMNS_1} FROM old_visits"
        ).fetchall()
    ]
    found = Measurement([SampleBatch(*visit) for visit in visits], meta["protocol"]["statistic"])
    moments = [visit[2] for visit in visits] or [0.0]
    session = (meta["target"]["device"], 0, min(moments), max(moments), json.dumps(meta["environment"]))
    connection.execute("INSERT INTO sessions VALUES (1, ?, ?, ?, ?, ?)", session)
    connection.executemany(
        "INSERT INTO visits (subject, session, round, load, at_unix_s, durations_ms) VALUES (?, 1, ?, 0, ?, ?)",
        [(*visit[:3], json.dumps(visit[3])) for visit in visits],
    )
    columns = "key, status, reason, latency_ms, median_ms, min_ms, spread_pct, samples"
    for row in connection.execute(f"SELECT {columns}, NULL, NULL FROM old_entries ORDER BY rowid").fetchall():
        ci = _add_benchmark_1(connection, "operator", row, found)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (*row[:4], ci))
        connection.execute("INSERT INTO terms VALUES (?, ?, 1.0)", (row[0], _benchmark_key_1(row[0])))
    for row in connection.execute(f"SELECT {columns}, architecture, scope FROM old_networks ORDER BY rowid").fetchall():
        _add_benchmark_1(connection, "network", row, found)
    for name in ("entries", "networks", "visits"):
        connection.execute(f"DROP TABLE old_{name}")
    _convert_meta_1(connection, meta)


def _benchmark_key_1(key: str) -> str:
    """Subject of an entry or a network of schema 1."""
    return key if key.startswith("network/") else f"alone/{key}"


def _add_benchmark_1(
    connection: sqlite3.Connection, kind: str, row: tuple[Any, ...], found: Measurement
) -> float | None:
    """Add what was timed for an entry or network; the interval of its latency (ms), from its visits."""
    key, status, reason, latency, median, least, spread, samples, architecture, scope = row
    subject = _benchmark_key_1(key)
    visits = len(found.points(subject))
    ci = found.summary(subject).ci_ms if visits and latency is not None else None
    values = (subject, kind, status, reason, latency, ci, median, least, spread, visits, samples, architecture, scope)
    connection.execute(
        "INSERT INTO subjects (key, kind, status, reason, latency_ms, ci_ms, median_ms, min_ms, spread_pct, visits, "
        "samples, architecture, scope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )
    return ci


def _convert_meta_1(connection: sqlite3.Connection, meta: dict[str, Any]) -> None:
    """Schema 1's calibration was a line. Its reports stay: they did not name the worst prediction, and need not."""
    notes: dict[str, Any] = {"protocol": {**meta["protocol"], "context": "isolated"}}
    reports = meta.get("verification") or {}
    if "calibration" in meta:
        notes["calibration"] = {
            scope: {
                "form": "affine",
                "intercept_ms": line["intercept_ms"],
                "weights": [line["slope"]],
                "error_pct": None,
                "networks": reports.get(scope, {}).get("networks", 0),
            }
            for scope, line in meta["calibration"].items()
        }
        notes["settled"] = {"schema": 1}
    for key, value in notes.items():
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))


MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _migrate_1}
"""Version -> what makes the next one of it."""
