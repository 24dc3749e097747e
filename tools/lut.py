"""`lgc-lut`: show, verify, compare, calibrate and convert latency tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli import lut_files
from .cli.console import emit, grid, new_app, run, say
from .cli.lut_show import TablePath, format_corrections, read_report, show
from .cli.options import JsonOption, make_seed_option, parse_percent
from .cli.progress import progress_bar
from .cli.report_tables import format_drift, make_report_tables

if TYPE_CHECKING:
    from rich.table import Table

    from ..lut.exchange.compare import EntryChange, TableComparison

app = new_app()

MAX_ROWS, MAX_KEYS = 40, 10
"""Printed rows of a comparison, and printed keys that only one table has; --json has all."""


@app.callback()
def lut() -> None:
    """Show, verify, compare, calibrate and convert latency tables."""


app.command()(show)


@app.command()
def verify(
    table: TablePath,
    networks: Annotated[
        int, typer.Option(help="Number of random networks to measure, none of them in the table.")
    ] = 12,
    seed: Annotated[int, make_seed_option("of the network sample")] = 0,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Maximum sample batches per network.", show_default="until the confidence interval is narrow enough"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure random networks that are not in the table and compare their latencies with its predictions.

    Example: lgc-lut verify tiny.lut --networks 20 --seed 1
    """
    from ..lut.table.table import LatencyTable
    from ..profiler.verification import verify as verify_table

    with LatencyTable.open(table) as opened, progress_bar() as on_progress:
        result = verify_table(opened, networks, seed, rounds=rounds, on_progress=on_progress)
    content = {**result.report.as_dict(), "drift_pct": result.drift_pct, "lut": str(table), "seed": seed}
    emit(content, as_json, *make_report_tables(result.report), format_drift(result.drift_pct))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A.lut", help="Baseline table.")],
    b: Annotated[Path, typer.Argument(metavar="B.lut", help="Table to compare with the baseline.")],
    threshold: Annotated[
        str, typer.Option(metavar="PERCENT", help="Exit with 1 if an entry changed by more than this.")
    ] = "5%",
    least_share: Annotated[
        str,
        typer.Option(
            metavar="PERCENT", help="Ignore entries with less than this share of a network's latency in the threshold."
        ),
    ] = "1%",
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only entries whose key contains this text.")] = "",
    as_json: JsonOption = False,
) -> int:
    """Show which latencies changed from table A to table B beyond noise, corrected for machine drift.

    Exit code 1 if an entry changed beyond noise and beyond the threshold. The drift is the median change of the
    carriers that both tables measured, or of the entries if there are none: a change common to all of them counts as
    drift.

    Example: lgc-lut diff monday.lut today.lut --threshold 5%
    """
    from ..lut.exchange.compare import compare_tables
    from ..lut.table.table import LatencyTable

    threshold_pct, share_pct = parse_percent(threshold), parse_percent(least_share)
    with LatencyTable.open(a) as opened_a, LatencyTable.open(b) as opened_b:
        comparison = compare_tables(opened_a, opened_b, match)
    if comparison.differences:
        say(f"warning: the tables also differ in {'; '.join(comparison.differences)}")
    unknown = sum(change.low_pct is None for change in comparison.changes)
    if unknown:
        say(f"warning: {unknown} entries have no confidence interval in one of the tables: their noise is unknown")
    beyond = comparison.select_beyond(threshold_pct, share_pct)
    content: dict[str, Any] = {
        "a": str(a),
        "b": str(b),
        "drift_pct": comparison.drift_pct,
        "scatter_pct": None if comparison.scatter is None else comparison.scatter * 100,
        "common": len(comparison.changes),
        "moved": len(comparison.moved),
        "beyond_threshold": len(beyond),
        "median_change_pct": comparison.quantile_pct(0.5, share_pct),
        "p95_change_pct": comparison.quantile_pct(0.95, share_pct),
        "noise_pct": comparison.noise_pct(share_pct),
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
        "differences": list(comparison.differences),
        "entries": [_convert_change(change, change in beyond) for change in comparison.changes],
    }
    emit(content, as_json, *_make_diff_tables(comparison, beyond, threshold_pct, share_pct))
    return 1 if beyond else 0


def _convert_change(change: EntryChange, beyond_threshold: bool) -> dict[str, Any]:
    return {**asdict(change), "beyond_noise": change.beyond_noise, "beyond_threshold": beyond_threshold}


