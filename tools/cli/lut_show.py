"""`lgc-lut show`, and the tables of a latency table's verification, calibration and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import emit, grid
from .options import JsonOption, parse_size

if TYPE_CHECKING:
    from rich.table import Table

    from ...lut.statistics.calibration import PredictionReport
    from ...lut.table.rows import Benchmark, Entry
    from ...lut.table.table import LatencyTable

TablePath = Annotated[Path, typer.Argument(metavar="T.lut", help="Latency table.")]

MAX_MAPE_PCT = 10.0
"""Mean prediction error of a table above which a warning is printed."""
MAX_KEY_LENGTH = 60
"""Characters of a benchmark's key that are printed; a network's can have a hundred."""


Status = Literal["pending", "measured", "noisy", "interpolated", "failed"]
Order = Literal["key", "latency", "ci"]


def show(
    table: TablePath,
    match: Annotated[str, typer.Option(metavar="TEXT", help="Show only keys that contain TEXT.")] = "",
    operator: Annotated[str | None, typer.Option(metavar="NAME", help="Show only one operator, e.g. conv_3x3.")] = None,
    status: Annotated[Status | None, typer.Option(help="Show only one status.")] = None,
    resolution: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Show only operators whose input or output, whichever is larger, is HxW."),
    ] = None,
    sort: Annotated[
        Order | None,
        typer.Option(
            help="Sort by key, by latency (longest first) or by relative confidence interval (widest first).",
            show_default="order in the network",
        ),
    ] = None,
    benchmarks: Annotated[
        bool,
        typer.Option("--subjects", help="Show the benchmarks instead: timed operators, carriers and networks."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table's target, calibration, verification and entries.

    ± is the half-width of the 95 % confidence interval.

    Example: lgc-lut show tiny.lut --operator sep_conv_3x3 --sort latency
    """
    from ...lut.exchange.derive import DERIVED
    from ...lut.statistics.calibration import add_new_names
    from ...lut.statistics.conditions import describe_throttling
    from ...lut.table.table import LatencyTable

    selection = _Selection(match, operator, status, None if resolution is None else parse_size(resolution), sort)
    with LatencyTable.open(table, inspect=True) as opened:
        selection.require_operator(opened)
        entries = selection.entries(opened)
        timed = selection.benchmarks(opened) if benchmarks else []
        selection.require_match(opened, benchmarks)
        verification = opened.metadata("verification")
        remarks = describe_throttling(opened.hardware_samples())
        content = {
            "lut": str(table),
            "target": asdict(opened.target),
            "space": opened.space_content if opened.missing_operators else opened.space.to_dict(),
            "protocol": opened.protocol,
            "environment": opened.environment,
            "remarks": remarks,
            "calibration": opened.metadata("calibration"),
            "verification": verification and add_new_names(verification),
            "derived": opened.metadata(DERIVED),
            "entries": [asdict(entry) for entry in entries],
        }
        if benchmarks:
            content["subjects"] = [asdict(benchmark) for benchmark in timed]
        title = f"{table}: {opened.space_title} on {opened.target}"
        rows = _make_benchmark_table(title, timed) if benchmarks else _make_entry_table(title, entries)
        lines = [*_describe_origin(opened), *remarks, *format_corrections(opened), *format_range(opened)]
        report = read_report(opened)
    emit(content, as_json, rows, *lines, *make_report_tables(report))


def _describe_origin(table: LatencyTable) -> list[str]:
    """Return lines on the machine, missing plugins, and the table that this one is derived from."""
    from ...lut.exchange.derive import DERIVED

    machine = table.environment
    lines = [f"measured on {', '.join(str(machine[key]) for key in ('device_name', 'system') if key in machine)}"]
    if table.missing_operators:
        lines.append(f"operators of a plugin that is not loaded: {', '.join(table.missing_operators)}")
    if derived := table.metadata(DERIVED):
        lines.append(
            f"{derived['entries']} entries derived from {derived['from']} ({derived['classes']} classes); the "
            f"others and the networks measured for {table.space_content['classes']} classes"
        )
    return lines


