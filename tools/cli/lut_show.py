"""`lgc-lut show`: print the contents of a latency table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import emit, grid
from .options import JsonOption, parse_size
from .report_tables import make_report_tables

if TYPE_CHECKING:
    from rich.table import Table

    from ...lut.statistics.calibration import PredictionReport
    from ...lut.table.table import Benchmark, Entry, LatencyTable

TablePath = Annotated[Path, typer.Argument(metavar="T.lut", help="Latency table.")]

SORT_ORDERS = ("key", "latency", "ci")
MAX_KEY_LENGTH = 60
"""Printed characters of a benchmark's key: a network's key can have a hundred."""


def show(
    table: TablePath,
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only keys that contain this text.")] = "",
    operator: Annotated[str | None, typer.Option(metavar="NAME", help="Only this operator, e.g. conv_3x3.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only this status: pending, measured, noisy, interpolated or failed.")
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Only operators of this resolution (the higher of input and output)."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="Sort by key, latency (longest first) or ci (widest relative confidence interval first).",
            show_default="order in the network",
        ),
    ] = None,
    benchmarks: Annotated[
        bool,
        typer.Option("--subjects", help="Show the measured benchmarks instead: operators, carriers and networks."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table's target, calibration, verification and entries; ± is half of a 95 % confidence interval.

    Example: lgc-lut show tiny.lut --operator sep_conv_3x3 --sort latency
    """
    from ...lut.table.table import LatencyTable

    query = _Query(match, operator, status, parse_size(resolution) if resolution else None, sort)
    with LatencyTable.open(table) as opened:
        entries = query.select_entries(opened)
        timed = query.select_benchmarks(opened) if benchmarks else []
        content: dict[str, Any] = {
            "lut": str(table),
            "target": asdict(opened.target),
            "space": opened.space.model_dump(mode="json"),
            "protocol": opened.protocol,
            "environment": opened.environment,
            "calibration": opened.metadata("calibration"),
            "verification": opened.metadata("verification"),
            "entries": [asdict(entry) for entry in entries],
        }
        if benchmarks:
            content["subjects"] = [asdict(benchmark) for benchmark in timed]
        height, width = opened.space.input
        title = f"{table}: {opened.space.name} {height}x{width} on {opened.target}"
        rows = _make_benchmark_table(title, timed) if benchmarks else _make_entry_table(title, entries)
        machine = opened.environment
        lines = [f"measured on {', '.join(str(machine[key]) for key in ('device_name', 'system') if key in machine)}"]
        lines += format_corrections(opened)
        report = read_report(opened)
    emit(content, as_json, rows, *lines, *make_report_tables(report))


@dataclass(frozen=True)
class _Query:
    """Filter and order of the entries or benchmarks.

    Raises:
        UnknownNameError: operator, status or order is unknown.
    """

    match: str
    operator: str | None
    status: str | None
    resolution: tuple[int, int] | None
    sort: str | None

    def __post_init__(self) -> None:
        from ...errors import UnknownNameError
        from ...lut.table import schema
        from ...models.space.operators import get_operator

        statuses = (schema.PENDING, *schema.WITH_LATENCY, schema.FAILED)
        if self.status is not None and self.status not in statuses:
            raise UnknownNameError("status", self.status, statuses)
        if self.sort is not None and self.sort not in SORT_ORDERS:
            raise UnknownNameError("order", self.sort, SORT_ORDERS)
        if self.operator is not None:
            get_operator(self.operator)

    def select_entries(self, table: LatencyTable) -> list[Entry]:
        """Return the matching entries in order."""
        entries = [entry for entry in table.entries() if self._matches_spec(entry.key) and self._matches_row(entry)]
        return self._sort_rows(entries)

    def select_benchmarks(self, table: LatencyTable) -> list[Benchmark]:
        """Return the matching benchmarks in order; operator and resolution select those of the matching entries."""
        from ...models.space.opspec import OpSpec

        benchmarks = table.benchmarks()
        if self.operator or self.resolution:
            specs = [OpSpec.parse(entry.key) for entry in table.entries() if self._matches_spec(entry.key)]
            keys = {key for spec in specs for key in table.components(spec)}
            benchmarks = [benchmark for benchmark in benchmarks if benchmark.key in keys]
        return self._sort_rows([benchmark for benchmark in benchmarks if self._matches_row(benchmark)])

    def _matches_spec(self, key: str) -> bool:
        from ...models.space.opspec import OpSpec

        spec = OpSpec.parse(key)
        return self.operator in (None, spec.operator) and self.resolution in (None, spec.fine)

    def _matches_row(self, row: Entry | Benchmark) -> bool:
        return self.match in row.key and self.status in (None, row.status)

    def _sort_rows(self, rows: list[Any]) -> list[Any]:
        match self.sort:
            case "key":
                return sorted(rows, key=lambda row: row.key)
            case "latency":
                return sorted(rows, key=lambda row: -(row.latency_ms or 0.0))
            case "ci":
                return sorted(rows, key=lambda row: -(row.ci_ms or 0.0) / (row.latency_ms or 1.0))
        return rows


