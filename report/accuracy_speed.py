"""Plot of `lgc-bench`: mIoU vs. frames per second, as a self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendUnavailableError, UsageError
from ..files import ensure_folder, write_atomic
from .terminal import format_quantity

if TYPE_CHECKING:
    from plotly.graph_objects import Scatter

    from ..profiler.comparison import Candidate, Timing

TITLE = "mIoU vs. frame rate"
REAL_TIME_FPS = 30
WIDTH, HEIGHT = 960, 600
"""Size of the plot in pixels."""


def check_plot(candidates: Sequence[Candidate], path: Path) -> None:
    """Check, before anything is timed, that the plot will have points and can be written.

    Raises:
        UsageError: no candidate has an mIoU at its input size, or `path` does not end in .html.
        OutputError: the folder cannot be created.
        BackendUnavailableError: plotly is not installed.
    """
    if all(candidate.miou is None for candidate in candidates):
        raise UsageError(
            "no candidate has an mIoU: the plot shows runs that lgc-train has evaluated, at their input size"
        )
    if path.suffix != ".html":
        raise UsageError(f"invalid plot file {path}: its name must end in .html")
    ensure_folder(path.parent)
    if find_spec("plotly") is None:
        raise BackendUnavailableError('a plot needs plotly: pip install "lgc[report]"')


def write_plot(rows: Sequence[Timing], path: Path) -> Path:
    """Write the networks with an mIoU as points, and the Pareto fronts of comparable ones as lines.

    Raises:
        OutputError: the file cannot be written.
    """
    from plotly import graph_objects

    scored = [row for row in rows if row.miou is not None]
    figure = graph_objects.Figure()
    groups: dict[str, list[Timing]] = {}
    for row in scored:
        name = f"{row.backend} {row.device} {row.precision}, {row.input}, {row.scope}; mIoU: {describe_score(row)}"
        groups.setdefault(name, []).append(row)
    for name, members in groups.items():
        figure.add_trace(_make_points(name, members))
    for members in group_comparable(scored):
        front = select_pareto_front(members)
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
        title=f"{TITLE}: measured side by side, batch 1",
        xaxis={"title": "frames per second (1000 / median ms)", "rangemode": "tozero"},
        yaxis={"title": "mIoU, %"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18},
    )
    if max(row.fps for row in scored) > REAL_TIME_FPS:
        figure.add_vline(
            x=REAL_TIME_FPS,
            line={"color": "lightgrey", "width": 1},
            annotation_text=f"{REAL_TIME_FPS} FPS",
            annotation_position="bottom right",
        )
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    write_atomic(path, page.replace("<head>", f"<head><title>{TITLE}</title>", 1))
    return path


def _make_points(name: str, rows: Sequence[Timing]) -> Scatter:
    """Return the points of one target, input size and scope."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=[row.fps for row in rows],
        y=[row.miou for row in rows],
        text=[row.name for row in rows],
        customdata=[
            [row.median_ms, row.p99_ms, format_quantity(row.parameters), format_quantity(row.macs), describe_score(row)]
            for row in rows
        ],
        hovertemplate="%{text}: %{y:.1f} % at %{x:.1f} FPS<br>median %{customdata[0]:.2f} ms, p99 "
        "%{customdata[1]:.2f} ms<br>%{customdata[2]} parameters, %{customdata[3]} MACs"
        "<br>mIoU on %{customdata[4]}<extra></extra>",
        mode="markers+text",
        textposition="top center",
        marker={"size": 11},
        name=name,
    )


def describe_score(network: Candidate | Timing) -> str | None:
    """Return dataset, split and resolution of the mIoU, equal for comparable ones; None without an mIoU."""
    return None if network.miou is None else f"{network.dataset or 'unknown dataset'}, {network.scored_on}"


def group_comparable(rows: Sequence[Timing]) -> list[list[Timing]]:
    """Return the rows of each input size, scope, batch and test data: both frame rates and scores compare."""
    groups: dict[tuple[object, ...], list[Timing]] = {}
    for row in rows:
        groups.setdefault((row.input, row.scope, row.batch, describe_score(row)), []).append(row)
    return [*groups.values()]


def select_pareto_front(rows: Sequence[Timing]) -> list[Timing]:
    """Return the rows that no other row beats in both frame rate and mIoU, fastest first."""
    front: list[Timing] = []
    for row in sorted(rows, key=lambda row: (-row.fps, -(row.miou or 0.0))):
        if not front or (row.miou or 0.0) > (front[-1].miou or 0.0):
            front.append(row)
    return front
