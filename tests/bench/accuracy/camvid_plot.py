"""Picture of the front: test mIoU against latency, with the interval of every point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .camvid import DEFAULT_STRATEGY, LEVELS, PEERS, SIZES

SIZE = "x".join(map(str, SIZES[0]))


def draw_front(groups: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Draw all groups with a latency: ours, peers and random architectures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lgc"  # equal results give equal files
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    ours = [groups[f"{level}-{DEFAULT_STRATEGY}"] for level in LEVELS if f"{level}-{DEFAULT_STRATEGY}" in groups]
    peers = [groups[name] for name in PEERS if name in groups]
    drawn = groups.get("fast-drawn")
    if drawn is not None and SIZE in drawn["latency_ms"]:
        units = drawn["test"]["units"]
        label = "random architectures"
        axes.plot([drawn["latency_ms"][SIZE]] * len(units), units, "_", color="0.6", markersize=10, label=label)
    for members, colour, marker, label in (
        (peers, "tab:orange", "s", "peers"),
        (ours, "tab:blue", "o", "lgc, searched"),
    ):
        placed = [group for group in members if SIZE in group["latency_ms"]]
        points = [(group["latency_ms"][SIZE], group["test"]["mean"]) for group in placed]
        errors = [0 if (low := group["test"]["low"]) is None else group["test"]["mean"] - low for group in placed]
        if points:
            x, y = zip(*points, strict=True)
            style = {"color": colour, "marker": marker, "linestyle": "-" if members is ours else "none"}
            axes.errorbar(x, y, yerr=errors, capsize=4, label=label, **style)
        if members is peers:
            for group, point in zip(placed, points, strict=True):
                note = "" if group["test"]["low"] is not None else " (one seed)"
                axes.annotate(group["name"] + note, point, xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    ticks = [2, 3, 4, 6, 8, 12, 16, 24]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"latency at {SIZE}, ms (ONNX Runtime, one thread)")
    axes.set_ylabel("mIoU on CamVid's test images, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
