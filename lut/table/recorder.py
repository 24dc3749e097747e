"""Recorder: fill a table from one process, with claims that keep other processes from measuring the same benchmarks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ...device import Device
from ...files import is_running
from ..statistics.estimates import Summary
from ..statistics.measurement import SampleBatch
from . import schema
from .rows import update_rows
from .table import FINISHED, UNFINISHED, LatencyTable, result_columns

LEASE_S = 900.0
"""Seconds without a record after which the claims of a running process expire."""


class Recorder:
    """Session of a table: a measuring process on a device. Each sample batch names its session."""

    def __init__(self, table: LatencyTable, device: Device, environment: Mapping[str, Any]) -> None:
        self.table = table
        row = (device, os.getpid(), time.time(), time.time(), json.dumps(dict(environment)))
        with table.store.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO sessions (device, pid, started_unix_s, seen_unix_s, environment) VALUES (?, ?, ?, ?, ?)",
                row,
            )
            self.session = int(cursor.lastrowid or 0)

    def claim(self, share: float = 1.0, among: Collection[str] | None = None) -> list[str]:
        """Claim unfinished benchmarks that no other running process has claimed.

        Args:
            share: Maximum share of the unfinished benchmarks, in (0, 1], evenly spaced: each process gets every kind.
            among: Keys to choose from. None means all.

        Returns:
            Keys of the claimed benchmarks, in order.
        """
        with self.table.store.transaction() as connection:
            rows = connection.execute(
                "SELECT subjects.key, sessions.pid, sessions.seen_unix_s FROM subjects "
                "LEFT JOIN sessions ON sessions.id = subjects.session "
                "WHERE status IN ('pending', 'failed') OR (status = 'noisy' AND reason = ?) ORDER BY subjects.rowid",
                (UNFINISHED,),
            ).fetchall()
            rows = [row for row in rows if among is None or row[0] in among]
            free = [key for key, pid, seen in rows if pid is None or not _is_active(pid, seen)]
            count = min(-(-len(rows) // round(1 / share)), len(free))
            claimed = [free[index * len(free) // count] for index in range(count)]
            connection.executemany(
                "UPDATE subjects SET session = ? WHERE key = ?", [(self.session, key) for key in claimed]
            )
        return claimed

    def count_other_claims(self) -> int:
        """Return the number of unfinished benchmarks that other running processes have claimed."""
        rows = self.table.store.rows(
            "SELECT sessions.pid, sessions.seen_unix_s FROM subjects JOIN sessions ON sessions.id = subjects.session "
            "WHERE status = 'pending' AND sessions.id <> ?",
            self.session,
        )
        return sum(_is_active(pid, seen) for pid, seen in rows)

    def record(self, batches: Iterable[SampleBatch], hardware_samples: Sequence[Mapping[str, Any]] = ()) -> None:
        """Commit sample batches and hardware samples (each with `at_unix_s`). The session is the recorder's."""
        rows = [
            (batch.benchmark, self.session, batch.round, batch.instance, batch.at_unix_s, _to_json(batch.durations_ms))
            for batch in batches
        ]
        samples = [(self.session, sample["at_unix_s"], json.dumps(dict(sample))) for sample in hardware_samples]
        with self.table.store.transaction() as connection:
            connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)
            connection.executemany("INSERT INTO health VALUES (?, ?, ?)", samples)
            connection.execute("UPDATE sessions SET seen_unix_s = ? WHERE id = ?", (time.time(), self.session))

    def finish(self, results: Mapping[str, tuple[Summary, str | None]]) -> None:
        """Mark benchmarks as measured, or as noisy if they have a reason, in one transaction."""
        self._update([result_columns(key, *result) for key, result in results.items()])

    def record_energy(self, energy_mj: Mapping[str, float]) -> None:
        """Record the energy per run of benchmarks, in millijoules."""
        if energy_mj:
            with self.table.store.transaction() as connection:
                connection.executemany(
                    "UPDATE subjects SET energy_mj = ? WHERE key = ?", [(mj, key) for key, mj in energy_mj.items()]
                )

    def fail(self, key: str, reason: str) -> None:
        """Mark a benchmark as failed for a reason."""
        self._update([{"key": key, "status": schema.FAILED, "reason": reason, "latency_ms": None}])

    def _update(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Update benchmarks and release their claims. The table is then no longer finished."""
        with self.table.store.transaction() as connection:
            update_rows(connection, "subjects", [{**row, "session": None} for row in rows])
            connection.execute("DELETE FROM meta WHERE key = ?", (FINISHED,))

    def release(self) -> None:
        """Release the claims that are not finished."""
        with self.table.store.transaction() as connection:
            connection.execute("UPDATE subjects SET session = NULL WHERE session = ?", (self.session,))


def _to_json(durations_ms: Sequence[float]) -> str:
    return json.dumps(list(durations_ms))


def _is_active(pid: int, seen_unix_s: float) -> bool:
    """Return True if that other process runs and its lease has not expired."""
    return time.time() - seen_unix_s <= LEASE_S and is_running(pid)
