"""Recorder: one process that fills a table, and what it takes on so that no other measures the same."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...device import Device
from ...files import is_running
from ..statistics.estimates import Summary
from ..statistics.measurement import SampleBatch
from . import schema
from .table import FINISHED, UNFINISHED, LatencyTable

LEASE_S = 900.0
"""Silence after which a process that still runs is taken to have given up what it had taken on."""


class Recorder:
    """A session of a table: begun when a process starts to measure, named in every visit it makes."""

    def __init__(self, table: LatencyTable, device: Device, environment: Mapping[str, Any]) -> None:
        self.table = table
        row = (device, os.getpid(), time.time(), time.time(), json.dumps(dict(environment)))
        with table.store.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO sessions (device, pid, started_unix_s, seen_unix_s, environment) VALUES (?, ?, ?, ?, ?)",
                row,
            )
            self.session = int(cursor.lastrowid or 0)

    def claim(self, share: float = 1.0, among: Collection[str] | None = None) -> list[str]:
        """Take on subjects that are not finished and that no other running process has; their keys, in order.

        Args:
            share: at most this part of what is not finished (0 to 1], evenly: each process has some of every kind.
            among: only these; all if None.
        """
        with self.table.store.writing() as connection:
            rows = connection.execute(
                "SELECT subjects.key, sessions.pid, sessions.seen_unix_s FROM subjects "
                "LEFT JOIN sessions ON sessions.id = subjects.session "
                "WHERE status IN ('pending', 'failed') OR (status = 'noisy' AND reason = ?) ORDER BY subjects.rowid",
                (UNFINISHED,),
            ).fetchall()
            rows = [row for row in rows if among is None or row[0] in among]
            free = [key for key, pid, seen in rows if pid is None or not _running(pid, seen)]
            wanted = min(-(-len(rows) // round(1 / share)), len(free))
            taken = [free[index * len(free) // wanted] for index in range(wanted)]
            connection.executemany(
                "UPDATE subjects SET session = ? WHERE key = ?", [(self.session, key) for key in taken]
            )
        return taken

    def others(self) -> int:
        """Number of subjects that other running processes have taken on and not finished."""
        rows = self.table.store.rows(
            "SELECT sessions.pid, sessions.seen_unix_s FROM subjects JOIN sessions ON sessions.id = subjects.session "
            "WHERE status = 'pending' AND sessions.id <> ?",
            self.session,
        )
        return sum(_running(pid, seen) for pid, seen in rows)

    def record(self, visits: Iterable[SampleBatch], health: Sequence[Mapping[str, Any]] = ()) -> None:
        """Commit visits, and samples of the machine's health (each with `at_unix_s`)."""
        rows = [
            (v.subject, self.session, v.round, v.load, v.at_unix_s, json.dumps(list(v.durations_ms))) for v in visits
        ]
        samples = [(self.session, sample["at_unix_s"], json.dumps(dict(sample))) for sample in health]
        with self.table.store.writing() as connection:
            connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)
            connection.executemany("INSERT INTO health VALUES (?, ?, ?)", samples)
            connection.execute("UPDATE sessions SET seen_unix_s = ? WHERE id = ?", (time.time(), self.session))

    def finish(self, found: Mapping[str, tuple[Summary, str | None]]) -> None:
        """Mark subjects as measured, or as noisy where a reason is given, all at once."""
        rows = []
        for key, (summary, reason) in found.items():
            status = schema.MEASURED if reason is None else schema.NOISY
            rows.append((status, reason, *asdict(summary).values(), key))
        with self.table.store.writing() as connection:
            connection.executemany(
                "UPDATE subjects SET status = ?, reason = ?, latency_ms = ?, ci_ms = ?, median_ms = ?, min_ms = ?, "
                "spread_pct = ?, visits = ?, samples = ?, session = NULL WHERE key = ?",
                rows,
            )
            connection.execute("DELETE FROM meta WHERE key = ?", (FINISHED,))

    def spend(self, energy_mj: Mapping[str, float]) -> None:
        """Write down the energy that one run of each subject takes, in millijoules."""
        if energy_mj:
            with self.table.store.writing() as connection:
                connection.executemany(
                    "UPDATE subjects SET energy_mj = ? WHERE key = ?", [(mj, key) for key, mj in energy_mj.items()]
                )

    def fail(self, key: str, reason: str) -> None:
        """Mark a subject as failed, and why."""
        with self.table.store.writing() as connection:
            connection.execute(
                "UPDATE subjects SET status = 'failed', reason = ?, latency_ms = NULL, session = NULL WHERE key = ?",
                (reason, key),
            )
            connection.execute("DELETE FROM meta WHERE key = ?", (FINISHED,))

    def release(self) -> None:
        """Give back what was taken on and not finished."""
        with self.table.store.writing() as connection:
            connection.execute("UPDATE subjects SET session = NULL WHERE session = ?", (self.session,))


def _running(pid: int, seen_unix_s: float) -> bool:
    """Whether that process, another than this, still runs and has shown itself not long ago."""
    return time.time() - seen_unix_s <= LEASE_S and is_running(pid)
