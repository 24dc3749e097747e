"""`lgc-lut`: latency tables looked into, verified, compared, calibrated, and turned into other files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli import lut_files
from .cli.console import JsonFlag, emit, grid, new_app, parse_percent, progress_bar, run, say
from .cli.lut_show import TablePath, correction_lines, show, stored_report
from .profile import report_tables

if TYPE_CHECKING:
    from rich.table import Table

    from ..lut.exchange.compare import EntryChange, TableComparison

app = new_app()

MOST_ROWS, MOST_KEYS = 40, 10
"""Rows of a comparison, and keys that only one table has, that are printed for people; --json has all."""


@app.callback()
def lut() -> None:
    """Latency tables: what is in them, what they are worth, and what becomes of them."""


app.command()(show)


@app.command()
def verify(
    table: TablePath,
    networks: Annotated[int, typer.Option(help="Random networks to measure, none of them in the table.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the networks.")] = 0,
    rounds: Annotated[int | None, typer.Option(help="Visits to each network.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure random networks that the table has never seen, and compare with its predictions.

    Example: lgc-lut verify tiny.lut --networks 20 --seed 1
    """
    from ..lut.table.table import LatencyTable
    from ..profiler.verification import verify as verify_table

    with LatencyTable.open(table) as opened, progress_bar() as on_progress:
        found = verify_table(opened, networks, seed, rounds=rounds, on_progress=on_progress)
    content = {**found.report.as_dict(), "drift_pct": found.drift_pct, "lut": str(table), "seed": seed}
    emit(content, as_json, *report_tables(found.report), drift_line(found.drift_pct))


def drift_line(drift_pct: float | None) -> str:
    """What the machine's drift means for a comparison, for people."""
    if drift_pct is None:
        return "The table holds no network to tell whether this machine runs as fast as when the table was made."
    pace = "slower" if drift_pct > 0 else "faster"
    return (
        f"This machine now runs {abs(drift_pct):.1f} % {pace} than when the table was made (by networks of the table "
        f"measured again); predictions are taken at its present speed."
    )


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A.lut", help="The table to start from.")],
    b: Annotated[Path, typer.Argument(metavar="B.lut", help="The table to hold against it.")],
    threshold: Annotated[str, typer.Option(metavar="PERCENT", help="Exit with 1 if an entry moved by more.")] = "5%",
    least_share: Annotated[
        str, typer.Option(metavar="PERCENT", help="Leave entries below this share of a network's latency out of that.")
    ] = "1%",
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only entries whose key contains this.")] = "",
    as_json: JsonFlag = False,
) -> int:
    """Show what moved from table A to table B beyond noise, the two machines' speeds, or hours, divided out.

    Exit code 1 if an entry moved beyond noise and beyond the threshold. Sentinels tell the speed: the carriers of both
    tables, or where there are none, the entries; so a change that is common to all of them shows as drift.

    Example: lgc-lut diff monday.lut today.lut --threshold 5%
    """
    from ..lut.exchange.compare import compare_tables
    from ..lut.table.table import LatencyTable

    threshold_pct, share_pct = parse_percent(threshold), parse_percent(least_share)
    with LatencyTable.open(a) as opened_a, LatencyTable.open(b) as opened_b:
        found = compare_tables(opened_a, opened_b, match)
    if found.differences:
        say(f"remark: the tables differ in more than their latencies: {'; '.join(found.differences)}")
    unknown = sum(change.low_pct is None for change in found.changes)
    if unknown:
        say(f"remark: {unknown} entries have no interval in one of the tables, so nothing is said of their noise")
    beyond = found.select_beyond(threshold_pct, share_pct)
    content: dict[str, Any] = {
        "a": str(a),
        "b": str(b),
        "drift_pct": found.drift_pct,
        "scatter_pct": None if found.scatter is None else found.scatter * 100,
        "common": len(found.changes),
        "moved": len(found.moved),
        "beyond_threshold": len(beyond),
        "median_change_pct": found.quantile_pct(0.5, share_pct),
        "p95_change_pct": found.quantile_pct(0.95, share_pct),
        "noise_pct": found.noise_pct(share_pct),
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "differences": list(found.differences),
        "entries": [_change_row(change, change in beyond) for change in found.changes],
    }
    emit(content, as_json, *_change_tables(found, beyond, threshold_pct, share_pct))
    return 1 if beyond else 0


