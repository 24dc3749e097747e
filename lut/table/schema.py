"""The SQLite schema of a latency table, and what tells one from any other file; docs/lut-format.md describes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, LgcError, OutputError
from ...files import atomic_path, format_error

TABLE_SCHEMA_VERSION = 2
"""Kept in the database's `user_version`."""

APPLICATION_ID = 0x6C676331
"""`lgc1` in ASCII, in the database's `application_id`."""

DAMAGE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged table raises; the second where SQLite's own message quotes broken text."""

PENDING, MEASURED, NOISY, INTERPOLATED, FAILED = "pending", "measured", "noisy", "interpolated", "failed"
WITH_LATENCY = (MEASURED, NOISY, INTERPOLATED)
"""Statuses of entries that have a latency."""

DDL = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL CHECK (json_valid(value))
) STRICT;
CREATE TABLE entries (
    key TEXT PRIMARY KEY,
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'measured', 'noisy', 'interpolated', 'failed')),
    reason TEXT,
    latency_ms REAL CHECK (latency_ms > 0 AND latency_ms < 1e9),
    ci_ms REAL CHECK (ci_ms >= 0),
    CHECK ((status IN ('measured', 'noisy', 'interpolated')) = (latency_ms IS NOT NULL)),
    CHECK (status <> 'failed' OR reason IS NOT NULL)
) STRICT;
CREATE TABLE subjects (
    key TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('operator', 'carrier', 'network')),
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'measured', 'noisy', 'failed')),
    reason TEXT,
    latency_ms REAL CHECK (latency_ms > 0 AND latency_ms < 1e9),
    ci_ms REAL CHECK (ci_ms >= 0),
    median_ms REAL,
    min_ms REAL,
    spread_pct REAL,
    visits INTEGER NOT NULL DEFAULT 0,
    samples INTEGER NOT NULL DEFAULT 0,
    energy_mj REAL,
    session INTEGER,
    architecture TEXT CHECK (architecture IS NULL OR json_valid(architecture)),
    scope TEXT,
    CHECK ((status IN ('measured', 'noisy')) = (latency_ms IS NOT NULL)),
    CHECK (status <> 'failed' OR reason IS NOT NULL),
    CHECK ((kind = 'network') = (architecture IS NOT NULL AND scope IS NOT NULL))
) STRICT;
CREATE TABLE terms (
    entry TEXT NOT NULL,
    subject TEXT NOT NULL,
    coefficient REAL NOT NULL,
    PRIMARY KEY (entry, subject)
) STRICT, WITHOUT ROWID;
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_unix_s REAL NOT NULL,
    seen_unix_s REAL NOT NULL,
    environment TEXT NOT NULL CHECK (json_valid(environment))
) STRICT;
CREATE TABLE visits (
    subject TEXT NOT NULL,
    session INTEGER NOT NULL,
    round INTEGER NOT NULL,
    load INTEGER NOT NULL,
    at_unix_s REAL NOT NULL,
    durations_ms TEXT NOT NULL CHECK (json_valid(durations_ms)),
    PRIMARY KEY (subject, session, round)
) STRICT, WITHOUT ROWID;
CREATE TABLE health (
    session INTEGER NOT NULL,
    at_unix_s REAL NOT NULL,
    sample TEXT NOT NULL CHECK (json_valid(sample))
) STRICT;
"""


class Store:
    """The open database of a table: rows out, transactions in, SQLite's errors as lgc's own."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
            FileFormatError: the file is damaged.
        """
        try:
            return list(self._connection.execute(query, values).fetchall())
        except DAMAGE_ERRORS as error:
            raise _translate_error(self.path, error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the file from its beginning, all or nothing.

        Raises:
            OutputError: the disk is full, the file read-only, or another process holds it for too long.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self.path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def create_store(path: Path, meta: Mapping[str, str], keys: Iterable[str]) -> Store:
    """Make a new table at `path`, with `meta` (JSON text by key) and a pending entry for each of `keys`.

    The file appears under its name only with all of that in it.

    Raises:
        OutputError: it exists already, or cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            with closing(sqlite3.connect(temporary)) as connection, connection:
                connection.executescript(
                    f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {TABLE_SCHEMA_VERSION}; {DDL}"
                )
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                connection.executemany("INSERT INTO entries (key) VALUES (?)", [(key,) for key in keys])
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {path}: {error}") from error
    return open_store(path)


def open_store(path: Path, version: int = TABLE_SCHEMA_VERSION) -> Store:
    """Open the table at `path`, after showing that it is one, whole, and of schema `version`.

    Raises:
        FileFormatError: it is missing, foreign, truncated, or of another schema version.
    """
    if not path.is_file():
        raise format_error(path, "latency table")
    with path.open("rb") as file:
        head = file.read(18)
    if not head.startswith(b"SQLite format 3\0"):
        raise format_error(path, "latency table")
    page_bytes = max(int.from_bytes(head[16:], "big"), 512)
    if path.stat().st_size < page_bytes:  # SQLite would take it for an empty database
        raise FileFormatError(f"{path} is a damaged latency table: it breaks off within its first {page_bytes} bytes")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=30, isolation_level=None)
    except sqlite3.Error as error:
        raise FileFormatError(f"{path} cannot be opened as a latency table: {error}") from error
    try:
        _check_database(path, connection, version)
        connection.execute("PRAGMA synchronous = FULL")
    except DAMAGE_ERRORS as error:
        connection.close()
        raise _translate_error(path, error) from error
    except FileFormatError:
        connection.close()
        raise
    return Store(path, connection)


def _translate_error(path: Path, error: Exception) -> LgcError:
    """What an error of SQLite's while reading means."""
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return OutputError(f"{path} is held by another process; try again when that is done")
    return FileFormatError(f"{path} is a damaged latency table: {error}")


def _check_database(path: Path, connection: sqlite3.Connection, version: int) -> None:
    """Show that the database at `path` is a latency table of schema `version` and whole."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise FileFormatError(f"cannot read latency table {path}: it is an SQLite database of another program")
    if found != version:
        mend = "update lgc" if found > version else f"bring it up to date with: lgc-lut upgrade {path}"
        raise FileFormatError(f"{path} has table schema {found}, this lgc reads {version}: {mend}")
    faults = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise FileFormatError(f"{path} is a damaged latency table: {faults[0].splitlines()[-1]}")
