"""Benchmark of `lgc-bench --layers`: sum over the layers, before any scaling, against the whole network, for the peers.

`make bench-layers`. Each network is measured alone; its layers and the network itself are measured in turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.models.nets.peers import PEERS
from lgc.models.nets.sources import PeerSource
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.candidates import build_candidate
from lgc.profiler.layers.breakdown import LayerBreakdown, measure_breakdown
from lgc.profiler.layers.remarks import describe_longest
from lgc.profiler.machine.environment import fingerprint

from ..common.results import page_header, stamp, write_result

CLASSES = 19
SECONDS = 30.0
"""Duration per network and number of threads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--input", nargs=2, type=int, default=(512, 1024), help="height and width")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="duration per network and number of threads")
    parser.add_argument("--threads", nargs="*", type=int, default=(1, 2))
    arguments = parser.parse_args()
    targets = [Target("cpu", "onnxruntime", threads=threads) for threads in arguments.threads]
    size = tuple(arguments.input)
    result: dict[str, Any] = {
        "name": ["layers", "peers", "x".join(map(str, size))],
        **stamp(),
        "environment": fingerprint(targets[0], get_backend(targets[0].backend)),
        "seconds": arguments.seconds,
        "rows": [
            measure_peer(name, size, target, arguments.seconds, refresh_peak=not number)
            for target in targets
            for number, name in enumerate(PEERS)
        ],
    }
    write_result(arguments.out, result, targets[0], render_page(result))


def measure_peer(
    name: str, size: tuple[int, int], target: Target, seconds: float, *, refresh_peak: bool
) -> dict[str, Any]:
    """Return the layers of a peer, and the difference of their sum from the network."""
    candidate = build_candidate(PeerSource(name), size, DENSE, CLASSES)
    breakdown = measure_breakdown(candidate, target, seconds, refresh_peak=refresh_peak)
    print(f"{name}, {target}: {breakdown.excess_pct:+.2f} %", flush=True)
    return make_row(breakdown, macs=candidate.costs.macs)


def make_row(breakdown: LayerBreakdown, macs: int) -> dict[str, Any]:
    """Return a breakdown as a JSON object, with the multiply-accumulates of the whole graph."""
    return {
        "network": breakdown.network,
        "threads": breakdown.target.threads,
        "excess_pct": breakdown.excess_pct,
        "macs": macs,
        "longest": describe_longest(breakdown),
        **breakdown.as_dict(),
    }


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    rows = result["rows"]
    peaks = {row["threads"]: row["peak"] for row in rows}
    return "\n".join(
        [
            *page_header(f"Layers of the peers, {result['name'][-1]}", result),
            f"Written by `make bench-layers`: `lgc-bench --layers` on the peers, random weights, scope dense, fp32, "
            f"{result['seconds']:.0f} s each. The sum is over the layers with ONNX Runtime's profiler on, before any "
            "scaling; the network runs without it, in turns with the profiled runs, by the same statistic. Spread: "
            "half the interquartile range of the network's batches.",
            "",
            "| network | threads | layers | sum of layers, ms | network, ms | difference, % | per layer, us "
            "| spread, % | runs | MACs in layers, % |",
            "|" + " --- |" * 10,
            *map(_format_row, rows),
            "",
            f"Largest difference: {max(abs(row['excess_pct']) for row in rows):.1f} %.",
            "",
            "## Peaks",
            "",
            *(f"- {_format_peak(threads, peak)}" for threads, peak in peaks.items()),
            "",
            "## Longest layers, one thread" if rows[0]["threads"] == 1 else "## Longest layers",
            "",
            *(
                line
                for row in rows
                if row["threads"] == rows[0]["threads"]
                for line in (f"{row['network']}:", "", *row["longest"], "")
            ),
        ]
    )


def _format_row(row: dict[str, Any]) -> str:
    layers = row["layers"]
    per_layer_us = (row["sum_ms"] - row["network_ms"]) * 1e3 / len(layers)
    attributed_pct = 100 * sum(layer["macs"] or 0 for layer in layers) / row["macs"]
    return (
        f"| {row['network']} | {row['threads']} | {len(layers)} | {row['sum_ms']:.3f} | {row['network_ms']:.3f} "
        f"| {row['excess_pct']:+.2f} | {per_layer_us:+.1f} | {row['spread_pct']:.1f} | {row['layer_runs']} "
        f"| {attributed_pct:.2f} |"
    )


def _format_peak(threads: int, peak: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate / 1e9:.1f} GB/s for {size / 2**20:g} MiB" for size, rate in peak["bandwidths"])
    return f"{threads} threads: {peak['macs_per_s'] / 1e9:.1f} GMACs/s; {rates}; measured in {peak['seconds']:.0f} s"


if __name__ == "__main__":
    main()