def _make_entry_table(title: str, entries: list[Entry]) -> Table:
    rows = grid(title, "operator", "status", "latency ms", "")
    rows.columns[2].justify = "right"
    rows.columns[3].no_wrap = False  # wrap long reasons rather than the columns before them
    for entry in entries:
        rows.add_row(entry.key, entry.status, _format_latency(entry), entry.reason or "")
    return rows


def _make_benchmark_table(title: str, benchmarks: list[Benchmark]) -> Table:
    numbers = ("latency ms", "spread", "batches", "samples", "mJ")
    rows = grid(title, "benchmark", "kind", "status", *numbers, numbers=len(numbers))
    for benchmark in benchmarks:
        key = benchmark.key if len(benchmark.key) <= MAX_KEY_LENGTH else f"{benchmark.key[: MAX_KEY_LENGTH - 3]}..."
        spread = "" if benchmark.spread_pct is None else f"{benchmark.spread_pct:.1f} %"
        energy = "" if benchmark.energy_mj is None else f"{benchmark.energy_mj:.3f}"
        counts = (str(benchmark.visits), str(benchmark.samples))
        rows.add_row(key, benchmark.kind, benchmark.status, _format_latency(benchmark), spread, *counts, energy)
    return rows


def _format_latency(row: Entry | Benchmark) -> str:
    if row.latency_ms is None:
        return ""
    return f"{row.latency_ms:.4f}" if row.ci_ms is None else f"{row.latency_ms:.4f} ± {row.ci_ms:.4f}"


def format_corrections(table: LatencyTable) -> list[str]:
    """Return a line on each scope's calibration; none for a table without calibration.

    Raises:
        FileFormatError: the calibration is damaged.
    """
    from ...models.space.plan import SCOPES

    lines = []
    for scope in SCOPES:
        correction = table.correction(scope)
        if correction is not None:
            weights = " ".join(f"{weight:.4g}" for weight in correction.weights)
            half_width_pct = correction.half_width_pct()
            error = "error unknown" if half_width_pct is None else f"9 of 10 networks within ± {half_width_pct:.1f} %"
            lines.append(
                f"calibration, {scope}: {correction.form}, intercept {correction.intercept_ms:.4f} ms, weights "
                f"{weights} ({correction.networks} networks; {error})"
            )
    return lines


def read_report(table: LatencyTable) -> PredictionReport | None:
    """Return the stored verification of scope `dense`; None if there is none.

    Raises:
        FileFormatError: the verification is damaged.
    """
    from ...errors import FileFormatError
    from ...lut.statistics.calibration import PredictionReport
    from ...models.space.plan import DENSE

    stored = table.metadata("verification")
    try:
        return PredictionReport.from_dict(stored[DENSE]) if stored else None
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"{table.path} is a damaged latency table: its verification fails at {error}") from error
