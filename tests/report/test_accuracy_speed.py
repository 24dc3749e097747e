"""Plot of mIoU vs. frame rate."""

from __future__ import annotations

import pytest

from lgc.errors import UsageError
from lgc.report.accuracy_speed import check_plot, group_comparable, select_pareto_front, write_plot

from ..timings import make_timing

ROWS = [make_timing("a", 100, 60.0), make_timing("b", 50, 70.0), make_timing("c", 40, 65.0)]


def test_pareto_front_has_undominated_rows():
    assert [row.name for row in select_pareto_front(ROWS)] == ["a", "b"]
    assert [row.name for row in select_pareto_front(ROWS[::-1])] == ["a", "b"]


def test_plot_shows_scored_networks_only(tmp_path):
    page = write_plot([*ROWS, make_timing("d", 30, None)], tmp_path / "plot.html").read_text()
    assert '"a"' in page
    assert "mIoU" in page
    assert '"d"' not in page.rpartition("Plotly.newPlot")[2]


def test_each_dataset_has_its_own_front(tmp_path):
    rows = [make_timing("a", 100, 96.3, dataset="shapes"), make_timing("b", 50, 28.7, dataset="scenes")]
    assert [[row.name for row in group] for group in group_comparable(rows)] == [["a"], ["b"]]
    page = write_plot(rows, tmp_path / "plot.html").read_text()
    assert "<title>mIoU vs. frame rate</title>" in page
    data = page.rpartition("Plotly.newPlot")[2]
    assert "mIoU: shapes, val" in data
    assert "mIoU: scenes, val" in data


def test_plot_without_points_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="no candidate has an mIoU"):
        check_plot([make_timing("d", 30, None)], tmp_path / "plot.html")
    with pytest.raises(UsageError, match=r"must end in \.html"):
        check_plot(ROWS, tmp_path / "plot.png")
