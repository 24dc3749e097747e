"""Plot of `lgc-bench`: mIoU over frame rate, as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendUnavailableError, UsageError
from ..files import ensure_folder, write_atomic

if TYPE_CHECKING:
    from ..profiler.comparison import Candidate, Timing

REAL_TIME_FPS = 30
WIDTH, HEIGHT = 960, 600
"""Size of the plot in pixels."""


def check_plot(candidates: Sequence[Candidate], path: Path) -> None:
    """Check that a network has a score to plot, that the file can be written, and that plotly is installed.

    Raises:
        UsageError: no network has an mIoU at its timed input size, or `path` does not end in .html.
        OutputError: the folder cannot be created.
        BackendUnavailableError: plotly is not installed.
    """
    if all(candidate.miou is None for candidate in candidates):
        raise UsageError(
            "nothing to plot: no network has an mIoU. Score a run with lgc-train and time it at the input size of its "
            "score"
        )
    if path.suffix != ".html":
        raise UsageError(f"invalid plot file {path}: give a name that ends in .html")
    ensure_folder(path.parent)
    if find_spec("plotly") is None:
        raise BackendUnavailableError('--plot needs plotly: pip install "lgc[report]"')


def write_plot(rows: Sequence[Timing], path: Path) -> Path:
    """Write a plot with the scored networks as points and their Pareto front of frame rate and mIoU as a line.

    Raises:
        OutputError: the file cannot be written.
    """
    from plotly import graph_objects

    scored = [row for row in rows if row.miou is not None]
    figure = graph_objects.Figure()
    groups: dict[str, list[Timing]] = {}
    for row in scored:
        label = f"{row.backend} {row.device} {row.precision}, {row.input}, {row.scope}"
        groups.setdefault(label, []).append(row)
    for label, members in groups.items():
        figure.add_scatter(
            x=[row.fps for row in members],
            y=[row.miou for row in members],
            text=[row.name for row in members],
            customdata=[
                [row.median_ms, row.p99_ms, row.parameters / 1e6, row.macs / 1e9, row.scored_on] for row in members
            ],
            hovertemplate="%{text}: %{y:.1f} % at %{x:.1f} FPS<br>median %{customdata[0]:.2f} ms, p99 "
            "%{customdata[1]:.2f} ms<br>%{customdata[2]:.2f} M parameters, %{customdata[3]:.2f} GMACs"
            "<br>mIoU of %{customdata[4]}<extra></extra>",
            mode="markers+text",
            textposition="top center",
            marker={"size": 11},
            name=label,
        )
    for group in dict.fromkeys((row.input, row.scope) for row in scored):
        front = select_pareto_front([row for row in scored if (row.input, row.scope) == group])
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
        title="mIoU over frame rate, measured side by side, batch 1",
        xaxis={"title": "frames per second (1000 / median ms)", "rangemode": "tozero"},
        yaxis={"title": "mIoU, %"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18},
    )
    if max(row.fps for row in scored) > REAL_TIME_FPS:
        figure.add_vline(
            x=REAL_TIME_FPS,
            line={"color": "lightgrey", "width": 1},
            annotation_text="30 FPS",
            annotation_position="bottom right",
        )
    write_atomic(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def select_pareto_front(rows: Sequence[Timing]) -> list[Timing]:
    """Return the rows that no other row exceeds in both frame rate and mIoU, the fastest first."""
    front: list[Timing] = []
    for row in sorted(rows, key=lambda row: (-row.fps, -(row.miou or 0.0))):
        if not front or (row.miou or 0.0) > (front[-1].miou or 0.0):
            front.append(row)
    return front