def _make_diff_tables(
    comparison: TableComparison, beyond: list[EntryChange], threshold_pct: float, share_pct: float
) -> list[Table | str]:
    """Return the significant changes as a table, and lines on drift, noise and entries of one table."""
    significant = [change for change in comparison.moved if change.is_relevant(share_pct)]
    shown = significant[:MAX_ROWS]
    rows = grid("changed beyond noise", "operator", "A ms", "B ms without drift", "change", "±", "share", numbers=5)
    for change in shown:
        half_width = (change.high_pct or 0.0) - change.change_pct
        share = "" if change.share_pct is None else f"{change.share_pct:.1f} %"
        b_ms = change.b_ms / comparison.speed
        numbers = (f"{change.a_ms:.4f}", f"{b_ms:.4f}", f"{change.change_pct:+.1f} %", f"{half_width:.1f} %")
        rows.add_row(change.key, *numbers, share)
    hidden = len(significant) - len(shown)
    lines = [f"... and {hidden} more; --json lists all"] if hidden else []
    lines += [*_format_changes(comparison, beyond, threshold_pct, share_pct), *_format_unique_keys(comparison)]
    return [rows, *lines] if shown else list(lines)


def _format_changes(
    comparison: TableComparison, beyond: list[EntryChange], threshold_pct: float, share_pct: float
) -> list[str]:
    """Return lines on the drift, the number of changes and the noise."""
    num_moved = len(comparison.moved)
    num_significant = sum(change.is_relevant(share_pct) for change in comparison.moved)
    scatter = (
        "the scatter between runs is unknown, so the noise is underestimated"
        if comparison.scatter is None
        else f"scatter between runs: {comparison.scatter * 100:.1f} %, included in the noise"
    )
    lines = [
        f"Drift from A to B: {comparison.drift_pct:+.1f} % (median of {comparison.sentinels}), corrected above; "
        f"{scatter}.",
        f"{len(comparison.changes)} common entries: {len(beyond)} changed by more than {threshold_pct:g} %, "
        f"{num_significant - len(beyond)} by less, {num_moved - num_significant} below {share_pct:g} % of a network "
        f"changed, {len(comparison.changes) - num_moved} did not change beyond noise.",
    ]
    median_pct, p95_pct = (comparison.quantile_pct(quantile, share_pct) for quantile in (0.5, 0.95))
    noise_pct = comparison.noise_pct(share_pct)
    if median_pct is not None:
        noise = "" if noise_pct is None else f"; noise about ± {noise_pct:.1f} %"
        lines.append(
            f"Entries above {share_pct:g} % of a network: median change {median_pct:.1f} %, 95 % of them within "
            f"{p95_pct:.1f} %{noise}."
        )
    return lines


def _format_unique_keys(comparison: TableComparison) -> list[str]:
    """Return lines on the entries that only one of the tables has."""
    lines = []
    for name, keys in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"only in {name}: {key}" for key in keys[:MAX_KEYS]]
        lines += [f"only in {name}: {len(keys) - MAX_KEYS} more"] if len(keys) > MAX_KEYS else []
    return lines


@app.command()
def calibrate(
    table: TablePath,
    form: Annotated[
        str | None,
        typer.Option(
            help="Form of the correction: offset, affine, launches or kinds.", show_default="chosen by cross-validation"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a table's correction again to the networks it holds, and report the cross-validated prediction error.

    Example: lgc-lut calibrate tiny.lut --form affine
    """
    from ..errors import MeasurementError
    from ..lut.statistics.calibration import MIN_NETWORKS
    from ..lut.table.table import LatencyTable
    from ..profiler.profile import calibrate as calibrate_table

    with LatencyTable.open(table) as opened:
        before, earlier = opened.metadata("verification"), read_report(opened)
        report = calibrate_table(opened, form)
        if report is None:
            raise MeasurementError(
                f"{table} holds too few measured networks to calibrate, {MIN_NETWORKS} are needed: "
                f"{opened.profile_command()} --networks {MIN_NETWORKS}"
            )
        content = {
            "lut": str(table),
            "calibration": opened.metadata("calibration"),
            "before": before,
            "after": opened.metadata("verification"),
        }
        lines = format_corrections(opened)
    rows = grid("prediction of unseen networks", "", "before", "after", numbers=2)
    for name, key in (("mean absolute error", "mape_pct"), ("bias", "bias_pct"), ("within 5 %", "within_5_pct")):
        old = "" if earlier is None else f"{getattr(earlier, key):.1f} %"
        rows.add_row(name, old, f"{getattr(report, key):.1f} %")
    emit(content, as_json, *lines, rows)


app.command()(lut_files.merge)
app.command()(lut_files.export)
app.command("import")(lut_files.import_table)
app.command()(lut_files.upgrade)


def main() -> None:
    """Run the command."""
    run(app)