@dataclass(frozen=True)
class _Selection:
    """Filter and order of entries or benchmarks."""

    match: str
    operator: str | None
    status: Status | None
    resolution: tuple[int, int] | None
    sort: Order | None

    def require_operator(self, table: LatencyTable) -> None:
        """Check that the selected operator is registered, or one of the table.

        Raises:
            UnknownNameError: It is neither.
        """
        from ...errors import UnknownNameError
        from ...models.space.operators import OPERATORS

        known = {*OPERATORS, *table.missing_operators}
        if self.operator is not None and self.operator not in known:
            raise UnknownNameError("operator", self.operator, known)

    def entries(self, table: LatencyTable) -> list[Entry]:
        """Return the selected entries."""
        entries = [entry for entry in table.entries() if self._matches_spec(entry.key) and self._matches_row(entry)]
        return self._sort(entries)

    def benchmarks(self, table: LatencyTable) -> list[Benchmark]:
        """Return the selected benchmarks; operator and resolution select those that an entry is derived from."""
        from ...models.space.opspec import OpSpec

        benchmarks = table.benchmarks()
        if self.operator or self.resolution:
            specs = [OpSpec.parse(entry.key) for entry in table.entries() if self._matches_spec(entry.key)]
            terms = {key for spec in specs for key in table.components(spec)}
            benchmarks = [benchmark for benchmark in benchmarks if benchmark.key in terms]
        return self._sort([benchmark for benchmark in benchmarks if self._matches_row(benchmark)])

    def require_match(self, table: LatencyTable, benchmarks: bool) -> None:
        """Check that a row is selected if the status is ignored: none of a status is a result, not an error.

        Raises:
            UsageError: no row matches the other filters.
        """
        from ...errors import UsageError

        size = "" if self.resolution is None else "{}x{}".format(*self.resolution)
        filters = {"--match": self.match, "--operator": self.operator, "--resolution": size}
        shown = " ".join(f"{option} {value}" for option, value in filters.items() if value)
        rows = replace(self, status=None)
        if shown and not (rows.benchmarks(table) if benchmarks else rows.entries(table)):
            raise UsageError(f"no {'benchmark' if benchmarks else 'entry'} matches {shown} in {table.path}")

    def _matches_spec(self, key: str) -> bool:
        from ...models.space.opspec import OpSpec

        spec = OpSpec.parse(key)
        return self.operator in (None, spec.operator) and self.resolution in (None, spec.fine)

    def _matches_row(self, row: Entry | Benchmark) -> bool:
        return self.match in row.key and self.status in (None, row.status)

    def _sort(self, rows: list[Any]) -> list[Any]:
        match self.sort:
            case "key":
                return sorted(rows, key=lambda row: row.key)
            case "latency":
                return sorted(rows, key=lambda row: -(row.latency_ms or 0.0))
            case "ci":
                return sorted(rows, key=lambda row: -(row.ci_ms or 0.0) / (row.latency_ms or 1.0))
        return rows


def _make_entry_table(title: str, entries: Sequence[Entry]) -> Table:
    rows = grid(title, "operator", "status", "reason", "latency ms", numbers=1, wrap=["reason"])
    for entry in entries:
        rows.add_row(entry.key, entry.status, entry.reason or "", _format_latency(entry))
    return rows


def _make_benchmark_table(title: str, benchmarks: Sequence[Benchmark]) -> Table:
    rows = grid(title, "benchmark", "kind", "status", "latency ms", "spread", "batches", "samples", "mJ", numbers=5)
    for row in benchmarks:
        key = row.key if len(row.key) <= MAX_KEY_LENGTH else f"{row.key[: MAX_KEY_LENGTH - 3]}..."
        spread = "" if row.spread_pct is None else f"{row.spread_pct:.1f} %"
        energy = "" if row.energy_mj is None else f"{row.energy_mj:.3f}"
        counts = (str(row.visits), str(row.samples))
        rows.add_row(key, row.kind, row.status, _format_latency(row), spread, *counts, energy)
    return rows


def _format_latency(row: Entry | Benchmark) -> str:
    if row.latency_ms is None:
        return ""
    return f"{row.latency_ms:.4f}" if row.ci_ms is None else f"{row.latency_ms:.4f} ± {row.ci_ms:.4f}"


