"""Predictor: the latency of any architecture of a space, as a sum over its slots, each corrected by the calibration.

Symbols used here and in the search:

    E        searched edges of the network
    O        operators of the space
    H        widths that the head may have, `SearchSpace.heads`
    edge_ms  [E, O]  what operator o on edge e adds, with the addition that a live edge costs its node
    fixed_ms         all that is not searched, the head of the space's own width among it, and the intercept, less one
                     addition a node: its first edge needs none
    head_ms  [H]     what the head of each width takes more than that of the space's own, where it is 0

so that latency = fixed_ms + head_ms[head] + sum over e of edge_ms[e, choice(e)] counts exactly what
`Architecture.specs` lists. The correction is linear in the operators, and is part of all three.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import MismatchError, UnknownNameError, UsageError
from ..models.space.choices import check_choices, check_heads, gather_sum
from ..models.space.costs import Costs
from ..models.space.lgcnet import Architecture, SearchSpace
from ..models.space.operators import ZERO, is_free
from ..models.space.opspec import OpSpec
from ..models.space.plan import CORE, DENSE, SCOPES, CellPlan
from .statistics.calibration import Correction
from .table.table import LatencyTable

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where a latency lies with probability `calibration.LEVEL`, milliseconds."""

    low_ms: float
    high_ms: float


