"""Tables and lines on the accuracy of predictions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .console import grid

if TYPE_CHECKING:
    from ...lut.statistics.calibration import PredictionReport


def make_report_tables(report: PredictionReport | None) -> list[Any]:
    """Return a verification report as a table; a line without a report."""
    if report is None:
        return ["Not verified: too few networks were measured. The prediction error of this table is unknown."]
    table = grid("prediction of unseen networks", "", "prediction", "split-half repeatability", numbers=2)
    table.add_row("networks", str(report.networks), "")
    table.add_row("mean absolute error", f"{report.mape_pct:.1f} %", f"{report.split_half_mape_pct:.1f} %")
    if not math.isnan(report.worst_pct):  # schema 1 does not store it
        table.add_row("largest error", f"{report.worst_pct:.1f} %", "")
    table.add_row("bias", f"{report.bias_pct:+.1f} %", "")
    table.add_row("within 5 % / 10 %", f"{report.within_5_pct:.0f} % / {report.within_10_pct:.0f} %", "")
    table.add_row("Kendall tau", f"{report.kendall_tau:.2f}", f"{report.split_half_kendall_tau:.2f}")
    table.add_row("Spearman rho", f"{report.spearman_rho:.2f}", "")
    return [table]


def format_drift(drift_pct: float | None) -> str:
    """Return a line on the machine's drift in percent since the table was measured; None means unknown."""
    if drift_pct is None:
        return "Machine drift is unknown: the table holds no network to measure again."
    direction = "slower" if drift_pct > 0 else "faster"
    return (
        f"Machine drift: {abs(drift_pct):.1f} % {direction} than when the table was measured (networks of the table "
        f"measured again); predictions are corrected for it."
    )
