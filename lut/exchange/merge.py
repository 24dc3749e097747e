"""Several tables become one: of parts that were measured apart, or of the same space at other inputs.

What is united are the raw visits and what was timed; the entries follow from them anew. Sessions tell each other's
speed by the subjects they share (see `measurement`), so tables of one space have to share some; carriers usually do.
A session that several tables hold, as copies of one table do, is taken once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, MismatchError, UsageError
from ...files import atomic_path
from ...models.space.opspec import OpSpec
from ..table import schema
from ..table.table import FINISHED, NETWORK_PREFIX, LatencyTable, entry_keys
from .compare import list_setup_differences

RANKS = {schema.PENDING: 0, schema.FAILED: 1, schema.INTERPOLATED: 2, schema.NOISY: 3, schema.MEASURED: 4}
"""How well a status knows a latency: where tables differ, the one that knows best has the word."""

_ENTRIES = ("key", "status", "reason", "latency_ms", "ci_ms")
_BENCHMARKS = (
    *("key", "kind", "status", "reason", "latency_ms", "ci_ms", "median_ms", "min_ms", "spread_pct"),
    *("visits", "samples", "energy_mj", "architecture", "scope"),
)
_SESSIONS = ("device", "pid", "started_unix_s", "seen_unix_s", "environment")
_BATCHES = ("session", "subject", "round", "load", "at_unix_s", "durations_ms")
_HEALTH = ("session", "at_unix_s", "sample")

Row = tuple[Any, ...]


@dataclass(frozen=True)
class MergeResult:
    """What `merge_tables` made.

    Attributes:
        entries: entries of the table, those of other inputs included.
        missing: entries of its space that still have no latency.
        sessions: sessions it was measured in.
        other_inputs: tables that were of the first one's space at other inputs.
        untied: of these, ones that share no subject with the rest, so that their speed could not be told.
    """

    entries: int
    missing: int
    sessions: int
    other_inputs: tuple[Path, ...]
    untied: tuple[Path, ...]


def merge_tables(tables: Sequence[LatencyTable], out: Path, calibrate: Callable[[LatencyTable], object]) -> MergeResult:
    """Write a table that holds what `tables` hold; it appears under its name only when it is whole.

    Its space is the first table's. Of tables at other inputs it takes entries, with what was timed for them, and no
    networks, since these are of another space. Networks calibrate it anew if no entry of the space is missing.

    Args:
        tables: two or more, of one target, machine and protocol; of one space, or of it at other inputs.
        out: the file to write.
        calibrate: fits and verifies a finished table, `profiler.profile.calibrate`.

    Raises:
        MismatchError: they are of different targets, machines, protocols or spaces, or share nothing that was timed.
        OutputError: `out` exists, or cannot be written.
        FileFormatError: one is damaged.
        UsageError: fewer than two tables.
    """
    if len(tables) < 2:
        raise UsageError(f"{len(tables)} table is nothing to merge: give two or more")
    first = tables[0]
    for table in tables:
        _require_compatible(first, table)
        _require_consistent(table)
    other_inputs = [table for table in tables if table.space.fingerprint != first.space.fingerprint]
    untied = _find_unconnected(tables)
    apart = [str(table.path) for table in untied if table not in other_inputs]
    if apart:
        raise MismatchError(
            f"{first.path} and {', '.join(apart)} share nothing that was timed, so their speeds cannot be told from "
            f"each other: keep them apart, or measure them anew into one --out"
        )
    with (
        atomic_path(out) as path,
        LatencyTable.create(path, first.target, first.space, first.protocol, first.environment) as made,
    ):
        _copy_rows(made, tables)
        made.set_metadata("merged", {"from": [str(table.path) for table in tables]})
        made.finalize()
        entries = made.entries()
        known = {entry.key for entry in entries if entry.status in schema.WITH_LATENCY}
        missing = len(set(entry_keys(first.space)) - known)
        if not missing:
            calibrate(made)
        made.set_metadata(FINISHED, {"at_unix_s": time.time()})
        ((sessions,),) = made.store.rows("SELECT count(*) FROM sessions")
    names = (tuple(table.path for table in group) for group in (other_inputs, untied))
    return MergeResult(len(entries), missing, sessions, *names)


def _require_compatible(first: LatencyTable, table: LatencyTable) -> None:
    """Show that two tables can be one.

    Raises:
        MismatchError: they cannot; the message says in what they differ.
    """
    found = list_setup_differences(first, table)
    mine, theirs = (space.model_dump(exclude={"name", "input"}) for space in (first.space, table.space))
    if mine != theirs:
        found.append(f"space {first.space.name}, not {table.space.name}, in more than the input")
    if found:
        raise MismatchError(
            f"{first.path} and {table.path} cannot be one table: {'; '.join(found)}. "
            f"Merge tables of one target, machine, protocol and space"
        )


def _find_unconnected(tables: Sequence[LatencyTable]) -> list[LatencyTable]:
    """Tables that no chain of shared subjects ties to the first."""
    first = tables[0].space.fingerprint
    visited = [
        {
            key
            for (key,) in table.store.rows("SELECT DISTINCT subject FROM visits")
            if _is_valid_in_space(table, key, first)
        }
        for table in tables
    ]
    tied, left = visited[0], list(range(1, len(tables)))
    while near := [index for index in left if visited[index] & tied]:
        tied = tied.union(*(visited[index] for index in near))
        left = [index for index in left if index not in near]
    return [tables[index] for index in left]


def _is_valid_in_space(table: LatencyTable, subject: str, fingerprint: str) -> bool:
    """Whether a subject means the same in a table of that space: a network's key names choices, and no input."""
    return table.space.fingerprint == fingerprint or not subject.startswith(NETWORK_PREFIX)


