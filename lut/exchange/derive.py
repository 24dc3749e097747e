"""Derive a table for another number of classes: keep what does not depend on the classes, leave the rest pending."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...errors import MismatchError
from ...files import atomic_path
from ...models.space.protocol import SearchSpace
from ..table import schema
from ..table.table import LatencyTable, entry_keys
from .merge import copy_rows

DERIVED = "derived"
"""Metadata key of a derived table: its source, the source's classes, and the number of entries taken over."""

_CLEANUP = (
    "DELETE FROM entries WHERE key NOT IN (SELECT value FROM json_each(?))",
    "DELETE FROM recipes WHERE entry NOT IN (SELECT key FROM entries)",
    "DELETE FROM terms WHERE entry NOT IN (SELECT key FROM entries)",
    "DELETE FROM subjects WHERE key NOT IN (SELECT subject FROM terms)",
    "DELETE FROM visits WHERE subject NOT IN (SELECT key FROM subjects)",
)
"""Statements that reduce copied rows to some entries and what these are computed from."""


@dataclass(frozen=True)
class DerivedTable:
    """Result of `derive_table`.

    Attributes:
        kept: Number of entries taken over.
        pending: Number of entries that depend on the classes, or that the source lacks.
    """

    kept: int
    pending: int


def derive_table(table: LatencyTable, classes: int, out: Path) -> DerivedTable:
    """Write a table for the same space with another number of classes, atomically.

    Entries with equal operators are taken over with their benchmarks, sample batches and sessions. The others are
    pending. Once these are measured, entries taken over change too: as in every table, an entry follows from all sample
    batches of its benchmarks, and those measured again as references get new ones. Networks end in the old classes, so
    they are left out, and the new table is neither calibrated nor verified until networks of its own are measured.

    Args:
        table: Table to derive from; it stays unchanged.
        classes: Number of classes.
        out: File to write.

    Raises:
        FileFormatError: The number of classes is out of range.
        MismatchError: The table is one of slots, which have no classes.
        OutputError: `out` exists or cannot be written.
    """
    original = SearchSpace.require(table.space)
    space = original.with_classes(classes)
    keys = entry_keys(space)
    with (
        atomic_path(out) as path,
        LatencyTable.create(path, table.target, space, table.protocol, table.environment) as derived,
    ):
        copy_rows(derived, [table])
        with derived.store.transaction() as connection:
            for index, statement in enumerate(_CLEANUP):
                connection.execute(statement, (json.dumps(keys),) if index == 0 else ())
        kept = sum(entry.status in schema.WITH_LATENCY for entry in derived.entries())
        source = {"from": str(table.path), "classes": original.classes, "entries": kept}
        derived.set_metadata(DERIVED, source)
    return DerivedTable(kept, len(keys) - kept)


def differ_in_classes(a: SearchSpace, b: SearchSpace) -> bool:
    """Return True if two spaces differ in the number of classes, and in nothing else but their name."""
    return a.classes != b.classes and a.with_classes(b.classes).fingerprint == b.fingerprint


def compare_kept(derived: LatencyTable, source: LatencyTable) -> list[float]:
    """Return the relative change of each entry that a derived table has from its source, without sign."""
    before = {entry.key: entry.latency_ms for entry in source.entries()}
    pairs = [(entry.latency_ms, before.get(entry.key)) for entry in derived.entries()]
    return [abs(after / value - 1) for after, value in pairs if after and value]


def require_derived(derived: LatencyTable, table: LatencyTable, classes: int) -> None:
    """Check that a table was derived from another one, as that is now.

    Raises:
        MismatchError: It has another target or space, or lacks a session of the other table.
    """
    derived.require(target=table.target, space=SearchSpace.require(table.space).with_classes(classes))
    sessions = [set(each.store.rows("SELECT device, pid, started_unix_s FROM sessions")) for each in (table, derived)]
    if not sessions[0] <= sessions[1]:
        raise MismatchError(
            f"{derived.path} is not derived from {table.path} as it is now: use it instead of {table.path}, or move it "
            f"away"
        )
