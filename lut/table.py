"""LatencyTable: the measured latencies of a space's operators on one target, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError, LgcError, MeasurementError, MismatchError, MissingEntryError, OutputError
from ..models.architecture import Architecture
from ..models.operators import is_free
from ..models.opspec import OpSpec
from ..models.space import PRESETS, SearchSpace
from . import schema
from .measurement import Measurement, Visits
from .statistics import Summary
from .target import Target

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Entry:
    """One operator or network of a table.

    Attributes:
        key: the OpSpec's string form, or a network's key.
        status: `pending`, `measured` or `failed`.
        reason: why it failed, else None.
        latency_ms: median over the visits, the machine's changing speed divided out; None unless measured.
        median_ms: median of all single runs.
        min_ms: shortest single run.
        spread_pct: half the width of the middle half of the visits, relative to latency_ms.
        samples: number of single runs behind it.
    """

    key: str
    status: str
    reason: str | None
    latency_ms: float | None
    median_ms: float | None
    min_ms: float | None
    spread_pct: float | None
    samples: int


_COLUMNS = "key, status, reason, latency_ms, median_ms, min_ms, spread_pct, samples"


class LatencyTable:
    """A latency table; open one with `open`, make one with `create`. Usable as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        try:
            meta = {key: json.loads(value) for key, value in self._rows("SELECT key, value FROM meta")}
            self.target = Target(**meta["target"])
            self.space = SearchSpace.check(meta["space"], f"the space in {path}")
            self.protocol: dict[str, Any] = meta["protocol"]
            self.environment: dict[str, Any] = meta["environment"]
            odd = {entry.key for entry in self.entries()} ^ set(_keys(self.space))
            if odd:
                raise ValueError(f"entry {min(odd)}, which only the space or only the table has")
        except (KeyError, TypeError, ValueError, LgcError) as error:
            self.close()
            raise FileFormatError(f"{path} is a damaged latency table: its content fails at {error}") from error

    @classmethod
    def create(
        cls,
        path: str | Path,
        target: Target,
        space: SearchSpace,
        protocol: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> LatencyTable:
        """Make a table with a pending entry for every OpSpec of `space` that takes time.

        Raises:
            OutputError: `path` exists or cannot be written.
        """
        path = Path(path)
        meta = {
            "target": asdict(target),
            "space": space.model_dump(mode="json"),
            "protocol": dict(protocol),
            "environment": dict(environment),
        }
        texts = {key: json.dumps(value) for key, value in meta.items()}
        return cls(path, schema.create(path, texts, _keys(space)))

    @classmethod
    def open(cls, path: str | Path) -> LatencyTable:
        """Open the table at `path`.

        Raises:
            FileFormatError: it is missing, foreign, truncated or of another schema version; the message says which.
        """
        path = Path(path)
        return cls(path, schema.connect(path))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> LatencyTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self) -> list[Entry]:
        """All operator entries, in the order of the space."""
        return [Entry(*row) for row in self._rows(f"SELECT {_COLUMNS} FROM entries ORDER BY rowid")]

    def networks(self) -> list[tuple[Entry, Architecture, str]]:
        """The networks measured to verify the table: entry, architecture, scope."""
        rows = self._rows(f"SELECT {_COLUMNS}, architecture, scope FROM networks ORDER BY rowid")
        try:
            return [(Entry(*row[:-2]), Architecture.model_validate_json(row[-2]), row[-1]) for row in rows]
        except (ValueError, LgcError) as error:
            raise FileFormatError(
                f"{self.path} is a damaged latency table: a network of it is none: {error}"
            ) from error

    def entry(self, spec: OpSpec) -> Entry:
        """The entry of `spec`.

        Raises:
            MissingEntryError: the table does not know it, or has not measured it; the message names the mend.
        """
        rows = list(self._rows(f"SELECT {_COLUMNS} FROM entries WHERE key = ?", str(spec)))
        if not rows:
            raise MissingEntryError(
                f"{self.path} ({self.space.name}, {self.target}) has no entry {spec}; "
                f"make a table of its space: lgc-profile --space SPACE --out T.lut"
            )
        return Entry(*rows[0])

    def latency_ms(self, spec: OpSpec) -> float:
        """Latency of `spec` in milliseconds; 0 where it takes no time by construction.

        Raises:
            MissingEntryError: there is no measured entry for it; the message names the mend.
        """
        if is_free(spec):
            return 0.0
        entry = self.entry(spec)
        if entry.latency_ms is None:
            why = f"failed: {entry.reason}" if entry.status == schema.FAILED else "not measured yet"
            raise MissingEntryError(f"{self.path}: {spec} {why}; fill it with: {self.profile_command()}")
        return entry.latency_ms

    def to_frame(self) -> pd.DataFrame:
        """All entries, a row each: OpSpec's fields, then status and statistics with their units in the names."""
        import pandas as pd

        rows = [{**asdict(OpSpec.parse(entry.key)), **asdict(entry)} for entry in self.entries()]
        return pd.DataFrame(rows).set_index("key")

    def visits(self, subject: str) -> list[list[float]]:
        """Raw durations of an entry or network, in milliseconds: one list for each visit, in order of rounds."""
        rows = self._rows("SELECT durations_ms FROM visits WHERE subject = ? ORDER BY round", subject)
        return [json.loads(row[0]) for row in rows]

    def measurement(self) -> Measurement:
        """All visits, of operators and networks, with the machine's changing speed divided out.

        Raises:
            FileFormatError: a visit holds durations that are none.
        """
        rows = self._rows("SELECT subject, round, at_unix_s, durations_ms FROM visits")
        try:
            return Measurement([(*row[:3], json.loads(row[3])) for row in rows], self.protocol["statistic"])
        except (MeasurementError, TypeError) as error:
            raise FileFormatError(f"{self.path} is a damaged latency table: {error}") from error

    def rounds_done(self) -> dict[str, int]:
        """Visits committed so far, by entry or network."""
        return dict(self._rows("SELECT subject, count(*) FROM visits GROUP BY subject"))

    def record_visits(self, visits: Visits) -> None:
        """Commit visits: (key, round, unix time in seconds, durations in milliseconds) each."""
        rows = [(subject, number, at, json.dumps(list(durations))) for subject, number, at, durations in visits]
        with self._writing() as connection:
            connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def record_summary(self, key: str, summary: Summary) -> None:
        """Mark the entry or network `key` as measured."""
        self._update(key, status=schema.MEASURED, reason=None, **asdict(summary))

    def record_failure(self, key: str, reason: str) -> None:
        """Mark the entry or network `key` as failed, and why."""
        self._update(key, status=schema.FAILED, reason=reason, latency_ms=None)

    def add_network(self, architecture: Architecture, scope: str) -> str:
        """Register a network to be measured; its key, the same whenever it is added again."""
        key = network_key(architecture, scope)
        row = (key, architecture.model_dump_json(), scope)
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO networks (key, architecture, scope) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row
            )
        return key

    def note(self, key: str) -> dict[str, Any] | None:
        """A JSON object kept beside the entries, such as `calibration` or `verification`; None if there is none."""
        for (value,) in self._rows("SELECT value FROM meta WHERE key = ?", key):
            note: dict[str, Any] = json.loads(value)
            return note
        return None

    def write_note(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON object beside the entries."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(dict(value))))

    def profile_command(self, target: Target | None = None, out: Path | None = None) -> str:
        """The command that makes this table, or goes on with it; or one like it for another target and file."""
        target, out = target or self.target, out or self.path
        threads = f" --threads {target.threads}" if target.device == "cpu" else ""
        height, width = self.space.input
        space = self.space.name if self.space.name in PRESETS else f"{self.space.name}.yaml"
        return (
            f"lgc-profile --device {target.device} --backend {target.backend} "
            f"--precision {target.precision}{threads} --space {space} --input {height}x{width} "
            f"--out {out}"
        )

    def require(self, *, target: Target | None = None, space: SearchSpace | None = None) -> None:
        """Show that the table is of this target and space.

        Raises:
            MismatchError: it is not; the message says what differs and which command mends it.
        """
        differences = self.target.differences(target) if target is not None else []
        if space is not None and space.fingerprint != self.space.fingerprint:
            differences.append(f"space {_tag(self.space)}, not {_tag(space)}")
        if differences:
            raise MismatchError(
                f"{self.path} is a table of another target: {'; '.join(differences)}. "
                f"Make one that fits with lgc-profile and another --out"
            )

    def _rows(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(query, values).fetchall()
        except schema.DAMAGE as error:
            raise FileFormatError(f"{self.path} is a damaged latency table: {error}") from error

    def _update(self, key: str, **columns: object) -> None:
        table = "networks" if key.startswith(NETWORK) else "entries"
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._writing() as connection:
            connection.execute(f"UPDATE {table} SET {names} WHERE key = ?", (*columns.values(), key))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; a full disk or a read-only file becomes an OutputError."""
        try:
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self.path}: {error}") from error


NETWORK = "network/"
"""How the keys of whole networks begin."""


def network_key(architecture: Architecture, scope: str) -> str:
    """Key of a whole network: scope and the index of the operator on every edge."""
    return f"{NETWORK}{scope}/{'-'.join(str(choice) for choice in architecture.choices)}"


def _keys(space: SearchSpace) -> list[str]:
    """Keys of the entries that a table of `space` has: one for each OpSpec that takes time."""
    return [str(spec) for spec in space.specs() if not is_free(spec)]


def _tag(space: SearchSpace) -> str:
    height, width = space.input
    return f"{space.name} {height}x{width} ({space.fingerprint})"