def _copy_rows(made: LatencyTable, tables: Sequence[LatencyTable]) -> None:
    """Fill `made`, which is empty, with the rows of `tables`, all at once."""
    entries: dict[str, tuple[Row, LatencyTable]] = {}
    subjects: dict[str, Row] = {}
    for table in tables:
        for row in _select(table, _ENTRIES, "entries ORDER BY rowid"):
            if row[0] not in entries or RANKS[row[1]] > RANKS[entries[row[0]][0][1]]:
                entries[row[0]] = row, table
        for row in _select(table, _BENCHMARKS, "subjects ORDER BY rowid"):
            known = subjects.get(row[0])
            if _is_valid_in_space(table, row[0], made.space.fingerprint) and (
                known is None or RANKS[row[2]] > RANKS[known[2]]
            ):
                subjects[row[0]] = row
    # an entry's terms are taken from one table as a whole: two sets of them would be added up
    terms = [
        (key, *term) for key, (_, table) in entries.items() for term in table.components(OpSpec.parse(key)).items()
    ]
    with made.store.transaction() as connection:
        connection.executemany(
            f"{_insert_statement('entries', _ENTRIES)} ON CONFLICT (key) DO UPDATE SET status = excluded.status, "
            "reason = excluded.reason, latency_ms = excluded.latency_ms, ci_ms = excluded.ci_ms",
            [row for row, _ in entries.values()],
        )
        connection.executemany(_insert_statement("subjects", _BENCHMARKS), subjects.values())
        connection.executemany(_insert_statement("terms", ("entry", "subject", "coefficient")), terms)
        _add_sessions(connection, made, tables)


def _add_sessions(connection: sqlite3.Connection, made: LatencyTable, tables: Sequence[LatencyTable]) -> None:
    """Add the tables' sessions, renumbered, with their visits and samples of the machine's health."""
    numbers: dict[Row, int] = {}
    health: dict[Row, None] = {}
    for table in tables:
        renumbered: dict[int, int] = {}
        for number, *session in _select(table, ("id", *_SESSIONS), "sessions ORDER BY id"):
            identity = tuple(session[:3])
            if identity not in numbers:
                numbers[identity] = len(numbers) + 1
                connection.execute(_insert_statement("sessions", ("id", *_SESSIONS)), (numbers[identity], *session))
            renumbered[number] = numbers[identity]
        visits = [
            (renumbered[session], subject, *rest)
            for session, subject, *rest in _select(table, _BATCHES, "visits")
            if _is_valid_in_space(table, subject, made.space.fingerprint)
        ]
        connection.executemany(f"{_insert_statement('visits', _BATCHES)} ON CONFLICT DO NOTHING", visits)
        for session, *rest in _select(table, _HEALTH, "health"):
            health[renumbered[session], *rest] = None
    connection.executemany(_insert_statement("health", _HEALTH), health)


def _require_consistent(table: LatencyTable) -> None:
    """Show that nothing in a table points at what it does not hold.

    Raises:
        FileFormatError: something does, or a visit holds durations that are none.
    """
    table.measurement()
    for what, where in (
        ("visits of session", "SELECT session FROM visits WHERE session NOT IN (SELECT id FROM sessions)"),
        ("health of session", "SELECT session FROM health WHERE session NOT IN (SELECT id FROM sessions)"),
        ("terms with", "SELECT subject FROM terms WHERE subject NOT IN (SELECT key FROM subjects)"),
    ):
        for (lost,) in table.store.rows(f"{where} LIMIT 1"):
            raise FileFormatError(f"{table.path} is a damaged latency table: {what} {lost}, which it does not hold")


def _select(table: LatencyTable, columns: Iterable[str], source: str) -> list[Row]:
    return table.store.rows(f"SELECT {', '.join(columns)} FROM {source}")


def _insert_statement(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