def make_report_tables(report: PredictionReport | None) -> list[Table | str]:
    """Return a table of a verification report, or a line that there is none."""
    if report is None:
        from ...lut.statistics.calibration import MIN_NETWORKS

        return [
            f"Not verified: the error of predictions is unknown, as fewer than {MIN_NETWORKS} networks were measured."
        ]
    table = grid("prediction of unseen networks", "statistic", "prediction", "split half", numbers=2)
    table.add_row("networks", str(report.networks), "")
    table.add_row("mean absolute error", f"{report.mape_pct:.1f} %", f"{report.split_half_mape_pct:.1f} %")
    if report.worst_pct == report.worst_pct:  # NaN in tables of schema 1
        table.add_row("maximum error", f"{report.worst_pct:.1f} %", "")
    table.add_row("bias", f"{report.bias_pct:+.1f} %", "")
    table.add_row("within 5 % / 10 %", f"{report.within_5_pct:.0f} % / {report.within_10_pct:.0f} %", "")
    table.add_row("Kendall tau", f"{report.kendall_tau:.2f}", f"{report.split_half_kendall_tau:.2f}")
    table.add_row("Spearman rho", f"{report.spearman_rho:.2f}", "")
    return [table, _explain_split_half(report)]


def _explain_split_half(report: PredictionReport) -> str:
    """Return a line on the noise of the measurement, with a remark if it exceeds the prediction error."""
    line = "split half: one half of the measurement against the other, i.e. its noise"
    if report.split_half_mape_pct > report.mape_pct:
        line += "; here it exceeds the prediction error, as each half has half the samples: the machine was noisy"
    return f"{line}."


def warn_of_error(path: Path, mape_pct: float) -> str | None:
    """Return a warning if a table's mean prediction error is above `MAX_MAPE_PCT`, else None."""
    if mape_pct <= MAX_MAPE_PCT:
        return None
    return f"warning: {path} has a prediction error of {mape_pct:.0f} %; profile on a quieter machine"


def format_corrections(table: LatencyTable) -> list[str]:
    """Return a line on each scope's calibration; none if the table is not calibrated.

    Raises:
        FileFormatError: the calibration is damaged.
    """
    from ...models.space.protocol import SCOPES

    lines = []
    for scope in SCOPES:
        correction = table.correction(scope)
        if correction is not None:
            half_pct = correction.half_width_pct()
            interval = "error unknown" if half_pct is None else f"90 % interval ± {half_pct:.1f} %"
            lines.append(
                f"calibration, {scope}, form {correction.form}: latency = {correction}; fitted to "
                f"{correction.networks} networks; {interval}"
            )
    return lines


def format_range(table: LatencyTable) -> list[str]:
    """Return a line on the predicted latencies of the space; none while the table cannot predict them."""
    from ...errors import LgcError
    from ...lut.predictor import Predictor

    if table.missing_operators:
        return []
    try:
        return [f"latency of the space's architectures: {Predictor(table.space, table).format_range()}"]
    except LgcError:  # an entry is missing, or the calibration is damaged, which is reported elsewhere
        return []


def format_drift(drift_pct: float | None, measurement: str = "") -> str:
    """Return a line on the machine's drift, of a measurement that is named where there are several."""
    title = f"Machine drift, {measurement}:" if measurement else "Machine drift:"
    if drift_pct is None:
        return f"{title} unknown, as the table has no measured networks."
    direction = "slower" if drift_pct > 0 else "faster"
    factor = 1 + drift_pct / 100
    large = abs(drift_pct) > 50 and factor > 0
    change = f"{max(factor, 1 / factor):.1f}x" if large else f"{abs(drift_pct):.1f} %"
    return (
        f"{title} {change} {direction} than when the table was measured (networks of the table "
        f"measured again); predictions are corrected for it."
    )


def read_report(table: LatencyTable) -> PredictionReport | None:
    """Return the table's verification in scope `dense`; None if it was not verified.

    Raises:
        FileFormatError: the verification is damaged.
    """
    from ...errors import FileFormatError
    from ...lut.statistics.calibration import PredictionReport
    from ...models.space.protocol import DENSE

    stored = table.metadata("verification")
    try:
        return PredictionReport.from_dict(stored[DENSE]) if stored else None
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"{table.path} is a damaged latency table: its verification fails at {error}") from error
