"""The SQLite schema of a latency table, and what tells one from any other file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from ..errors import FileFormatError, OutputError
from ..files import describe

SCHEMA_VERSION = 1
"""Kept in the database's `user_version`."""

APPLICATION_ID = 0x6C676331
"""`lgc1` in ASCII, in the database's `application_id`."""

DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged table raises; the second where SQLite's own message quotes broken text."""

PENDING, MEASURED, FAILED = "pending", "measured", "failed"

_MEASUREMENT = """
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

DDL = f"""
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL CHECK (json_valid(value))
) STRICT;
CREATE TABLE entries (
    key TEXT PRIMARY KEY,
    {_MEASUREMENT}
) STRICT;
CREATE TABLE networks (
    key TEXT PRIMARY KEY,
    architecture TEXT NOT NULL CHECK (json_valid(architecture)),
    scope TEXT NOT NULL,
    {_MEASUREMENT}
) STRICT;
CREATE TABLE visits (
    subject TEXT NOT NULL,
    round INTEGER NOT NULL,
    at_unix_s REAL NOT NULL,
    durations_ms TEXT NOT NULL CHECK (json_valid(durations_ms)),
    PRIMARY KEY (subject, round)
) STRICT, WITHOUT ROWID;
"""


def create(path: Path, meta: Mapping[str, str], keys: Iterable[str]) -> sqlite3.Connection:
    """Make a new table at `path`, with `meta` (JSON text by key) and a pending entry for each of `keys`.

    The file appears under its name only with all of that in it.

    Raises:
        OutputError: it exists already, or cannot be written.
    """
    if path.exists():
        raise OutputError(f"{path} exists already ({describe(path)})")
    scratch = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)
        with closing(sqlite3.connect(scratch)) as connection, connection:
            connection.executescript(
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {DDL}"
            )
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.executemany("INSERT INTO entries (key) VALUES (?)", [(key,) for key in keys])
        scratch.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    return connect(path)


def connect(path: Path) -> sqlite3.Connection:
    """Open the table at `path`, after showing that it is one and whole.

    Raises:
        FileFormatError: it is missing, foreign, truncated, or of another schema version.
    """
    if not path.is_file():
        raise FileFormatError(f"{path} is no latency table but {describe(path)}")
    with path.open("rb") as file:
        head = file.read(18)
    if not head.startswith(b"SQLite format 3\0"):
        raise FileFormatError(f"{path} is no latency table but {describe(path)}")
    page_bytes = max(int.from_bytes(head[16:], "big"), 512)
    if path.stat().st_size < page_bytes:  # SQLite would take it for an empty database
        raise FileFormatError(f"{path} is a damaged latency table: it breaks off within its first {page_bytes} bytes")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=30)
    except sqlite3.Error as error:
        raise FileFormatError(f"{path} cannot be opened as a latency table: {error}") from error
    try:
        _check(path, connection)
        connection.execute("PRAGMA synchronous = FULL")
    except DAMAGE as error:
        connection.close()
        raise FileFormatError(f"{path} is a damaged latency table: {error}") from error
    except FileFormatError:
        connection.close()
        raise
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Show that the database at `path` is a latency table of this schema and whole."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise FileFormatError(f"{path} is no latency table but an SQLite database of another program")
    if version != SCHEMA_VERSION:
        mend = "update lgc" if version > SCHEMA_VERSION else "build it anew with lgc-profile"
        raise FileFormatError(f"{path} has table schema {version}, this lgc reads {SCHEMA_VERSION}: {mend}")
    faults = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise FileFormatError(f"{path} is a damaged latency table: {faults[0].splitlines()[-1]}")
