"""SQLite schema of a latency table, and the checks of its file; documented in docs/lut-format.md."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from ...errors import FileFormatError, LgcError, OutputError
from ...files import SQLITE_HEADER, atomic_path, format_error
from .rows import Benchmark, Entry, columns

TABLE_SCHEMA_VERSION = 3
"""Value of the database's `user_version`."""

READABLE_VERSIONS = (2, TABLE_SCHEMA_VERSION)
"""Versions that need no upgrade: schema 2 only lacks the recipes."""

APPLICATION_ID = 0x6C676331
"""Value of the database's `application_id`: `lgc1` in ASCII."""

DAMAGE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Errors that reading a damaged table raises; the second if SQLite's message quotes invalid UTF-8."""

_PROBED_BYTE = 2**30 + 2**20
"""Byte whose lock `_require_locks` tries: beyond those of SQLite, which follow 2**30."""

PENDING, MEASURED, NOISY, INTERPOLATED, FAILED = "pending", "measured", "noisy", "interpolated", "failed"
WITH_LATENCY = (MEASURED, NOISY, INTERPOLATED)
"""Statuses of entries that have a latency."""

_SEPARATOR = ",\n    "

RECIPES_DDL = """
CREATE TABLE recipes (
    entry TEXT PRIMARY KEY,
    recipe TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

DDL = f"""
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL CHECK (json_valid(value))
) STRICT;
CREATE TABLE entries (
    {_SEPARATOR.join(columns(Entry).values())},
    CHECK ((status IN ('measured', 'noisy', 'interpolated')) = (latency_ms IS NOT NULL)),
    CHECK (status <> 'failed' OR reason IS NOT NULL)
) STRICT;
CREATE TABLE subjects (
    {_SEPARATOR.join(columns(Benchmark).values())},
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
{RECIPES_DDL}"""


class Store:
    """Open database of a table. SQLite's errors are translated to lgc's."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def recipes(self) -> dict[str, str]:
        """Return the digests of the recipes by entry; none in schema 2."""
        has_recipes = self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'recipes'")
        return dict(self.rows("SELECT entry, recipe FROM recipes")) if has_recipes else {}

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query.

        Raises:
            FileFormatError: The file is damaged.
        """
        try:
            return list(self._connection.execute(query, values).fetchall())
        except DAMAGE_ERRORS as error:
            raise _translate_error(self.path, error) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lock the file for writing and yield its connection; commit after the block, or roll back after an error.

        Raises:
            OutputError: The disk is full, the file is read-only, or another process holds the lock.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self.path}: {_explain_write_error(error)}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def create_store(path: Path, meta: Mapping[str, str], recipes: Mapping[str, str]) -> Store:
    """Create a table at `path` atomically, with `meta` (JSON text by key) and pending entries, as key -> recipe.

    Raises:
        OutputError: The file exists or cannot be written, or its file system has no locks.
    """
    with atomic_path(path) as temporary:
        try:
            with temporary.open("xb") as file:
                _require_locks(path, file)
            with closing(sqlite3.connect(temporary)) as connection, connection:
                connection.executescript(
                    f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {TABLE_SCHEMA_VERSION}; {DDL}"
                )
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                connection.executemany("INSERT INTO entries (key) VALUES (?)", [(key,) for key in recipes])
                connection.executemany("INSERT INTO recipes VALUES (?, ?)", recipes.items())
        except (sqlite3.Error, OSError) as error:
            raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    return open_store(path)


def open_store(path: Path, versions: Collection[int] = READABLE_VERSIONS) -> Store:
    """Open the table at `path` after checking that it is complete and has one of the schema `versions`.

    Raises:
        FileFormatError: The file is missing, truncated, not a table, or has another schema version.
        OutputError: Another process holds the lock, or the file system has no locks.
    """
    if not path.is_file():
        raise format_error(path, "latency table")
    with path.open("rb") as file:
        head = file.read(18)
        _require_locks(path, file)
    if not head.startswith(SQLITE_HEADER):
        raise format_error(path, "latency table")
    page_bytes = max(int.from_bytes(head[16:]), 512)
    if path.stat().st_size < page_bytes:  # SQLite would open it as an empty database
        raise FileFormatError(f"{path} is a damaged latency table: it ends within its first {page_bytes} bytes")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=30, isolation_level=None)
    except sqlite3.Error as error:
        raise FileFormatError(f"cannot open latency table {path}: {error}") from error
    try:
        _check_database(path, connection, versions)
        connection.execute("PRAGMA synchronous = FULL")
    except DAMAGE_ERRORS as error:
        connection.close()
        raise _translate_error(path, error) from error
    except FileFormatError:
        connection.close()
        raise
    return Store(path, connection)


def _require_locks(path: Path, file: IO[bytes]) -> None:
    """Check that the file system of `path` has locks, which SQLite would wait for until its timeout.

    Raises:
        OutputError: It has none.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where every file system has locks
        return
    try:
        kind = fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH
        fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, _PROBED_BYTE)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, _PROBED_BYTE)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EINTR):  # another process probes at this moment
            return
        raise OutputError(
            f"cannot lock {path}: its file system has no file locks ({error.strerror}), as some network file systems: "
            "keep the table on a local disk, and copy it there for reading"
        ) from error


def _explain_write_error(error: sqlite3.Error) -> str:
    """Return the reason of a failed write."""
    if "readonly" in str(error):
        return "the file or its folder is read-only"
    return "another process has locked it: try again later" if "locked" in str(error) else str(error)


def _translate_error(path: Path, error: Exception) -> LgcError:
    """Translate an SQLite error of a read."""
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return OutputError(f"{path} is locked by another process: try again later")
    is_pending = path.with_name(f"{path.name}-journal").exists() and "unable to open" in str(error)
    if isinstance(error, sqlite3.OperationalError) and ("readonly" in str(error) or is_pending):
        return OutputError(
            f"cannot read {path}: a process crashed while writing, and its transaction cannot be rolled back in a "
            f"read-only folder: copy {path.name}* to a writable folder"
        )
    return FileFormatError(f"{path} is a damaged latency table: {error}")


def _check_database(path: Path, connection: sqlite3.Connection, versions: Collection[int]) -> None:
    """Check that the database at `path` is a complete latency table of one of the schema `versions`."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    stored = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise FileFormatError(f"cannot read latency table {path}: it is an SQLite database of another program")
    if stored not in versions:
        remedy = "update lgc" if stored > max(versions) else f"upgrade it with: lgc-lut upgrade {path}"
        raise FileFormatError(f"{path} has table schema {stored}, this lgc reads {max(versions)}: {remedy}")
    connection.execute("BEGIN")  # no writer changes the size until the commit
    (pages,), (page_bytes,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    size = path.stat().st_size
    connection.execute("COMMIT")
    has_log = connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"  # which holds the newest pages
    if size < pages * page_bytes and not has_log:  # SQLite would not miss an unused page
        raise FileFormatError(f"{path} is a damaged latency table: it has {size} of {pages * page_bytes} bytes")
    faults = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise FileFormatError(f"{path} is a damaged latency table: {faults[0].splitlines()[-1]}")
