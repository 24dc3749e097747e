"""Predictor: the latency of any architecture of a space, as a sum over its slots, corrected by the calibration.

Symbols used here and in the search:

    E        searched edges of the network
    O        operators of the space
    edge_ms  [E, O]  latency of operator o on edge e, with the addition that a live edge costs its node
    fixed_ms         latency of all that is not searched, less one addition a node: its first live edge needs none

so that sum_ms = fixed_ms + sum over e of edge_ms[e, choice(e)] counts exactly what `Architecture.specs` lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import MismatchError, UnknownNameError
from ..models.architecture import Architecture
from ..models.operators import ZERO
from ..models.plan import CORE, DENSE, SCOPES
from ..models.space import SearchSpace
from .calibration import Affine
from .table import LatencyTable

Array = NDArray[np.float64]


class Predictor:
    """Predicts the latency of architectures of `space` from `table`.

    Args:
        space: the search space; it must be the table's.
        table: measured latencies.
        scope: `dense` (the whole way to labels) or `core` (up to the logits).

    Raises:
        MismatchError: the table is of another space.
        MissingEntryError: the table lacks an operator of the space.
        UnknownNameError: no such scope.
    """

    def __init__(self, space: SearchSpace, table: LatencyTable, scope: str = DENSE) -> None:
        if scope not in SCOPES:
            raise UnknownNameError("scope", scope, SCOPES)
        table.require(space=space)
        self.space = space
        self.scope = scope
        self.table_path = table.path
        fitted = (table.note("calibration") or {}).get(scope)
        self.calibration = Affine(**fitted) if fitted else Affine()
        self.calibrated = fitted is not None
        self.edge_ms: Array = np.zeros((space.edges, len(space.operators)))
        self.fixed_ms = 0.0
        live = np.array([name != ZERO for name in space.operators])
        for slot in space.slots():
            if scope == CORE and slot.scope == DENSE:
                continue
            if slot.edge is not None:
                self.edge_ms[slot.edge] += [table.latency_ms(spec) for spec in slot.candidates]
            elif slot.sums:
                cost = table.latency_ms(slot.candidates[0])
                self.edge_ms[list(slot.sums)] += cost * live
                self.fixed_ms -= cost
            else:
                self.fixed_ms += table.latency_ms(slot.candidates[0])

    def predict(self, architecture: Architecture) -> float:
        """Predicted latency of `architecture` in milliseconds, calibrated where the table is.

        Raises:
            MismatchError: it is of another space.
        """
        return float(self.calibration(np.array(self.sum_ms(architecture))))

    def sum_ms(self, architecture: Architecture) -> float:
        """Sum of the table's entries over the slots of `architecture`, in milliseconds, without calibration."""
        if architecture.space.fingerprint != self.space.fingerprint:
            raise MismatchError(
                f"the architecture is of space {architecture.space.name} ({architecture.space.fingerprint}), the "
                f"table {self.table_path} of {self.space.name} ({self.space.fingerprint})"
            )
        return float(self.sums_ms(np.array([architecture.choices]))[0])

    def sums_ms(self, choices: NDArray[np.integer]) -> Array:
        """Uncalibrated sums for an array of architectures: choices [N, E] of operator indices -> [N], milliseconds."""
        picked: Array = self.edge_ms[np.arange(self.edge_ms.shape[0]), choices]
        totals: Array = self.fixed_ms + picked.sum(axis=1)
        return totals

    def predict_many(self, choices: NDArray[np.integer]) -> Array:
        """Calibrated predictions for an array of architectures: choices [N, E] of operator indices -> [N], ms."""
        return self.calibration(self.sums_ms(choices))

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any latency or with the calibration."""
        content = (self.scope, self.edge_ms.tobytes(), self.fixed_ms, self.calibration)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    @cached_property
    def fastest(self) -> Architecture:
        """The valid architecture of the least predicted latency (exact, by dynamic programming over each cell)."""
        choices: list[int] = []
        zero = self.space.operators.index(ZERO) if ZERO in self.space.operators else None
        for cell in self.space.plan.searched:
            costs = self.edge_ms[len(choices) : len(choices) + len(cell.edges)]
            inputs = len(cell.inputs)
            covers = [(1 << edge.source) * (edge.source < inputs) | 1 << (inputs + edge.node) for edge in cell.edges]
            choices += _cheapest_cover(costs, covers, zero)
        return Architecture.from_choices(self.space, choices, selected="fastest")

    @cached_property
    def slowest(self) -> Architecture:
        """The valid architecture of the greatest predicted latency."""
        costs = self.edge_ms.copy()
        if ZERO in self.space.operators:
            costs[:, self.space.operators.index(ZERO)] = -np.inf
        return Architecture.from_choices(self.space, costs.argmax(axis=1).tolist(), selected="slowest")


def _cheapest_cover(costs: Array, covers: Sequence[int], zero: int | None) -> list[int]:
    """Cheapest operators of one cell's edges such that every input and node has a live edge.

    Args:
        costs: [edges, operators], milliseconds.
        covers: for each edge, a bit set of the input and the node that it keeps alive.
        zero: index of the operator that keeps nothing alive, if there is one.
    """
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for cost, cover in zip(costs, covers, strict=True):
        live = cost.copy()
        if zero is not None:
            live[zero] = np.inf
        operator = int(live.argmin())
        options = [(cover, operator)] if zero is None else [(cover, operator), (0, zero)]
        grown: dict[int, tuple[float, list[int]]] = {}
        for covered, (total, chosen) in best.items():
            for gained, option in options:
                state, value = covered | gained, total + float(cost[option])
                if state not in grown or value < grown[state][0]:
                    grown[state] = (value, [*chosen, option])
        best = grown
    everything = 0
    for cover in covers:
        everything |= cover
    return best[everything][1]
