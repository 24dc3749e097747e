"""The plot of `lgc-bench`: mIoU over frames a second, a page that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendUnavailableError, UsageError
from ..files import write_atomic

if TYPE_CHECKING:
    from ..profiler.contest import Timing

REAL_TIME_FPS = 30
WIDTH, HEIGHT = 960, 600


def write_plot(rows: Sequence[Timing], path: Path) -> Path:
    """Write the networks whose mIoU is known as points, and the front of those that no other beats in both.

    Raises:
        UsageError: of no network the mIoU is known.
        BackendUnavailableError: plotly is not installed.
        OutputError: the file cannot be written.
    """
    scored = [row for row in rows if row.miou is not None]
    if not scored:
        raise UsageError("no mIoU is known of any of these networks: the plot shows runs that lgc-train has scored")
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise BackendUnavailableError('a plot needs plotly: pip install "lgc[report]"') from error
    figure = graph_objects.Figure()
    groups: dict[str, list[Timing]] = {}
    for row in scored:
        where = f"{row.backend} {row.device} {row.precision}, {row.input}, {row.scope}"
        groups.setdefault(where, []).append(row)
    for where, members in groups.items():
        figure.add_scatter(
            x=[row.fps for row in members],
            y=[row.miou for row in members],
            text=[row.name for row in members],
            customdata=[[row.median_ms, row.p99_ms, row.parameters / 1e6, row.macs / 1e9] for row in members],
            hovertemplate="%{text}: %{y:.1f} % at %{x:.1f} FPS<br>median %{customdata[0]:.2f} ms, p99 "
            "%{customdata[1]:.2f} ms<br>%{customdata[2]:.2f} M parameters, %{customdata[3]:.2f} GMACs<extra></extra>",
            mode="markers+text",
            textposition="top center",
            marker={"size": 11},
            name=where,
        )
        front = front_of(members)
        figure.add_scatter(
            x=[row.fps for row in front],
            y=[row.miou for row in front],
            mode="lines",
            line={"dash": "dot", "width": 1, "color": "grey"},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.update_layout(
        template="simple_white",
        width=WIDTH,
        height=HEIGHT,
        title="mIoU over frame rate: measured side by side, batch 1",
        xaxis={"title": "frames a second (1000 / median ms)", "rangemode": "tozero"},
        yaxis={"title": "mIoU, %"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18},
    )
    if max(row.fps for row in scored) > REAL_TIME_FPS:
        figure.add_vline(x=REAL_TIME_FPS, line={"color": "lightgrey", "width": 1}, annotation_text="30 FPS")
    write_atomic(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def front_of(rows: Sequence[Timing]) -> list[Timing]:
    """Those that no other beats in frame rate and mIoU at once, the fastest first."""
    front: list[Timing] = []
    for row in sorted(rows, key=lambda row: (-row.fps, -(row.miou or 0.0))):
        if not front or (row.miou or 0.0) > (front[-1].miou or 0.0):
            front.append(row)
    return front
