"""Machine drift: the speed of the machine now, relative to its speed when a table was measured.

Latencies measured hours apart, or at different GPU clocks, compare only through networks that were measured both times.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..lut.statistics.measurement import Measurement
from ..lut.table.table import LatencyTable
from ..models.space.protocol import SCOPES, Architecture
from .backends import Workload
from .timing.workloads import NetworkBuilder, network_workload

MAX_REFERENCES = 6
"""Networks of the table that are measured again."""


def add_references(
    table: LatencyTable,
    workloads: Mapping[str, Workload],
    scope: str,
    build_network: NetworkBuilder = network_workload,
    count: int = MAX_REFERENCES,
) -> dict[str, Workload]:
    """Return `workloads` and up to `count` measured networks of the table in the scope."""
    references = _list_references(table, scope)[:count]
    return {**workloads, **{key: build_network(architecture, scope) for key, architecture, _ in references}}


def compute_drift(table: LatencyTable, measurement: Measurement) -> float | None:
    """Return the slowdown of the machine since the table was measured, in percent.

    It is the geometric mean over the reference networks in `measurement`; None without any.
    """
    measured = set(measurement.benchmarks)
    references = [row for scope in SCOPES for row in _list_references(table, scope) if row[0] in measured]
    if not references:
        return None
    from scipy.stats import gmean

    ratios = [measurement.summary(key).latency_ms / table_ms for key, _, table_ms in references]
    return float((gmean(ratios) - 1) * 100)


def correct_for_drift(predicted_ms: float, drift_pct: float | None) -> float:
    """Return a prediction of the table, in milliseconds, at the present speed of the machine."""
    return predicted_ms * (1 + (drift_pct or 0.0) / 100)


def _list_references(table: LatencyTable, scope: str) -> list[tuple[str, Architecture, float]]:
    """Return key, architecture and latency in the table (ms) of the reference networks."""
    return [
        (entry.key, architecture, entry.latency_ms)
        for entry, architecture, at in table.networks()
        if at == scope and entry.latency_ms is not None
    ]
