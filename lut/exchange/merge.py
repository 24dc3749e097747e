"""Merge tables: parts that were measured separately, or the same space at other inputs.

The merge joins benchmarks and sample batches and recomputes the entries. The drift correction connects sessions through
shared benchmarks (see `measurement`), so tables of a space must share some, usually carriers. A session that occurs in
several tables, e.g. in copies, is included once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, MismatchError, UsageError
from ...files import atomic_path
from ...models.space.opspec import OpSpec
from ...models.space.protocol import Space
from ..table import schema
from ..table.rows import Entry, insert_rows, upsert_rows
from ..table.table import FINISHED, NETWORK_PREFIX, LatencyTable, entry_keys
from .compare import list_setup_differences, require_equal_recipes

RANKS = {schema.PENDING: 0, schema.FAILED: 1, schema.INTERPOLATED: 2, schema.NOISY: 3, schema.MEASURED: 4}
"""Precision of a status: where tables overlap, the entry with the highest rank wins."""

Row = dict[str, Any]


@dataclass(frozen=True)
class MergeResult:
    """Result of `merge_tables`.

    Attributes:
        entries: Number of entries, including those of other inputs.
        missing: Number of entries of the space without a latency.
        sessions: Number of sessions.
        other_inputs: Tables of the first table's space at other inputs.
        untied: Tables among these that share no benchmark with the rest, so their relative speed is unknown.
    """

    entries: int
    missing: int
    sessions: int
    other_inputs: tuple[Path, ...]
    untied: tuple[Path, ...]


def merge_tables(tables: Sequence[LatencyTable], out: Path, calibrate: Callable[[LatencyTable], object]) -> MergeResult:
    """Merge tables into a new file, atomically.

    The new table has the first table's space. Tables at other inputs contribute entries with their benchmarks, but no
    networks, because these belong to another space. If no entry of the space is missing, the result is calibrated.

    Args:
        tables: Two or more tables with the same target, machine and protocol, and the same space up to its input.
        out: File to write.
        calibrate: Function that calibrates and verifies a complete table, `profiler.profile.calibrate`.

    Raises:
        MismatchError: Targets, machines, protocols, spaces or recipes differ, or tables share no benchmark.
        OutputError: `out` exists or cannot be written.
        FileFormatError: A table is damaged.
        UsageError: There are fewer than two tables.
    """
    if len(tables) < 2:
        raise UsageError(f"cannot merge {len(tables)} table: give two or more")
    first = tables[0]
    for table in tables:
        _require_compatible(first, table)
        require_equal_recipes(first, table, {e.key for e in first.entries()} & {e.key for e in table.entries()})
        _require_consistent(table)
    other_inputs = [table for table in tables if table.space.fingerprint != first.space.fingerprint]
    untied = _find_unconnected(tables)
    unconnected = [str(table.path) for table in untied if table not in other_inputs]
    if unconnected:
        raise MismatchError(
            f"{first.path} and {', '.join(unconnected)} share no benchmark, so their relative speed is unknown: "
            f"keep separate tables, or measure them again into the same --out"
        )
    with (
        atomic_path(out) as path,
        LatencyTable.create(path, first.target, first.space, first.protocol, first.environment) as merged,
    ):
        copy_rows(merged, tables)
        merged.set_metadata("merged", {"from": [str(table.path) for table in tables]})
        merged.finalize()
        entries = merged.entries()
        complete = {entry.key for entry in entries if entry.status in schema.WITH_LATENCY}
        missing = len(set(entry_keys(first.space)) - complete)
        if not missing:
            calibrate(merged)
        merged.set_metadata(FINISHED, {"at_unix_s": time.time()})
        ((sessions,),) = merged.store.rows("SELECT count(*) FROM sessions")
    names = (tuple(table.path for table in group) for group in (other_inputs, untied))
    return MergeResult(len(entries), missing, sessions, *names)


def _require_compatible(first: LatencyTable, table: LatencyTable) -> None:
    """Check that two tables can be merged.

    Raises:
        MismatchError: They differ in more than the input.
    """
    differences = list_setup_differences(first, table)
    if _list_settings(first.space) != _list_settings(table.space):
        differences.append(f"space {first.space.name}, not {table.space.name}, in more than the input")
    if differences:
        raise MismatchError(
            f"cannot merge {first.path} and {table.path}: {'; '.join(differences)}. "
            f"Merge tables with the same target, machine, protocol and space"
        )


def _list_settings(space: Space) -> dict[str, object]:
    """Return the fields of a space apart from its name and input."""
    return {name: value for name, value in space.to_dict().items() if name not in ("name", "input")}


def _find_unconnected(tables: Sequence[LatencyTable]) -> list[LatencyTable]:
    """Return the tables that no chain of shared benchmarks connects to the first."""
    fingerprint = tables[0].space.fingerprint
    keys = [
        {
            key
            for (key,) in table.store.rows("SELECT DISTINCT subject FROM visits")
            if _is_valid(table, key, fingerprint)
        }
        for table in tables
    ]
    connected, remaining = keys[0], list(range(1, len(tables)))
    while neighbours := [index for index in remaining if keys[index] & connected]:
        connected = connected.union(*(keys[index] for index in neighbours))
        remaining = [index for index in remaining if index not in neighbours]
    return [tables[index] for index in remaining]


def _is_valid(table: LatencyTable, benchmark: str, fingerprint: str) -> bool:
    """Return True if a benchmark key has the same meaning in that space. A network's key has choices, but no input."""
    return table.space.fingerprint == fingerprint or not benchmark.startswith(NETWORK_PREFIX)


