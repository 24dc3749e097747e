"""Plot of mIoU over frame rate."""

from __future__ import annotations

import pytest

from lgc.errors import UsageError
from lgc.lut import Target
from lgc.models.space.plan import DENSE
from lgc.profiler.comparison import Timing
from lgc.report.accuracy_speed import check_plot, select_pareto_front, write_plot


def make_timing(name: str, fps: float, miou: float | None) -> Timing:
    numbers = dict.fromkeys(
        ("median_ms", "p90_ms", "p99_ms", "iqr_ms", "relative", "relative_low", "relative_high"), 1000 / fps
    )
    target = vars(Target("cpu", "onnxruntime"))
    return Timing(
        name, "run", "64x96", DENSE, **target, parameters=1, macs=1, fps=fps, **numbers, runs=200, max_abs_diff=None,
        argmax_agreement_pct=100.0, miou=miou, scored_on="val",
    )  # fmt: skip


ROWS = [make_timing("a", 100, 60.0), make_timing("b", 50, 70.0), make_timing("c", 40, 65.0)]


def test_pareto_front_has_undominated_rows():
    assert [row.name for row in select_pareto_front(ROWS)] == ["a", "b"]
    assert [row.name for row in select_pareto_front(ROWS[::-1])] == ["a", "b"]


def test_plot_shows_scored_networks_only(tmp_path):
    page = write_plot([*ROWS, make_timing("d", 30, None)], tmp_path / "plot.html").read_text()
    assert '"a"' in page
    assert "mIoU" in page
    assert '"d"' not in page.rpartition("Plotly.newPlot")[2]


def test_plot_without_points_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="no candidate has an mIoU"):
        check_plot([make_timing("d", 30, None)], tmp_path / "plot.html")
    with pytest.raises(UsageError, match=r"must end in \.html"):
        check_plot(ROWS, tmp_path / "plot.png")
