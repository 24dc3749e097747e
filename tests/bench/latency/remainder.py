"""What a prediction leaves unexplained: noise of the measurement, and what finer corrections or pairs would explain."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgc.lut.statistics.calibration import OPERATOR_KINDS, classify_operator
from lgc.lut.table.table import LatencyTable
from lgc.models.space.lgcnet import LGCNetArchitecture
from lgc.models.space.operators import ZERO, is_free
from lgc.models.space.protocol import Architecture
from lgc.profiler.verification import VerifiedNetwork

Array = NDArray[np.float64]
Features = Mapping[Hashable, float]
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for the penalty of each correction. The best one is taken, which favours corrections of many features."""


def explain_remainder(table: LatencyTable, networks: Sequence[VerifiedNetwork]) -> dict[str, Any]:
    """Return the parts of the error on verified networks.

    Returns:
        `noise_pct`, standard deviation of the measurement, and `repeatable_pct`, that of what both halves of it have in
        common and the prediction lacks. Mean absolute percentage error and Kendall's tau of each correction that is
        fitted to all but one of the networks and applied to that one, in `corrections`.
    """
    from scipy.stats import kendalltau

    predicted = np.array([network.predicted_ms for network in networks])
    measured = np.array([network.measured_ms for network in networks])
    ratios = np.array([network.halves_ms for network in networks]) / predicted[:, None]
    covariance = np.cov(ratios / np.median(ratios, axis=0), rowvar=False)
    repeatable = max(float(covariance[0, 1]), 0.0)
    noise = max(float(np.trace(covariance)) / 2 - repeatable, 0.0)
    totals = np.array([sum(_sum_kinds(table, network.architecture).values()) for network in networks])
    corrections = {}
    for name, describe in CORRECTIONS.items():
        rows = [describe(table, network.architecture) for network in networks]
        x = _make_matrix(rows)
        held_out = [_hold_out(totals, x, measured, penalty) for penalty in PENALTIES]
        errors = [float(np.abs(values / measured - 1).mean() * 100) for values in held_out]
        best = int(np.argmin(errors))
        tau = float(kendalltau(held_out[best], measured).statistic)
        corrections[name] = {"features": x.shape[1], "mape_pct": errors[best], "kendall_tau": tau}
    return {
        "noise_pct": 100 * (noise / 2) ** 0.5,  # of both halves together
        "repeatable_pct": 100 * repeatable**0.5,
        "corrections": corrections,
    }


def _list_latencies(table: LatencyTable, architecture: Architecture) -> list[tuple[Any, float]]:
    return [(spec, table.latency_ms(spec)) for spec in architecture.specs() if not is_free(spec)]


def _sum_kinds(table: LatencyTable, architecture: Architecture) -> Features:
    """Return the latency by kind of operator, as the correction of tables has it."""
    sums: Counter[Hashable] = Counter()
    for spec, ms in _list_latencies(table, architecture):
        sums[OPERATOR_KINDS[classify_operator(spec)]] += ms  # type: ignore[assignment]
    return sums


def _sum_operators(table: LatencyTable, architecture: Architecture) -> Features:
    """Return the latency by operator."""
    sums: Counter[Hashable] = Counter()
    for spec, ms in _list_latencies(table, architecture):
        sums[spec.operator] += ms  # type: ignore[assignment]
    return sums


def _sum_entries(table: LatencyTable, architecture: Architecture) -> Features:
    """Return the latency by operator and size."""
    sums: Counter[Hashable] = Counter()
    for spec, ms in _list_latencies(table, architecture):
        sums[spec.operator, spec.height] += ms  # type: ignore[assignment]
    return sums


def _add_pairs(pairs: Callable[[LGCNetArchitecture], Counter[Hashable]]) -> Callable[..., Features]:
    """Return the features of kinds, and the counts of pairs, each in hundredths of the network's latency."""

    def describe(table: LatencyTable, architecture: Architecture) -> Features:
        sums = _sum_kinds(table, architecture)
        counts = pairs(LGCNetArchitecture.require(architecture))
        percent = sum(sums.values()) / 100
        return {**sums, **{pair: count * percent for pair, count in counts.items()}}

    return describe


def _count_summands(architecture: LGCNetArchitecture) -> Counter[Hashable]:
    """Count the pairs of operators that are summed in one node."""
    counts: Counter[Hashable] = Counter()
    for cell, names in architecture.iter_cells():
        for node in range(cell.nodes):
            live = sorted(names[edge] for edge in cell.edges_into(node) if names[edge] != ZERO)
            counts.update(itertools.combinations(live, 2))
    return counts


def _count_chains(architecture: LGCNetArchitecture) -> Counter[Hashable]:
    """Count the pairs of operators of which one reads the node that the other one writes."""
    counts: Counter[Hashable] = Counter()
    for cell, names in architecture.iter_cells():
        for edge, name in zip(cell.edges, names, strict=True):
            if edge.source >= len(cell.inputs) and name != ZERO:
                before = (names[other] for other in cell.edges_into(edge.source - len(cell.inputs)))
                counts.update((other, name) for other in before if other != ZERO)
    return counts


CORRECTIONS: dict[str, Callable[[LatencyTable, Architecture], Features]] = {
    "by kind of operator, as in tables": _sum_kinds,
    "by operator": _sum_operators,
    "by operator and size": _sum_entries,
    "by kind, and pairs summed in a node": _add_pairs(_count_summands),
    "by kind, and pairs in sequence": _add_pairs(_count_chains),
}


def _make_matrix(rows: Sequence[Features]) -> Array:
    """Return the features of each network, [N, F]."""
    names = sorted({name for row in rows for name in row}, key=str)
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def _hold_out(totals: Array, x: Array, y: Array, penalty: float) -> Array:
    """Return the prediction of each network by a fit to the others, [N].

    The fit has an intercept, a factor of the total and a weight of each feature. Squared weights are penalised, against
    squared relative errors.
    """
    columns = np.column_stack([np.ones(len(y)), totals, x])
    shrink = np.sqrt(penalty) * np.eye(columns.shape[1])[2:]
    predictions = []
    for index, row in enumerate(columns):
        rest = np.arange(len(y)) != index
        left = np.vstack([columns[rest] / y[rest, None], shrink])
        right = np.concatenate([np.ones(rest.sum()), np.zeros(len(shrink))])
        predictions.append(row @ np.linalg.lstsq(left, right, rcond=None)[0])
    return np.array(predictions)
