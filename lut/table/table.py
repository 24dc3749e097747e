"""LatencyTable: measured latencies of a space's operators on one target, in an SQLite file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ...errors import (
    FileFormatError,
    LgcError,
    MeasurementError,
    MismatchError,
    MissingEntryError,
    MissingOperatorError,
    PluginError,
    UnknownOperatorError,
)
from ...models.space.operators import OPERATORS, is_first_recipe, is_free, recipe_digest, require_operators
from ...models.space.opspec import OpSpec
from ...models.space.presets import PRESETS, VARIANTS
from ...models.space.protocol import Architecture, SearchSpace, Space
from ...plugins import list_plugins
from ..statistics.calibration import Correction
from ..statistics.estimates import NOISY_PCT, Summary
from ..statistics.measurement import Measurement, SampleBatch
from ..target import Target
from . import schema
from .rows import Benchmark, Entry, columns, update_rows

if TYPE_CHECKING:
    import pandas as pd

MIN_ENTRY_MS = 1e-6
"""Lower bound of an entry. The difference of two networks can be smaller, e.g. where an operator is fused away."""
FINISHED = "settled"
"""Metadata key set when entries, calibration and verification cover all sample batches. New results delete it."""
UNFINISHED = "budget"
"""Reason of a noisy benchmark whose measuring was stopped early. The next process continues it."""
NETWORK_PREFIX = "network/"
"""Prefix of the keys of whole networks."""


_ENTRY_COLUMNS = ", ".join(columns(Entry))
_BENCHMARK_COLUMNS = ", ".join(columns(Benchmark))


class LatencyTable:
    """Latency table in an SQLite file, and a context manager that closes it. See `open` and `create`."""

    def __init__(self, path: Path, store: schema.Store, *, inspect: bool = False) -> None:
        """See `open`."""
        self.path = path
        self.store = store
        try:
            meta = {key: json.loads(value) for key, value in store.rows("SELECT key, value FROM meta")}
            self.target = Target(**meta["target"])
            self.space_content: dict[str, Any] = meta["space"]
            self.protocol: dict[str, Any] = meta["protocol"]
            self.environment: dict[str, Any] = meta["environment"]
            specs = {entry.key: OpSpec.parse(entry.key) for entry in self.entries()}
            self._recipes = store.recipes()
            self.missing_operators = _list_missing(specs.values(), self.space_content)
            if not inspect:
                require_operators(self.missing_operators)
                self.missing_operators = ()
            changed = None if self.missing_operators else self._find_changed_recipe(specs)
        except (MissingOperatorError, PluginError):
            self.close()
            raise
        except UnknownOperatorError as error:
            self.close()
            raise MissingOperatorError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, LgcError) as error:
            self.close()
            raise FileFormatError(f"{path} is a damaged latency table: its content fails at {error}") from error
        if changed is not None and not inspect:
            command = self.profile_command(out=path.with_stem(f"{path.stem}-new"))
            self.close()
            raise MismatchError(
                f"{path} was measured with another recipe of operator {changed.operator} ({changed}): measure it again "
                f"with: {command}"
            )

    @cached_property
    def space(self) -> Space:
        """Search space.

        Raises:
            MissingOperatorError: The table was opened to be inspected, and has an operator that is not registered.
        """
        return Space.check(self.space_content, f"the space in {self.path}")

    @property
    def space_title(self) -> str:
        """Name and input size of the space, e.g. `tiny 192x256`; its operators need not be registered."""
        size = self.space_content.get("input")
        name = str(self.space_content.get("name"))
        return f"{name} {size[0]}x{size[1]}" if isinstance(size, list) and len(size) == 2 else name

    def recipe(self, key: str) -> str:
        """Return the digest of the recipe that an entry was measured with; see `operators.recipe_digest`.

        A table from before recipes were stored has the operators of lgc 0.1: for one that has changed since then, the
        result is `lgc 0.1`.
        """
        spec = OpSpec.parse(key)
        return self._recipes.get(key) or (recipe_digest(spec) if is_first_recipe(spec.operator) else "lgc 0.1")

    def _find_changed_recipe(self, specs: Mapping[str, OpSpec]) -> OpSpec | None:
        """Return the first entry whose operator has another recipe now; None if there is no such entry.

        Raises:
            ValueError: An entry of the space is missing.
        """
        for key, spec in specs.items():
            if self.recipe(key) != recipe_digest(spec):
                return spec
        for key in entry_keys(self.space):
            if key not in specs:
                if is_first_recipe((spec := OpSpec.parse(key)).operator):
                    raise ValueError(f"entry {key} of the space, which is missing")
                return spec  # it was free
        return None

    @classmethod
    def create(
        cls,
        path: str | Path,
        target: Target,
        space: Space,
        protocol: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> LatencyTable:
        """Create a table with a pending entry for each OpSpec of `space` that takes time.

        Raises:
            OutputError: `path` exists or cannot be written.
        """
        path = Path(path)
        meta = {
            "target": asdict(target),
            "space": space.to_dict(),
            "protocol": dict(protocol),
            "environment": dict(environment),
        }
        texts = {key: json.dumps(value) for key, value in meta.items()}
        recipes = {key: recipe_digest(OpSpec.parse(key)) for key in entry_keys(space)}
        return cls(path, schema.create_store(path, texts, recipes))

    @classmethod
    def open(cls, path: str | Path, *, inspect: bool = False) -> LatencyTable:
        """Open the table at `path`.

        Args:
            path: File of the table.
            inspect: Only read what is stored: operators may be unknown (see `missing_operators`) or have other recipes.

        Raises:
            FileFormatError: The file is missing, damaged, not a table, or has another schema version.
            MissingOperatorError: An operator is not registered.
            MismatchError: An operator has another recipe now.
            PluginError: A recipe of the user's fails.
        """
        path = Path(path)
        return cls(path, schema.open_store(path), inspect=inspect)

    def close(self) -> None:
        """Close the file."""
        self.store.close()

    def __enter__(self) -> LatencyTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self) -> list[Entry]:
        """Return all operator entries, in the order of the space."""
        return [Entry(*row) for row in self.store.rows(f"SELECT {_ENTRY_COLUMNS} FROM entries ORDER BY rowid")]

    def benchmarks(self, kind: str | None = None) -> list[Benchmark]:
        """Return all benchmarks, or those of a kind, in order of registration."""
        where, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
        query = f"SELECT {_BENCHMARK_COLUMNS} FROM subjects {where} ORDER BY rowid"
        return [Benchmark(*row) for row in self.store.rows(query, *values)]

    def networks(self) -> list[tuple[Benchmark, Architecture, str]]:
        """Return the networks that calibrate and verify the table: benchmark, architecture, scope.

        Raises:
            FileFormatError: An architecture is damaged.
        """
        query = f"SELECT {_BENCHMARK_COLUMNS}, architecture, scope FROM subjects WHERE kind = 'network' ORDER BY rowid"
        try:
            return [(Benchmark(*row[:-2]), self._parse_network(row[-2]), row[-1]) for row in self.store.rows(query)]
        except (ValueError, LgcError) as error:
            raise FileFormatError(
                f"{self.path} is a damaged latency table: one of its networks is invalid: {error}"
            ) from error

    def network_latencies(self, scope: str) -> list[float]:
        """Return the latencies of the measured networks in a scope, in ms."""
        query = "SELECT latency_ms FROM subjects WHERE kind = 'network' AND scope = ? AND latency_ms IS NOT NULL"
        return [latency for (latency,) in self.store.rows(f"{query} ORDER BY rowid", scope)]

    def median_ratio(self, scope: str) -> float | None:
        """Return the median of all runs over the latency of undisturbed ones, the median over a scope's networks.

        A frame rate is of all runs, the table's latencies are of undisturbed ones. None without measured networks.
        """
        query = "SELECT median_ms / latency_ms FROM subjects WHERE kind = 'network' AND scope = ?"
        rows = self.store.rows(f"{query} AND latency_ms IS NOT NULL AND median_ms > 0", scope)
        return median(ratio for (ratio,) in rows) if rows else None

    def _parse_network(self, text: str) -> Architecture:
        return self.space.architecture_type.from_dict(json.loads(text), f"a network of {self.path}")

    def entry(self, spec: OpSpec) -> Entry:
        """Return the entry of `spec`.

        Raises:
            MissingEntryError: The table has no such entry.
        """
        rows = self.store.rows(f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE key = ?", str(spec))
        if not rows:
            raise MissingEntryError(
                f"{self.path} ({self.space.name}, {self.target}) has no entry {spec}; "
                f"profile its space into another table: lgc-profile --space SPACE --out T.lut"
            )
        return Entry(*rows[0])

    def latency_ms(self, spec: OpSpec) -> float:
        """Return the latency of `spec` in ms; 0 if it takes no time by construction.

        Raises:
            MissingEntryError: The entry is missing, pending or failed. The message gives the command that measures it.
        """
        if is_free(spec):
            return 0.0
        entry = self.entry(spec)
        if entry.latency_ms is None:
            state = f"failed: {entry.reason}" if entry.status == schema.FAILED else "not measured yet"
            raise MissingEntryError(f"{self.path}: {spec} {state}; measure it with: {self.profile_command()}")
        return entry.latency_ms

    def to_frame(self) -> pd.DataFrame:
        """Return all entries as rows: fields of the OpSpec, then those of the entry."""
        import pandas as pd

        rows = [{**asdict(OpSpec.parse(entry.key)), **asdict(entry)} for entry in self.entries()]
        return pd.DataFrame(rows).set_index("key")

    def components(self, spec: OpSpec) -> dict[str, float]:
        """Return the coefficient of each benchmark in the entry: its latency is the sum of coefficient * latency."""
        return dict(self.store.rows("SELECT subject, coefficient FROM terms WHERE entry = ?", str(spec)))

    def sample_batches(self, benchmark: str | None = None) -> list[SampleBatch]:
        """Return the sample batches of a benchmark, or of all, by session and round; durations in ms."""
        where, values = ("WHERE subject = ?", (benchmark,)) if benchmark else ("", ())
        columns = "subject, round, at_unix_s, durations_ms, session, load"
        rows = self.store.rows(f"SELECT {columns} FROM visits {where} ORDER BY session, round", *values)
        return [SampleBatch(key, number, at, json.loads(text), *rest) for key, number, at, text, *rest in rows]

    def measurement(self) -> Measurement:
        """Return the drift-corrected measurement of all sample batches.

        Raises:
            FileFormatError: A sample batch has invalid durations.
        """
        try:
            return Measurement(self.sample_batches(), self.protocol["statistic"])
        except (MeasurementError, TypeError, ValueError) as error:
            raise FileFormatError(f"{self.path} is a damaged latency table: {error}") from error

    def add_benchmarks(self, kind: str, components: Mapping[str, Iterable[tuple[str, str, float]]]) -> None:
        """Register benchmarks. Registered ones stay unchanged.

        Args:
            kind: `operator` or `carrier`.
            components: Benchmark -> its rows (entry, benchmark, coefficient); see `components`.
        """
        with self.store.transaction() as connection:
            connection.executemany(
                "INSERT INTO subjects (key, kind) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(key, kind) for key in components],
            )
            rows = [row for rows in components.values() for row in rows]
            connection.executemany("INSERT INTO terms VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def add_network(self, architecture: Architecture, scope: str) -> str:
        """Register a network, if it is new, and return its key."""
        key = network_key(architecture, scope)
        row = (key, json.dumps(architecture.to_dict(), separators=(",", ":")), scope)
        with self.store.transaction() as connection:
            connection.execute(
                "INSERT INTO subjects (key, kind, architecture, scope) VALUES (?, 'network', ?, ?) "
                "ON CONFLICT DO NOTHING",
                row,
            )
        return key

    def hardware_samples(self) -> list[dict[str, Any]]:
        """Return the hardware samples by time, with the fields of `profiler.machine.monitor.HardwareSample`."""
        return [json.loads(row[0]) for row in self.store.rows("SELECT sample FROM health ORDER BY at_unix_s")]

    def finalize(self) -> Measurement:
        """Update the benchmarks from all sample batches, and the entries from their benchmarks; see `components`.

        Each new session changes the statistics of all benchmarks, because the drift correction spans sessions.

        Returns:
            The measurement behind the statistics.
        """
        measurement = self.measurement()
        rows = [
            result_columns(benchmark.key, summary, _explain_noise(benchmark, summary))
            for benchmark in self.benchmarks()
            if benchmark.latency_ms is not None and len(measurement.points(benchmark.key))
            for summary in [measurement.summary(benchmark.key)]
        ]
        with self.store.transaction() as connection:
            update_rows(connection, "subjects", rows)
        self._update_entries()
        return measurement

    def _update_entries(self) -> None:
        """Update the entries from their benchmarks: latency and interval, or the reason for a failure."""
        benchmarks = {benchmark.key: benchmark for benchmark in self.benchmarks()}
        components: dict[str, list[tuple[Benchmark, float]]] = {}
        for entry, key, coefficient in self.store.rows("SELECT entry, subject, coefficient FROM terms"):
            if key not in benchmarks:
                raise FileFormatError(
                    f"{self.path} is a damaged latency table: entry {entry} needs {key}, which is missing"
                )
            components.setdefault(entry, []).append((benchmarks[key], coefficient))
        entries = [_combine(key, parts) for key, parts in components.items()]
        with self.store.transaction() as connection:
            update_rows(connection, "entries", [asdict(entry) for entry in entries if entry.status != schema.PENDING])

    def interpolate(self, estimates: Mapping[OpSpec, tuple[float, float, str]]) -> None:
        """Fill entries without a measurement from estimates: spec -> (latency_ms, ci_ms, source)."""
        entries = [
            Entry(str(spec), schema.INTERPOLATED, source, latency, ci)
            for spec, (latency, ci, source) in estimates.items()
        ]
        with self.store.transaction() as connection:
            update_rows(connection, "entries", map(asdict, entries), "status NOT IN ('measured', 'noisy')")

    def metadata(self, key: str) -> dict[str, Any] | None:
        """Return the JSON object stored under `key`, e.g. `calibration` or `verification`; None if it is missing."""
        for (value,) in self.store.rows("SELECT value FROM meta WHERE key = ?", key):
            content: dict[str, Any] = json.loads(value)
            return content
        return None

    def set_metadata(self, key: str, value: Mapping[str, Any]) -> None:
        """Store a JSON object under `key`."""
        with self.store.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(dict(value))))

    def correction(self, scope: str) -> Correction | None:
        """Return the calibration of a scope; None if the table is not calibrated.

        Raises:
            FileFormatError: The calibration is damaged.
        """
        stored = (self.metadata("calibration") or {}).get(scope)
        try:
            return None if stored is None else Correction(**{**stored, "weights": tuple(stored["weights"])})
        except (KeyError, TypeError, LgcError) as error:
            raise FileFormatError(
                f"{self.path} is a damaged latency table: its calibration fails at {error}"
            ) from error

    def profile_command(
        self,
        target: Target | None = None,
        out: Path | None = None,
        classes: int | None = None,
        space: SearchSpace | None = None,
    ) -> str:
        """Return the command that measures or resumes this table, or the same for another target, file or classes.

        Args:
            target: Other target.
            out: Other file.
            classes: Other number of classes.
            space: Other space: a preset, or this table's own, at any size.
        """
        target, out = target or self.target, out or self.path
        threads = f" --threads {target.threads}" if target.device.is_cpu else ""
        plugins = "".join(f" --plugin {plugin}" for plugin in list_plugins())
        own, chosen = "", self.space if space is None else space
        if isinstance(chosen, SearchSpace):
            height, width = chosen.input
            own = f" --input {height}x{width} --classes {classes or chosen.classes}"
        name = chosen.name if _is_preset(chosen) else shlex.quote(str(self.path))
        return (
            f"lgc-profile --device {target.device} --backend {target.backend} "
            f"--precision {target.precision}{threads} --space {name}{own}{plugins} --out {shlex.quote(str(out))}"
        )

    def require(self, *, target: Target | None = None, space: Space | None = None) -> None:
        """Check that the table has this target and space.

        Raises:
            MismatchError: They differ.
        """
        differences = self.target.differences(target) if target is not None else []
        what = ["target"] if differences else []
        if space is not None and space.fingerprint != self.space.fingerprint:
            what.append("space")
            differences.append(f"space {self.space.description}, not {space.description}")
        if differences:
            raise MismatchError(
                f"{self.path} has a different {' and '.join(what)}: {'; '.join(differences)}. "
                f"Profile the requested one into another table with lgc-profile and another --out"
            )


def _list_missing(specs: Iterable[OpSpec], space: object) -> tuple[str, ...]:
    """Return the operators of entries and of a space's content that are not registered."""
    names = [spec.operator for spec in specs]
    listed = space.get("operators") if isinstance(space, dict) else None
    names += [str(name) for name in listed] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(name for name in names if name not in OPERATORS))


