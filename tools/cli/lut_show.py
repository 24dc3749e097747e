"""`lgc-lut show`: what a latency table holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..profile import report_tables
from .console import JsonFlag, emit, grid, parse_size

if TYPE_CHECKING:
    from rich.table import Table

    from ...lut.statistics.calibration import PredictionReport
    from ...lut.table.table import Benchmark, Entry, LatencyTable

TablePath = Annotated[Path, typer.Argument(metavar="T.lut", help="A latency table.")]

SORTS = ("key", "latency", "ci")
WIDEST_KEY = 60
"""Characters of a subject's key that are printed for people: a network's can have a hundred."""


def show(
    table: TablePath,
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only keys that contain this.")] = "",
    operator: Annotated[str | None, typer.Option(metavar="NAME", help="Only this operator, say conv_3x3.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only this status: pending, measured, noisy, interpolated or failed.")
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="HxW", help="Only operators whose finer side is of this size.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="key, latency (longest first) or ci (least known first); else as in the network.")
    ] = None,
    subjects: Annotated[
        bool, typer.Option("--subjects", help="Show what was timed instead: operators, carriers and networks.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show a table's target, calibration, verification and entries; ± is half of a 95 % interval.

    Example: lgc-lut show tiny.lut --operator sep_conv_3x3 --sort latency
    """
    from ...lut.table.table import LatencyTable

    chosen = _Choice(match, operator, status, parse_size(resolution) if resolution else None, sort)
    with LatencyTable.open(table) as opened:
        entries = chosen.entries(opened)
        timed = chosen.subjects(opened) if subjects else []
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
        if subjects:
            content["subjects"] = [asdict(subject) for subject in timed]
        height, width = opened.space.input
        title = f"{table}: {opened.space.name} {height}x{width} on {opened.target}"
        rows = _subject_grid(title, timed) if subjects else _entry_grid(title, entries)
        machine = opened.environment
        lines = [f"measured on {', '.join(str(machine[key]) for key in ('device_name', 'system') if key in machine)}"]
        lines += correction_lines(opened)
        report = stored_report(opened)
    emit(content, as_json, rows, *lines, *report_tables(report))


@dataclass(frozen=True)
class _Choice:
    """Which entries or subjects are shown, and in what order."""

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
        if self.sort is not None and self.sort not in SORTS:
            raise UnknownNameError("order", self.sort, SORTS)
        if self.operator is not None:
            get_operator(self.operator)

    def entries(self, table: LatencyTable) -> list[Entry]:
        """The entries to show."""
        return self._sorted([entry for entry in table.entries() if self._fits(entry.key) and self._takes(entry)])

    def subjects(self, table: LatencyTable) -> list[Benchmark]:
        """The subjects to show; with an operator or a resolution, those that its entries follow from."""
        from ...models.space.opspec import OpSpec

        found = table.benchmarks()
        if self.operator or self.resolution:
            specs = [OpSpec.parse(entry.key) for entry in table.entries() if self._fits(entry.key)]
            terms = {subject for spec in specs for subject in table.components(spec)}
            found = [subject for subject in found if subject.key in terms]
        return self._sorted([subject for subject in found if self._takes(subject)])

    def _fits(self, key: str) -> bool:
        from ...models.space.opspec import OpSpec

        spec = OpSpec.parse(key)
        return self.operator in (None, spec.operator) and self.resolution in (None, spec.fine)

    def _takes(self, row: Entry | Benchmark) -> bool:
        return self.match in row.key and self.status in (None, row.status)

    def _sorted(self, rows: list[Any]) -> list[Any]:
        match self.sort:
            case "key":
                return sorted(rows, key=lambda row: row.key)
            case "latency":
                return sorted(rows, key=lambda row: -(row.latency_ms or 0.0))
            case "ci":
                return sorted(rows, key=lambda row: -(row.ci_ms or 0.0) / (row.latency_ms or 1.0))
        return rows


def _entry_grid(title: str, entries: list[Entry]) -> Table:
    rows = grid(title, "operator", "status", "latency ms", "")
    rows.columns[2].justify = "right"
    rows.columns[3].no_wrap = False  # a reason can be long; what is before it is to stay whole
    for entry in entries:
        rows.add_row(entry.key, entry.status, _latency(entry), entry.reason or "")
    return rows


def _subject_grid(title: str, subjects: list[Benchmark]) -> Table:
    rows = grid(title, "timed", "kind", "status", "latency ms", "spread", "visits", "samples", "mJ", numbers=5)
    for subject in subjects:
        key = subject.key if len(subject.key) <= WIDEST_KEY else f"{subject.key[: WIDEST_KEY - 3]}..."
        spread = "" if subject.spread_pct is None else f"{subject.spread_pct:.1f} %"
        energy = "" if subject.energy_mj is None else f"{subject.energy_mj:.3f}"
        counts = (str(subject.visits), str(subject.samples))
        rows.add_row(key, subject.kind, subject.status, _latency(subject), spread, *counts, energy)
    return rows


def _latency(row: Entry | Benchmark) -> str:
    if row.latency_ms is None:
        return ""
    return f"{row.latency_ms:.4f}" if row.ci_ms is None else f"{row.latency_ms:.4f} ± {row.ci_ms:.4f}"


def correction_lines(table: LatencyTable) -> list[str]:
    """A line for people on each scope's calibration; none if the table is not calibrated.

    Raises:
        FileFormatError: it is damaged.
    """
    from ...models.space.plan import SCOPES

    lines = []
    for scope in SCOPES:
        found = table.correction(scope)
        if found is not None:
            weights = " ".join(f"{weight:.4g}" for weight in found.weights)
            half = found.half_width_pct()
            within = "error unknown" if half is None else f"9 of 10 networks within ± {half:.1f} %"
            lines.append(
                f"calibration, {scope}: {found.form}, intercept {found.intercept_ms:.4f} ms, weights {weights} "
                f"({found.networks} networks; {within})"
            )
    return lines


def stored_report(table: LatencyTable) -> PredictionReport | None:
    """The verification that a table holds, of scope `dense`; None if it holds none.

    Raises:
        FileFormatError: it is damaged.
    """
    from ...errors import FileFormatError
    from ...lut.statistics.calibration import PredictionReport
    from ...models.space.plan import DENSE

    stored = table.metadata("verification")
    try:
        return PredictionReport.from_dict(stored[DENSE]) if stored else None
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"{table.path} is a damaged latency table: its verification fails at {error}") from error
