"""LatencyTable: the measured latencies of a space's operators on one target, in one SQLite file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FileFormatError, LgcError, MeasurementError, MismatchError, MissingEntryError
from ...models.space.lgcnet import Architecture, SearchSpace
from ...models.space.operators import is_free
from ...models.space.opspec import OpSpec
from ...models.space.settings import PRESETS
from ..statistics.calibration import Correction
from ..statistics.estimates import NOISY_PCT, Summary
from ..statistics.measurement import Measurement, SampleBatch
from ..target import Target
from . import schema

if TYPE_CHECKING:
    import pandas as pd

FLOOR_MS = 1e-6
"""Latency of an entry whose difference came out below it: what a probe gains by an operator can vanish in fusion."""
FINISHED = "settled"
"""Note that entries, calibration and verification follow from all that was measured; measuring takes it away."""
UNFINISHED = "budget"
"""Reason of a noisy subject whose measuring was cut short; the next process goes on with it."""
NETWORK = "network/"
"""How the keys of whole networks begin."""


@dataclass(frozen=True)
class Entry:
    """One operator of a table.

    Attributes:
        key: the OpSpec's string form.
        status: `pending`, `measured`, `noisy` (measured, but not as well as asked for), `interpolated` or `failed`.
        reason: why it failed, or is noisy; what it was interpolated from; else None.
        latency_ms: what the operator adds to a network's latency; None where it is pending or failed.
        ci_ms: half the width of its 95 % confidence interval.
    """

    key: str
    status: str
    reason: str | None
    latency_ms: float | None
    ci_ms: float | None


@dataclass(frozen=True)
class Benchmark:
    """What was run and timed: an operator in its carriers or alone, carriers without an operator, a whole network.

    Attributes:
        key: its name.
        kind: `operator`, `carrier` or `network`.
        status: `pending`, `measured`, `noisy` or `failed`.
        reason: why it failed or is noisy, else None.
        latency_ms: see `Summary`; likewise ci_ms, median_ms, min_ms, spread_pct, visits, samples.
        energy_mj: energy of one run in millijoules, where the device has a counter.
    """

    key: str
    kind: str
    status: str
    reason: str | None
    latency_ms: float | None
    ci_ms: float | None
    median_ms: float | None
    min_ms: float | None
    spread_pct: float | None
    visits: int
    samples: int
    energy_mj: float | None


_ENTRY = "key, status, reason, latency_ms, ci_ms"
_SUBJECT = "key, kind, status, reason, latency_ms, ci_ms, median_ms, min_ms, spread_pct, visits, samples, energy_mj"


class LatencyTable:
    """A latency table; open one with `open`, make one with `create`. Usable as a context manager."""

    def __init__(self, path: Path, store: schema.Store) -> None:
        self.path = path
        self.store = store
        try:
            meta = {key: json.loads(value) for key, value in store.rows("SELECT key, value FROM meta")}
            self.target = Target(**meta["target"])
            self.space = SearchSpace.check(meta["space"], f"the space in {path}")
            self.protocol: dict[str, Any] = meta["protocol"]
            self.environment: dict[str, Any] = meta["environment"]
            found = {entry.key for entry in self.entries()}
            for key in found:
                OpSpec.parse(key)
            lacking = [key for key in entry_keys(self.space) if key not in found]
            if lacking:
                raise ValueError(f"entry {lacking[0]}, which the space has and the table lacks")
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
        return cls(path, schema.create(path, texts, entry_keys(space)))

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
        self.store.close()

    def __enter__(self) -> LatencyTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self) -> list[Entry]:
        """All operator entries, in the order of the space."""
        return [Entry(*row) for row in self.store.rows(f"SELECT {_ENTRY} FROM entries ORDER BY rowid")]

    def subjects(self, kind: str | None = None) -> list[Benchmark]:
        """All that was or is to be timed, in order of registration; of one kind, if it is given."""
        where, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
        return [
            Benchmark(*row)
            for row in self.store.rows(f"SELECT {_SUBJECT} FROM subjects {where} ORDER BY rowid", *values)
        ]

    def networks(self) -> list[tuple[Benchmark, Architecture, str]]:
        """The networks measured to calibrate and verify the table: subject, architecture, scope."""
        query = f"SELECT {_SUBJECT}, architecture, scope FROM subjects WHERE kind = 'network' ORDER BY rowid"
        try:
            return [
                (Benchmark(*row[:-2]), Architecture.model_validate_json(row[-2]), row[-1])
                for row in self.store.rows(query)
            ]
        except (ValueError, LgcError) as error:
            raise FileFormatError(
                f"{self.path} is a damaged latency table: a network of it is none: {error}"
            ) from error

    def entry(self, spec: OpSpec) -> Entry:
        """The entry of `spec`.

        Raises:
            MissingEntryError: the table does not know it; the message names the mend.
        """
        rows = self.store.rows(f"SELECT {_ENTRY} FROM entries WHERE key = ?", str(spec))
        if not rows:
            raise MissingEntryError(
                f"{self.path} ({self.space.name}, {self.target}) has no entry {spec}; "
                f"make a table of its space: lgc-profile --space SPACE --out T.lut"
            )
        return Entry(*rows[0])

    def latency_ms(self, spec: OpSpec) -> float:
        """Latency of `spec` in milliseconds; 0 where it takes no time by construction.

        Raises:
            MissingEntryError: there is no latency for it; the message names the mend.
        """
        if is_free(spec):
            return 0.0
        entry = self.entry(spec)
        if entry.latency_ms is None:
            why = f"failed: {entry.reason}" if entry.status == schema.FAILED else "not measured yet"
            raise MissingEntryError(f"{self.path}: {spec} {why}; fill it with: {self.profile_command()}")
        return entry.latency_ms

    def to_frame(self) -> pd.DataFrame:
        """All entries, a row each: OpSpec's fields, then status and latency with units in the names."""
        import pandas as pd

        rows = [{**asdict(OpSpec.parse(entry.key)), **asdict(entry)} for entry in self.entries()]
        return pd.DataFrame(rows).set_index("key")

    def terms(self, spec: OpSpec) -> dict[str, float]:
        """How the entry follows from what was timed: latency = sum over subjects of coefficient * latency."""
        return dict(self.store.rows("SELECT subject, coefficient FROM terms WHERE entry = ?", str(spec)))

    def visits(self, subject: str | None = None) -> list[SampleBatch]:
        """Raw visits of a subject, or of all, by session and round; durations in milliseconds.

        Raises:
            FileFormatError: a visit holds durations that are none.
        """
        where, values = ("WHERE subject = ?", (subject,)) if subject else ("", ())
        columns = "subject, round, at_unix_s, durations_ms, session, load"
        rows = self.store.rows(f"SELECT {columns} FROM visits {where} ORDER BY session, round", *values)
        return [SampleBatch(key, number, at, json.loads(text), *place) for key, number, at, text, *place in rows]

    def measurement(self) -> Measurement:
        """All visits, of operators and networks, with the machine's changing speed divided out.

        Raises:
            FileFormatError: a visit holds durations that are none.
        """
        try:
            return Measurement(self.visits(), self.protocol["statistic"])
        except (MeasurementError, TypeError) as error:
            raise FileFormatError(f"{self.path} is a damaged latency table: {error}") from error

    def add_subjects(self, kind: str, terms: Mapping[str, Iterable[tuple[str, str, float]]]) -> None:
        """Register what is to be timed; what is known already stays as it is.

        Args:
            kind: `operator` or `carrier`.
            terms: subject -> (entry, subject, coefficient) rows that say how entries follow from it.
        """
        with self.store.writing() as connection:
            connection.executemany(
                "INSERT INTO subjects (key, kind) VALUES (?, ?) ON CONFLICT DO NOTHING", [(key, kind) for key in terms]
            )
            rows = [row for rows in terms.values() for row in rows]
            connection.executemany("INSERT INTO terms VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def add_network(self, architecture: Architecture, scope: str) -> str:
        """Register a network to be measured; its key, the same whenever it is added again."""
        key = network_key(architecture, scope)
        row = (key, architecture.model_dump_json(), scope)
        with self.store.writing() as connection:
            connection.execute(
                "INSERT INTO subjects (key, kind, architecture, scope) VALUES (?, 'network', ?, ?) "
                "ON CONFLICT DO NOTHING",
                row,
            )
        return key

    def health(self) -> list[dict[str, Any]]:
        """Samples of the machine while it measured, in order of time; the fields of `profiler.watch.Health`."""
        return [json.loads(row[0]) for row in self.store.rows("SELECT sample FROM health ORDER BY at_unix_s")]

    def settle(self) -> Measurement:
        """Bring subjects up to date with all visits, and entries with their subjects (see `terms`).

        A subject's statistics change with every session that is added, since sessions tell each other's speed.

        Returns:
            What was measured.
        """
        measurement = self.measurement()
        rows = [
            (*_judged(subject, summary), *asdict(summary).values(), subject.key)
            for subject in self.subjects()
            if subject.latency_ms is not None and len(measurement.points(subject.key))
            for summary in [measurement.summary(subject.key)]
        ]
        with self.store.writing() as connection:
            connection.executemany(
                "UPDATE subjects SET status = ?, reason = ?, latency_ms = ?, ci_ms = ?, median_ms = ?, min_ms = ?, "
                "spread_pct = ?, visits = ?, samples = ? WHERE key = ?",
                rows,
            )
        self._derive()
        return measurement

    def _derive(self) -> None:
        """Bring entries up to date with their subjects: latency and interval by the terms, or why there is none."""
        subjects = {subject.key: subject for subject in self.subjects()}
        terms: dict[str, list[tuple[Benchmark, float]]] = {}
        for entry, subject, coefficient in self.store.rows("SELECT entry, subject, coefficient FROM terms"):
            if subject not in subjects:
                raise FileFormatError(
                    f"{self.path} is a damaged latency table: it lacks {subject}, of which {entry} is"
                )
            terms.setdefault(entry, []).append((subjects[subject], coefficient))
        rows = [(*_derived(parts), entry) for entry, parts in terms.items()]
        with self.store.writing() as connection:
            connection.executemany(
                "UPDATE entries SET status = ?, reason = ?, latency_ms = ?, ci_ms = ? WHERE key = ?",
                [row for row in rows if row[0] is not None],
            )

    def interpolate(self, estimates: Mapping[OpSpec, tuple[float, float, str]]) -> None:
        """Fill entries that are not measured: spec -> (latency_ms, ci_ms, what it is estimated from)."""
        rows = [(reason, latency, ci, str(spec)) for spec, (latency, ci, reason) in estimates.items()]
        with self.store.writing() as connection:
            connection.executemany(
                "UPDATE entries SET status = 'interpolated', reason = ?, latency_ms = ?, ci_ms = ? "
                "WHERE key = ? AND status NOT IN ('measured', 'noisy')",
                rows,
            )

    def note(self, key: str) -> dict[str, Any] | None:
        """A JSON object kept beside the entries, such as `calibration` or `verification`; None if there is none."""
        for (value,) in self.store.rows("SELECT value FROM meta WHERE key = ?", key):
            note: dict[str, Any] = json.loads(value)
            return note
        return None

    def write_note(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON object beside the entries."""
        with self.store.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(dict(value))))

    def correction(self, scope: str) -> Correction | None:
        """The fitted correction of predictions in a scope; None if the table is not calibrated.

        Raises:
            FileFormatError: it is damaged.
        """
        found = (self.note("calibration") or {}).get(scope)
        try:
            return None if found is None else Correction(**{**found, "weights": tuple(found["weights"])})
        except (KeyError, TypeError, LgcError) as error:
            raise FileFormatError(
                f"{self.path} is a damaged latency table: its calibration fails at {error}"
            ) from error

    def profile_command(self, target: Target | None = None, out: Path | None = None) -> str:
        """The command that makes this table, or goes on with it; or one like it for another target and file."""
        target, out = target or self.target, out or self.path
        threads = f" --threads {target.threads}" if target.device.is_cpu else ""
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


def network_key(architecture: Architecture, scope: str) -> str:
    """Key of a whole network: scope, the index of the operator on every edge, and the head's width if not the own."""
    head = "" if architecture.head_channels is None else f"/h{architecture.head_channels}"
    return f"{NETWORK}{scope}/{'-'.join(str(choice) for choice in architecture.choices)}{head}"


def entry_keys(space: SearchSpace) -> list[str]:
    """Keys of the entries that a table of `space` has: one for each OpSpec that takes time."""
    return [str(spec) for spec in space.specs() if not is_free(spec)]


def _judged(subject: Benchmark, summary: Summary) -> tuple[str, str | None]:
    """(status, reason) of a measured subject by its statistics now; company after its verdict may have mended it."""
    if subject.reason == UNFINISHED:
        return schema.NOISY, UNFINISHED
    known_pct = summary.ci_ms / summary.latency_ms * 100
    if known_pct <= NOISY_PCT:
        return schema.MEASURED, None
    return schema.NOISY, subject.reason or f"known to {known_pct:.1f} %"


def _derived(parts: list[tuple[Benchmark, float]]) -> tuple[str | None, str | None, float | None, float | None]:
    """(status, reason, latency_ms, ci_ms) of the entry that follows from these subjects; status None: not yet."""
    for subject, _ in parts:
        if subject.status == schema.FAILED:
            return schema.FAILED, subject.reason, None, None
    if any(subject.latency_ms is None for subject, _ in parts):
        return None, None, None, None
    latency = sum(coefficient * (subject.latency_ms or 0.0) for subject, coefficient in parts)
    ci = sum((coefficient * (subject.ci_ms or 0.0)) ** 2 for subject, coefficient in parts) ** 0.5
    noisy = [subject for subject, _ in parts if subject.status == schema.NOISY]
    status, reason = (schema.NOISY, f"{noisy[0].key}: {noisy[0].reason}") if noisy else (schema.MEASURED, None)
    if latency < FLOOR_MS:
        status, reason = schema.NOISY, "not to be told from nothing"
    return status, reason, max(latency, FLOOR_MS), ci


def _tag(space: SearchSpace) -> str:
    height, width = space.input
    return f"{space.name} {height}x{width} ({space.fingerprint})"