def _change_row(change: EntryChange, beyond_threshold: bool) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(change), "beyond_noise": change.beyond_noise, "beyond_threshold": beyond_threshold}


def _change_tables(
    found: TableComparison, beyond: list[EntryChange], threshold_pct: float, share_pct: float
) -> list[Table | str]:
    """The entries that moved and weigh, and lines on the rest."""
    weighty = [change for change in found.moved if change.is_relevant(share_pct)]
    shown = weighty[:MOST_ROWS]
    rows = grid("moved beyond noise", "operator", "A ms", "B ms at A's speed", "change", "±", "share", numbers=5)
    for change in shown:
        half = (change.high_pct or 0.0) - change.change_pct
        share = "" if change.share_pct is None else f"{change.share_pct:.1f} %"
        at_a = change.b_ms / found.speed
        numbers = (f"{change.a_ms:.4f}", f"{at_a:.4f}", f"{change.change_pct:+.1f} %", f"{half:.1f} %")
        rows.add_row(change.key, *numbers, share)
    lines = [f"... and {len(weighty) - len(shown)} more; --json lists all"] if len(weighty) > len(shown) else []
    scatter = (
        "how runs scatter is not known, so noise is underrated"
        if found.scatter is None
        else f"besides, what was timed scatters by {found.scatter * 100:.1f} % between the two, which counts as noise"
    )
    lines.append(
        f"Latencies in B: {found.drift_pct:+.1f} % (median of {found.sentinels}), which is divided out; {scatter}."
    )
    lines.append(
        f"{len(found.changes)} common entries: {len(beyond)} moved by more than {threshold_pct:g} %, "
        f"{len(weighty) - len(beyond)} less, {len(found.moved) - len(weighty)} moved that are below {share_pct:g} % of "
        f"a network, {len(found.changes) - len(found.moved)} did not move beyond noise."
    )
    median, most = (found.quantile_pct(quantile, share_pct) for quantile in (0.5, 0.95))
    noise = found.noise_pct(share_pct)
    if median is not None:
        told = "" if noise is None else f"; noise is about ± {noise:.1f} %"
        lines.append(f"Entries that weigh: median change {median:.1f} %, 95 % of them within {most:.1f} %{told}.")
    for name, keys in (("A", found.only_a), ("B", found.only_b)):
        lines += [f"only in {name}: {key}" for key in keys[:MOST_KEYS]]
        lines += [f"only in {name}: {len(keys) - MOST_KEYS} more"] if len(keys) > MOST_KEYS else []
    return [rows, *lines] if shown else list(lines)


@app.command()
def calibrate(
    table: TablePath,
    form: Annotated[
        str | None, typer.Option(help="offset, affine, launches or kinds; by default cross-validation chooses.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a table's correction anew on the networks that it holds, and say how well it predicts them unseen.

    Example: lgc-lut calibrate tiny.lut --form affine
    """
    from ..errors import MeasurementError
    from ..lut.statistics.calibration import MIN_NETWORKS
    from ..lut.table.table import LatencyTable
    from ..profiler.profile import calibrate as calibrate_table

    with LatencyTable.open(table) as opened:
        before, earlier = opened.metadata("verification"), stored_report(opened)
        report = calibrate_table(opened, form)
        if report is None:
            raise MeasurementError(
                f"{table} holds too few measured networks to calibrate with, {MIN_NETWORKS} are needed: "
                f"{opened.profile_command()} --networks {MIN_NETWORKS}"
            )
        content = {
            "lut": str(table),
            "calibration": opened.metadata("calibration"),
            "before": before,
            "after": opened.metadata("verification"),
        }
        lines = correction_lines(opened)
    rows = grid("prediction of unseen networks", "", "before", "after", numbers=2)
    for name, field in (("mean absolute error", "mape_pct"), ("bias", "bias_pct"), ("within 5 %", "within_5_pct")):
        was = "" if earlier is None else f"{getattr(earlier, field):.1f} %"
        rows.add_row(name, was, f"{getattr(report, field):.1f} %")
    emit(content, as_json, *lines, rows)


app.command()(lut_files.merge)
app.command()(lut_files.export)
app.command("import")(lut_files.import_table)
app.command()(lut_files.upgrade)


def main() -> None:
    """Run the command."""
    run(app)