def copy_rows(merged: LatencyTable, tables: Sequence[LatencyTable]) -> None:
    """Fill the empty table `merged` with the rows of `tables` in one transaction.

    Networks are copied from tables of the same space only.
    """
    entries: dict[str, tuple[Entry, LatencyTable]] = {}
    benchmarks: dict[str, Row] = {}
    for table in tables:
        for entry in table.entries():
            if entry.key not in entries or RANKS[entry.status] > RANKS[entries[entry.key][0].status]:
                entries[entry.key] = entry, table
        for row in _read(merged, table, "subjects", "ORDER BY rowid"):
            present = benchmarks.get(row["key"])
            better = present is None or RANKS[row["status"]] > RANKS[present["status"]]
            if better and _is_valid(table, row["key"], merged.space.fingerprint):
                benchmarks[row["key"]] = {**row, "session": None}  # a claim is valid in its own file only
    # all components of an entry come from the same table: those of two tables would be added up
    components = [
        (key, *part) for key, (_, table) in entries.items() for part in table.components(OpSpec.parse(key)).items()
    ]
    with merged.store.transaction() as connection:
        upsert_rows(connection, "entries", [asdict(entry) for entry, _ in entries.values()])
        recipes = [{"entry": key, "recipe": table.recipe(key)} for key, (_, table) in entries.items()]
        insert_rows(connection, "recipes", recipes, "ON CONFLICT DO NOTHING")
        insert_rows(connection, "subjects", benchmarks.values())
        connection.executemany("INSERT INTO terms VALUES (?, ?, ?)", components)
        _add_sessions(connection, merged, tables)


def _add_sessions(connection: sqlite3.Connection, merged: LatencyTable, tables: Sequence[LatencyTable]) -> None:
    """Add the renumbered sessions of the tables with their sample batches and hardware samples."""
    numbers: dict[tuple[str, int, float], int] = {}
    hardware: dict[tuple[Any, ...], Row] = {}
    for table in tables:
        renumbered: dict[int, int] = {}
        for session in _read(merged, table, "sessions", "ORDER BY id"):
            identity = (session["device"], session["pid"], session["started_unix_s"])
            if identity not in numbers:
                numbers[identity] = len(numbers) + 1
                insert_rows(connection, "sessions", [{**session, "id": numbers[identity]}])
            renumbered[session["id"]] = numbers[identity]
        batches = [
            {**batch, "session": renumbered[batch["session"]]}
            for batch in _read(merged, table, "visits")
            if _is_valid(table, batch["subject"], merged.space.fingerprint)
        ]
        insert_rows(connection, "visits", batches, "ON CONFLICT DO NOTHING")
        for sample in _read(merged, table, "health"):
            row = {**sample, "session": renumbered[sample["session"]]}
            hardware[tuple(row.values())] = row
    insert_rows(connection, "health", hardware.values())


def _require_consistent(table: LatencyTable) -> None:
    """Check that all references in a table are valid.

    Raises:
        FileFormatError: A referenced row is missing, or a sample batch has invalid durations.
    """
    table.measurement()
    for rows, query in (
        ("sample batches of session", "SELECT session FROM visits WHERE session NOT IN (SELECT id FROM sessions)"),
        ("hardware samples of session", "SELECT session FROM health WHERE session NOT IN (SELECT id FROM sessions)"),
        ("components with", "SELECT subject FROM terms WHERE subject NOT IN (SELECT key FROM subjects)"),
    ):
        for (reference,) in table.store.rows(f"{query} LIMIT 1"):
            raise FileFormatError(f"{table.path} is a damaged latency table: {rows} {reference}, which is missing")


def _read(merged: LatencyTable, table: LatencyTable, name: str, order: str = "") -> list[Row]:
    """Return the rows of an SQL table of `table`, with the columns that `merged` has."""
    names = [column for _, column, *_ in merged.store.rows(f"PRAGMA table_info({name})")]
    rows = table.store.rows(f"SELECT {', '.join(names)} FROM {name} {order}")
    return [dict(zip(names, row, strict=True)) for row in rows]
