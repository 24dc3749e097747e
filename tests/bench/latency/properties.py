"""Further properties of tables: repeatability, interpolation, speed of predictions."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from lgc.lut import LatencyTable, Predictor, Target
from lgc.lut.exchange.compare import compare_tables
from lgc.lut.statistics.interpolation import Interpolator
from lgc.models import OpSpec, SearchSpace
from lgc.models.space.costs import Costs
from lgc.profiler.profile import profile

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
ARCHITECTURES = 200_000
MIN_SHARE_PCT = 1.0


def repeatability(space: SearchSpace, target: Target, scratch: Path) -> dict[str, Any]:
    """Profile two consecutive tables and return the differences of entries above 1 % of a network."""
    paths = [scratch / f"{name}.lut" for name in "ab"]
    for path in paths:
        profile(space, target, path, networks=4)
    with LatencyTable.open(paths[0]) as a, LatencyTable.open(paths[1]) as b:
        comparison = compare_tables(a, b)
    changes = [abs(change.change_pct) for change in comparison.changes if change.is_relevant(MIN_SHARE_PCT)]
    return {
        "space": space.name,
        "entries": len(changes),
        "drift_pct": (comparison.speed - 1) * 100,
        "median_difference_pct": float(np.median(changes)),
        "p95_difference_pct": float(np.quantile(changes, 0.95)),
    }


def interpolation(space: SearchSpace, target: Target, scratch: Path) -> dict[str, Any]:
    """Profile several input sizes and return the errors of estimating each inner resolution from the others."""
    latencies: dict[OpSpec, float] = {}
    intervals: dict[OpSpec, float] = {}
    for scale in SCALES:
        height, width = (round(length * scale) for length in space.input)
        path = scratch / f"{height}x{width}.lut"
        profile(space.with_input(height, width), target, path, networks=0)
        with LatencyTable.open(path) as table:
            for entry in table.entries():
                latencies[OpSpec.parse(entry.key)] = entry.latency_ms or 0.0
                intervals[OpSpec.parse(entry.key)] = entry.ci_ms or 0.0
    rows = Interpolator(latencies, intervals).leave_one_resolution_out()
    errors = [abs(estimated / measured - 1) * 100 for _, measured, estimated in rows]
    return {
        "space": space.name,
        "scales": SCALES,
        "measured": len(latencies),
        "estimated": len(rows),
        "median_error_pct": float(np.median(errors)),
        "p90_error_pct": float(np.quantile(errors, 0.9)),
    }


def prediction_rate(table: LatencyTable) -> dict[str, Any]:
    """Return the predictions per second on one core, for latency and the other costs."""
    space = table.space
    predictor, costs = Predictor(space, table), Costs(space)
    rng = np.random.default_rng(0)
    sizes = [len(decision.choices) for decision in space.decisions]
    choices = rng.integers(sizes, size=(ARCHITECTURES, len(sizes)))
    columns = {
        "latency": predictor.predict_many,
        "macs": costs.macs,
        "parameters": costs.parameters,
        "peak_activation_bytes": costs.peak_activation_bytes,
    }
    rates = {}
    for name, column in columns.items():
        times = []
        for _ in range(3):
            start = time.process_time()
            column(choices)
            times.append(time.process_time() - start)
        rates[name] = ARCHITECTURES / statistics.median(times)
    return {"space": space.name, "edges": space.edges, "per_second": rates}