class Predictor:
    """Predicts the latency of architectures of `space` from `table`.

    Args:
        space: the search space; the table must hold its operators.
        table: measured latencies.
        scope: `dense` (the whole way to labels) or `core` (up to the logits).

    Raises:
        MismatchError: the table is of another space.
        MissingEntryError: the table lacks an operator of the space.
        UnknownNameError: no such scope.
        FileFormatError: the table's calibration is damaged.
    """

    def __init__(self, space: SearchSpace, table: LatencyTable, scope: str = DENSE) -> None:
        if scope not in SCOPES:
            raise UnknownNameError("scope", scope, SCOPES)
        table.require(space=space)
        self.space = space
        self.scope = scope
        self.table_path = table.path
        self.device = table.target.device
        correction = table.correction(scope)
        self.calibrated = correction is not None
        self.correction = correction or Correction()
        self.edge_ms: Array = np.zeros((space.edges, len(space.operators)))
        self.head_ms: Array = np.zeros(len(space.heads))
        self.fixed_ms = self.correction.intercept_ms
        known: dict[OpSpec, float] = {}
        live = np.array([name != ZERO for name in space.operators])
        for slot in space.slots():
            if scope == CORE and slot.scope == DENSE:
                continue
            costs = [self.cost_ms(table, spec, known) for spec in slot.candidates]
            if slot.edge is not None:
                self.edge_ms[slot.edge] += costs
            elif slot.sums:
                self.edge_ms[list(slot.sums)] += costs[0] * live
                self.fixed_ms -= costs[0]
            elif slot.head:
                self.head_ms += np.array(costs) - costs[space.default_head]
                self.fixed_ms += costs[space.default_head]
            else:
                self.fixed_ms += costs[0]

    def cost_ms(self, table: LatencyTable, spec: OpSpec, known: dict[OpSpec, float] | None = None) -> float:
        """What an operator adds to a network, corrected, in milliseconds; 0 where it takes no time.

        Args:
            table: the predictor's own.
            spec: the operator.
            known: what was asked before, which is kept there.

        Raises:
            MissingEntryError: the table lacks it.
        """
        memory = {} if known is None else known
        if spec not in memory:
            memory[spec] = 0.0 if is_free(spec) else self.correction.of(spec, table.latency_ms(spec))
        return memory[spec]

    def predict(self, architecture: Architecture) -> float:
        """Predicted latency of `architecture` in milliseconds, calibrated where the table is.

        Raises:
            MismatchError: it is of another space.
        """
        if architecture.space.fingerprint != self.space.fingerprint:
            raise MismatchError(
                f"the architecture is of space {architecture.space.name} ({architecture.space.fingerprint}), the "
                f"table {self.table_path} of {self.space.name} ({self.space.fingerprint})"
            )
        return float(self.predict_many(np.array([architecture.choices]), np.array([architecture.head]))[0])

    def interval(self, architecture: Architecture) -> Interval | None:
        """Where the latency lies, by the calibration's errors on networks it had not seen; None if not calibrated.

        Raises:
            MismatchError: it is of another space.
        """
        half_pct = self.correction.half_width_pct()
        if half_pct is None:
            return None
        predicted = self.predict(architecture)
        return Interval(max(predicted * (1 - half_pct / 100), 0.0), predicted * (1 + half_pct / 100))

    def margin(self, quantile: float) -> float:
        """Factor from a prediction to the latency that is not exceeded with probability `quantile`.

        Raises:
            UsageError: the table was never calibrated, so its errors are unknown.
        """
        above_pct = self.correction.above_pct(quantile)
        if above_pct is None:
            raise UsageError(
                f"{self.table_path} was never calibrated on whole networks, so no quantile of its errors is known: "
                f"leave the quantile out, or calibrate with lgc-lut calibrate {self.table_path}"
            )
        return 1 + above_pct / 100

    def predict_many(self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None = None) -> Array:
        """Predictions for arrays of architectures, [N], milliseconds.

        Args:
            choices: operator indices, [N, E].
            heads: index of each one's width into the space's `heads`, [N]; None takes the space's own.

        Raises:
            UsageError: choices or heads are no such arrays.
        """
        choices = check_choices(choices, self.space)
        heads = check_heads(heads, self.space, len(choices))
        latency: Array = self.fixed_ms + gather_sum(self.edge_ms, choices) + self.head_ms[heads]
        return latency

    def to_frame(self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None = None) -> pd.DataFrame:
        """Predictions beside the other costs, a row for each architecture; choices and heads as in `predict_many`.

        Columns: latency_ms, low_ms and high_ms (the 90 % interval; NaN if not calibrated), macs, parameters,
        peak_activation_bytes (of float32 values; see `models.costs`).
        """
        import pandas as pd

        latency, costs = self.predict_many(choices, heads), Costs(self.space)
        half = (self.correction.half_width_pct() or np.nan) / 100
        return pd.DataFrame(
            {
                "latency_ms": latency,
                "low_ms": np.maximum(latency * (1 - half), 0.0),
                "high_ms": latency * (1 + half),
                "macs": costs.macs(choices, heads),
                "parameters": costs.parameters(choices, heads),
                "peak_activation_bytes": costs.peak_activation_bytes(choices, heads, scope=self.scope),
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any latency or with the calibration."""
        content: tuple[object, ...] = (self.scope, self.edge_ms.tobytes(), self.fixed_ms)
        if len(self.head_ms) > 1:  # fingerprints of spaces with one head stay as they were
            content += (self.head_ms.tobytes(),)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    @cached_property
    def fastest(self) -> Architecture:
        """The valid architecture of the least predicted latency (exact, by dynamic programming over each cell)."""
        choices: list[int] = []
        zero = self.space.operators.index(ZERO) if ZERO in self.space.operators else None
        for cell in self.space.plan.searched_cells:
            costs = self.edge_ms[len(choices) : len(choices) + len(cell.edges)]
            choices += cheapest_operators(cell, costs, zero)
        return Architecture.from_choices(self.space, choices, int(self.head_ms.argmin()), selected="fastest")

    @cached_property
    def slowest(self) -> Architecture:
        """The valid architecture of the greatest predicted latency."""
        costs = self.edge_ms.copy()
        if ZERO in self.space.operators:
            costs[:, self.space.operators.index(ZERO)] = -np.inf
        choices, head = costs.argmax(axis=1).tolist(), int(self.head_ms.argmax())
        return Architecture.from_choices(self.space, choices, head, selected="slowest")


def cheapest_operators(cell: CellPlan, costs: Array, zero: int | None) -> list[int]:
    """Cheapest operators of a cell's edges such that every input and node has a live edge.

    Args:
        cell: the cell.
        costs: [edges, operators], milliseconds.
        zero: index of the operator that keeps nothing alive, if there is one.
    """
    inputs = len(cell.inputs)
    # For each edge, a bit set of the input and the node that it keeps alive.
    covers = [(1 << edge.source) * (edge.source < inputs) | 1 << (inputs + edge.node) for edge in cell.edges]
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
