"""`lgc-lut`: inspect, verify, compare, calibrate and convert latency tables."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .cli import lut_diff, lut_files
from .cli.console import RESTARTS, emit, grid, new_app, run
from .cli.lut_show import TablePath, format_corrections, format_drift, make_report_tables, read_report, show
from .cli.options import JsonOption, PluginOption, load_operators, make_seed_option
from .cli.progress import progress_bar

app = new_app()

Form = Literal["offset", "affine", "launches", "kinds"]
"""Form of a table's correction, simplest first."""


@app.callback()
def lut() -> None:
    """Inspect, verify, compare, calibrate and convert latency tables."""


app.command()(show)


@app.command()
def verify(
    table: TablePath,
    networks: Annotated[int, typer.Option(help="Number of random networks, none of them in the table.")] = 12,
    seed: Annotated[int, make_seed_option("the network sample")] = 0,
    rounds: Annotated[
        int | None, typer.Option(min=4, help="Sample batches per network.", show_default="as for a table")
    ] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a table's predictions with measurements of random networks.

    None of the networks is in the table.

    Example: lgc-lut verify tiny.lut --networks 20 --seed 1
    """
    from ..lut.table.table import LatencyTable
    from ..profiler.verification import verify as verify_table

    load_operators(plugin)
    with LatencyTable.open(table) as opened, progress_bar() as on_progress:
        result = verify_table(opened, networks, seed, rounds=rounds, on_progress=on_progress)
    content = {**result.report.as_dict(), "drift_pct": result.drift_pct, "lut": str(table), "seed": seed}
    emit(content, as_json, *make_report_tables(result.report), format_drift(result.drift_pct))


app.command()(lut_diff.diff)


@app.command()
def calibrate(
    table: TablePath,
    form: Annotated[
        Form | None,
        typer.Option(help="Form of the correction.", show_default="the best in cross-validation"),
    ] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refit a table's correction to its measured networks.

    The reported error is that on unseen networks, by cross-validation.

    Example: lgc-lut calibrate tiny.lut --form affine
    """
    from ..errors import MeasurementError
    from ..lut.statistics.calibration import MIN_NETWORKS
    from ..lut.table.table import LatencyTable
    from ..profiler.profile import calibrate as calibrate_table

    load_operators(plugin)
    with LatencyTable.open(table) as opened:
        before, earlier = opened.metadata("verification"), read_report(opened)
        report = calibrate_table(opened, form)
        if report is None:
            raise MeasurementError(
                f"{table} has too few measured networks to calibrate, at least {MIN_NETWORKS} are needed: "
                f"{opened.profile_command()} --networks {MIN_NETWORKS}"
            )
        content = {
            "lut": str(table),
            "calibration": opened.metadata("calibration"),
            "before": before,
            "after": opened.metadata("verification"),
        }
        lines = format_corrections(opened)
    rows = grid("prediction of unseen networks", "statistic", "before", "after", numbers=2)
    for name, field in (("mean absolute error", "mape_pct"), ("bias", "bias_pct"), ("within 5 %", "within_5_pct")):
        old = "" if earlier is None else f"{getattr(earlier, field):.1f} %"
        rows.add_row(name, old, f"{getattr(report, field):.1f} %")
    emit(content, as_json, *lines, rows)


app.command()(lut_files.merge)
app.command()(lut_files.export)
app.command("import")(lut_files.import_table)
app.command()(lut_files.upgrade)


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
