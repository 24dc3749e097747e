"""What a prediction leaves unexplained: measurement noise, and what factors and pairs of operators would explain."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgc.lut.statistics.calibration import OPERATOR_KINDS, classify_operator
from lgc.lut.table.table import LatencyTable
from lgc.models.space.lgcnet import LGCNetArchitecture
from lgc.models.space.operators import ZERO, is_free
from lgc.models.space.opspec import OpSpec
from lgc.models.space.protocol import Architecture
from lgc.profiler.verification import VerifiedNetwork

Array = NDArray[np.float64]
Features = Mapping[Hashable, float]
Describe = Callable[[LatencyTable, Architecture], Features]
"""Function from a table and a network to the network's features."""
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, math.inf)
"""Candidates for the penalty of added features, chosen without the predicted network; the last one leaves them out."""
KINDS_PENALTY = 1e-3


def explain_remainder(table: LatencyTable, networks: Sequence[VerifiedNetwork]) -> dict[str, Any]:
    """Return the parts of the error on verified networks.

    Returns:
        `noise_pct`, standard deviation of the measurement, and `repeatable_pct`, that of what both halves of it have in
        common and the prediction lacks. `kinds_mape_pct`, mean absolute percentage error of a factor for each kind of
        operator that is fitted to all but the predicted network; in `added`, the change of it by further features, in
        percent, with its standard error.
    """
    predicted = np.array([network.predicted_ms for network in networks])
    measured = np.array([network.measured_ms for network in networks])
    ratios = np.array([network.halves_ms for network in networks]) / predicted[:, None]
    covariance = np.cov(ratios / np.median(ratios, axis=0), rowvar=False)
    repeatable = max(float(covariance[0, 1]), 0.0)
    noise = max(float(np.trace(covariance)) / 2 - repeatable, 0.0)
    kinds = _make_matrix([_sum_kinds(table, network.architecture) for network in networks])
    own = _error_pct(_hold_out(kinds, kinds[:, :0], measured, math.inf), measured)
    added = {}
    for name, describe in ADDED.items():
        x = _make_matrix([describe(table, network.architecture) for network in networks])
        change = _error_pct(_choose_and_hold_out(kinds, x, measured), measured) - own
        error = float(change.std(ddof=1) / math.sqrt(len(change)))
        added[name] = {"features": x.shape[1], "change_pct": float(change.mean()), "standard_error_pct": error}
    return {
        "noise_pct": 100 * (noise / 2) ** 0.5,  # of both halves together
        "repeatable_pct": 100 * repeatable**0.5,
        "kinds_mape_pct": float(own.mean()),
        "added": added,
    }


def _error_pct(predicted: Array, measured: Array) -> Array:
    return np.abs(predicted / measured - 1) * 100


def _sum_by(key: Callable[[OpSpec], Hashable]) -> Describe:
    """Return a function that sums the latencies of a network's operators by their keys."""

    def describe(table: LatencyTable, architecture: Architecture) -> Features:
        sums: defaultdict[Hashable, float] = defaultdict(float)
        for spec in architecture.specs():
            if not is_free(spec):
                sums[key(spec)] += table.latency_ms(spec)
        return sums

    return describe


_sum_kinds = _sum_by(lambda spec: OPERATOR_KINDS[classify_operator(spec)])


def _in_percent(pairs: Callable[[LGCNetArchitecture], Counter[Hashable]]) -> Describe:
    """Return a function that counts pairs, each in hundredths of the network's latency."""

    def describe(table: LatencyTable, architecture: Architecture) -> Features:
        percent = sum(_sum_kinds(table, architecture).values()) / 100
        return {pair: count * percent for pair, count in pairs(LGCNetArchitecture.require(architecture)).items()}

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


ADDED: dict[str, Describe] = {
    "a factor for each operator": _sum_by(lambda spec: spec.operator),
    "a factor for each operator and size": _sum_by(lambda spec: (spec.operator, spec.height)),
    "a term for each pair of operators summed in a node": _in_percent(_count_summands),
    "a term for each pair of operators in sequence": _in_percent(_count_chains),
}


def _make_matrix(rows: Sequence[Features]) -> Array:
    """Return the features of each network, [N, F]."""
    names = sorted({name for row in rows for name in row}, key=str)
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def _hold_out(kinds: Array, x: Array, y: Array, penalty: float) -> Array:
    """Return the prediction of each network by a fit to the others, [N].

    The fit has an intercept, a factor of the total, and the weights of kinds and of added features. Squared weights are
    penalised, against squared relative errors.

    Args:
        kinds: latency by kind of operator, [N, K].
        x: added features, [N, F].
        y: measured latencies, [N].
        penalty: penalty of the added features; without them if infinite.
    """
    x = x[:, :0] if math.isinf(penalty) else x
    columns = np.column_stack([np.ones(len(y)), kinds.sum(axis=1), kinds, x])
    weights = [0.0, 0.0, *[KINDS_PENALTY] * kinds.shape[1], *[penalty] * x.shape[1]]
    shrink = np.diag(np.sqrt(weights))[2:]
    predictions = []
    for index, row in enumerate(columns):
        rest = np.arange(len(y)) != index
        left = np.vstack([columns[rest] / y[rest, None], shrink])
        right = np.concatenate([np.ones(rest.sum()), np.zeros(len(shrink))])
        predictions.append(row @ np.linalg.lstsq(left, right, rcond=None)[0])
    return np.array(predictions)


def _choose_and_hold_out(kinds: Array, x: Array, y: Array) -> Array:
    """Return the same, each with the penalty that predicts the other networks best, [N]."""
    by_penalty = np.array([_hold_out(kinds, x, y, penalty) for penalty in PENALTIES])
    predictions = []
    for index in range(len(y)):
        rest = np.arange(len(y)) != index
        errors = [_error_pct(_hold_out(kinds[rest], x[rest], y[rest], p), y[rest]).mean() for p in PENALTIES]
        predictions.append(by_penalty[int(np.argmin(errors)), index])
    return np.array(predictions)
