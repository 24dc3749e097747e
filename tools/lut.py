"""`lgc-lut`: look into a latency table, and verify it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import JsonFlag, emit, grid, new_app, progress_bar, run
from .profile import report_tables

app = new_app()

TablePath = Annotated[Path, typer.Argument(metavar="T.lut", help="A latency table.")]


@app.callback()
def lut() -> None:
    """Latency tables: what is in them, and what they are worth."""


@app.command()
def show(
    table: TablePath,
    match: Annotated[str, typer.Option(help="Only entries whose key contains this.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show a table's target, verification and entries.

    Example: lgc-lut show tiny.lut --match sep_conv
    """
    from dataclasses import asdict

    from ..lut.calibration import Report
    from ..lut.table import LatencyTable
    from ..models.plan import DENSE

    with LatencyTable.open(table) as opened:
        entries = [entry for entry in opened.entries() if match in entry.key]
        verification = opened.note("verification")
        content: dict[str, Any] = {
            "lut": str(table),
            "target": asdict(opened.target),
            "space": opened.space.model_dump(mode="json"),
            "protocol": opened.protocol,
            "environment": opened.environment,
            "calibration": opened.note("calibration"),
            "verification": verification,
            "entries": [asdict(entry) for entry in entries],
        }
        height, width = opened.space.input
        title = f"{table}: {opened.space.name} {height}x{width} on {opened.target}"
        machine = f"measured on {opened.environment['device_name']}, {opened.environment['system']}"
    rows = grid(title, "operator", "status", "latency ms", "median ms", "spread", "samples", numbers=4)
    rows.caption = machine
    for entry in entries:
        if entry.latency_ms is None:
            rows.add_row(entry.key, entry.status, "", "", "", entry.reason or "")
        else:
            spread = f"{entry.spread_pct:.1f} %"
            numbers = f"{entry.latency_ms:.4f}", f"{entry.median_ms:.4f}", spread, str(entry.samples)
            rows.add_row(entry.key, entry.status, *numbers)
    emit(content, as_json, rows, *report_tables(Report(**verification[DENSE]) if verification else None))


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
    from ..lut.table import LatencyTable
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


def main() -> None:
    """Run the command."""
    run(app)
