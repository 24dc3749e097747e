"""Rows of entries and benchmarks: each field is a column, annotated with its SQL declaration.

The DDL, queries, updates, merging and upgrades follow from these classes. To add a column, add a field, increment
`schema.TABLE_SCHEMA_VERSION`, and register `upgrade.add_columns` as the migration of the version before. A column that
may be unknown, e.g. in upgraded tables, allows NULL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints


@dataclass(frozen=True)
class Entry:
    """Operator of a table.

    Attributes:
        key: String form of the OpSpec.
        status: `pending`, `measured`, `noisy` (measured less precisely than requested), `interpolated` or `failed`.
        reason: Reason of a failure or of noise, or source of an interpolation; else None.
        latency_ms: Contribution to a network's latency in ms; None if pending or failed.
        ci_ms: Half width of its 95 % confidence interval.
    """

    key: Annotated[str, "TEXT PRIMARY KEY"]
    status: Annotated[
        str,
        "TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'measured', 'noisy', 'interpolated', 'failed'))",
    ]
    reason: Annotated[str | None, "TEXT"]
    latency_ms: Annotated[float | None, "REAL CHECK (latency_ms > 0 AND latency_ms < 1e9)"]
    ci_ms: Annotated[float | None, "REAL CHECK (ci_ms >= 0)"]


@dataclass(frozen=True)
class Benchmark:
    """Timed graph: an operator alone or in its carriers, carriers without an operator, or a whole network.

    Attributes:
        key: Name of the benchmark.
        kind: `operator`, `carrier` or `network`.
        status: `pending`, `measured`, `noisy` or `failed`.
        reason: Reason of a failure or of noise, else None.
        latency_ms: See `Summary`, as for the fields up to `samples`; `visits` is `Summary.batches`.
        energy_mj: Energy per run in millijoules; None if the device has no counter.
    """

    key: Annotated[str, "TEXT PRIMARY KEY"]
    kind: Annotated[str, "TEXT NOT NULL CHECK (kind IN ('operator', 'carrier', 'network'))"]
    status: Annotated[
        str, "TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'measured', 'noisy', 'failed'))"
    ]
    reason: Annotated[str | None, "TEXT"]
    latency_ms: Annotated[float | None, "REAL CHECK (latency_ms > 0 AND latency_ms < 1e9)"]
    ci_ms: Annotated[float | None, "REAL CHECK (ci_ms >= 0)"]
    median_ms: Annotated[float | None, "REAL"]
    min_ms: Annotated[float | None, "REAL"]
    spread_pct: Annotated[float | None, "REAL"]
    visits: Annotated[int, "INTEGER NOT NULL DEFAULT 0"]
    samples: Annotated[int, "INTEGER NOT NULL DEFAULT 0"]
    energy_mj: Annotated[float | None, "REAL"]


Rows = Iterable[Mapping[str, Any]]
"""Rows as values by column."""


def columns(row_class: type) -> dict[str, str]:
    """Return the columns of a row class, and their SQL declarations with the name."""
    hints = get_type_hints(row_class, include_extras=True)
    return {name: f"{name} {hint.__metadata__[0]}" for name, hint in hints.items()}


def insert_rows(connection: sqlite3.Connection, table: str, rows: Rows, on_conflict: str = "") -> None:
    """Insert rows; columns that a row lacks get their default."""
    for row in rows:
        connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES (:{', :'.join(row)}) {on_conflict}", row)


def update_rows(connection: sqlite3.Connection, table: str, rows: Rows, condition: str = "TRUE") -> None:
    """Update the row with each row's `key`, if it meets the condition; columns that a row lacks stay unchanged."""
    for row in rows:
        values = ", ".join(f"{name} = :{name}" for name in row)
        connection.execute(f"UPDATE {table} SET {values} WHERE key = :key AND {condition}", row)


def upsert_rows(connection: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Update the rows with these keys, and insert the missing ones."""
    insert_rows(connection, table, rows, "ON CONFLICT DO NOTHING")
    update_rows(connection, table, rows)