def network_key(architecture: Architecture, scope: str) -> str:
    """Return the key of a network: its scope and the architecture's key."""
    return f"{NETWORK_PREFIX}{scope}/{architecture.key}"


def entry_keys(space: Space) -> list[str]:
    """Return the entry keys of a table of `space`: every OpSpec that takes time."""
    return [str(spec) for spec in space.specs() if not is_free(spec)]


def result_columns(key: str, summary: Summary, reason: str | None) -> dict[str, Any]:
    """Return the columns of a measured benchmark, which is noisy if it has a reason."""
    values = asdict(summary)
    status = schema.MEASURED if reason is None else schema.NOISY
    return {"key": key, "status": status, "reason": reason, "visits": values.pop("batches"), **values}


def _explain_noise(benchmark: Benchmark, summary: Summary) -> str | None:
    """Return why a benchmark is noisy by its current statistics, or None; later batches can remove the noise."""
    ci_pct = summary.ci_ms / summary.latency_ms * 100
    if benchmark.reason != UNFINISHED and ci_pct <= NOISY_PCT:
        return None
    return benchmark.reason or f"confidence interval of ±{ci_pct:.1f} %"


def _combine(key: str, parts: list[tuple[Benchmark, float]]) -> Entry:
    """Return the entry `key` from its benchmarks; it is pending while one of them is."""
    for benchmark, _ in parts:
        if benchmark.status == schema.FAILED:
            return Entry(key, schema.FAILED, benchmark.reason, None, None)
    if any(benchmark.latency_ms is None for benchmark, _ in parts):
        return Entry(key, schema.PENDING, None, None, None)
    latency = sum(coefficient * (benchmark.latency_ms or 0.0) for benchmark, coefficient in parts)
    ci = sum((coefficient * (benchmark.ci_ms or 0.0)) ** 2 for benchmark, coefficient in parts) ** 0.5
    noisy = [benchmark for benchmark, _ in parts if benchmark.status == schema.NOISY]
    status, reason = (schema.NOISY, f"{noisy[0].key}: {noisy[0].reason}") if noisy else (schema.MEASURED, None)
    if latency < MIN_ENTRY_MS:
        status, reason = schema.NOISY, "indistinguishable from zero"
    return Entry(key, status, reason, max(latency, MIN_ENTRY_MS), ci)


def _is_preset(space: Space) -> bool:
    """Return True for the preset of the space's name, apart from input size and number of classes."""
    content = space.to_dict()
    if space.name not in (*PRESETS, *VARIANTS) or not {"input", "classes"} <= content.keys():
        return False
    own = {"input": content["input"], "classes": content["classes"]}
    return {**SearchSpace.load(space.name).to_dict(), **own} == content
