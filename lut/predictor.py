"""Predictor: latency of any architecture of a space, as a calibrated sum over its slots.

Symbols of this module and the search:

    E        searched edges of the network
    O        operators of the space
    H        head widths of the space, `SearchSpace.heads`
    edge_ms  [E, O]  contribution of operator o on edge e, with the addition at its node if the edge is live
    fixed_ms         everything that is not searched, with the default head and the intercept, minus one addition per
                     node, whose first edge needs none
    head_ms  [H]     extra latency of each head width over the default width

so latency = fixed_ms + head_ms[head] + sum over e of edge_ms[e, choice(e)], which counts exactly the operators in
`Architecture.specs`. The correction is linear in the operators and included in all three.
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
    """Interval that contains a latency with probability `calibration.PREDICTION_LEVEL`, in ms."""

    low_ms: float
    high_ms: float


class Predictor:
    """Latency predictor of a search space, from a table.

    Attributes:
        space: Search space.
        scope: `dense` or `core`.
        calibrated: True if the table is calibrated in the scope.
        correction: Its calibration, or the identity.
        edge_ms: See the symbols above, as for head_ms and fixed_ms.
    """

    def __init__(self, space: SearchSpace, table: LatencyTable, scope: str = DENSE) -> None:
        """Sum up the entries of `table`.

        Args:
            space: Search space. The table must have its operators.
            table: Measured latencies.
            scope: `dense` (up to the labels) or `core` (up to the logits).

        Raises:
            MismatchError: The table has a different space.
            MissingEntryError: The table has no latency for an operator of the space.
            UnknownNameError: `scope` is not a scope.
            FileFormatError: The table's calibration is damaged.
        """
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
        cache: dict[OpSpec, float] = {}
        live = np.array([name != ZERO for name in space.operators])
        for slot in space.slots():
            if scope == CORE and slot.scope == DENSE:
                continue
            costs = [self.cost_ms(table, spec, cache) for spec in slot.candidates]
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

    def cost_ms(self, table: LatencyTable, spec: OpSpec, cache: dict[OpSpec, float] | None = None) -> float:
        """Return the corrected contribution of an operator to a network in ms; 0 if it takes no time.

        Args:
            table: Table of the predictor.
            spec: Operator.
            cache: Earlier results, which are reused and extended.

        Raises:
            MissingEntryError: The table has no latency for the operator.
        """
        cache = {} if cache is None else cache
        if spec not in cache:
            cache[spec] = 0.0 if is_free(spec) else self.correction.apply(spec, table.latency_ms(spec))
        return cache[spec]

    def predict(self, architecture: Architecture) -> float:
        """Return the predicted latency of `architecture` in ms, calibrated if the table is.

        Raises:
            MismatchError: The architecture has a different space.
        """
        if architecture.space.fingerprint != self.space.fingerprint:
            raise MismatchError(
                f"the architecture has space {architecture.space.name} ({architecture.space.fingerprint}), but "
                f"{self.table_path} has {self.space.name} ({self.space.fingerprint})"
            )
        return float(self.predict_many(np.array([architecture.choices]), np.array([architecture.head]))[0])

    def interval(self, architecture: Architecture) -> Interval | None:
        """Return the prediction interval from the calibration's held-out errors; None if not calibrated.

        Raises:
            MismatchError: The architecture has a different space.
        """
        half_pct = self.correction.half_width_pct()
        if half_pct is None:
            return None
        predicted = self.predict(architecture)
        return Interval(max(predicted * (1 - half_pct / 100), 0.0), predicted * (1 + half_pct / 100))

    def margin(self, quantile: float) -> float:
        """Return the factor from a prediction to the `quantile` of the latency.

        Raises:
            UsageError: The table is not calibrated, so its errors are unknown.
        """
        upper_error_pct = self.correction.upper_error_pct(quantile)
        if upper_error_pct is None:
            raise UsageError(
                f"{self.table_path} is not calibrated, so the quantiles of its errors are unknown: "
                f"omit the quantile, or run lgc-lut calibrate {self.table_path}"
            )
        return 1 + upper_error_pct / 100

    def predict_many(self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None = None) -> Array:
        """Return the predicted latencies of N architectures in ms, [N].

        Args:
            choices: Operator indices, [N, E].
            heads: Indices of the head widths in the space's `heads`, [N]. None means the default width.

        Raises:
            UsageError: An array has a wrong shape or index.
        """
        choices = check_choices(choices, self.space)
        heads = check_heads(heads, self.space, len(choices))
        latency: Array = self.fixed_ms + gather_sum(self.edge_ms, choices) + self.head_ms[heads]
        return latency

    def to_frame(self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None = None) -> pd.DataFrame:
        """Return predictions and other costs, a row per architecture; choices and heads as in `predict_many`.

        Columns: latency_ms, low_ms and high_ms (90 % interval; NaN if not calibrated), macs, parameters,
        peak_activation_bytes (of float32 values; see `models.space.costs`).
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
        """Hash of all latencies and the calibration: twelve hexadecimal digits."""
        content: tuple[object, ...] = (self.scope, self.edge_ms.tobytes(), self.fixed_ms)
        if len(self.head_ms) > 1:  # not hashed for a single head: fingerprints of lgc 0.1
            content += (self.head_ms.tobytes(),)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    @cached_property
    def fastest(self) -> Architecture:
        """Valid architecture with the smallest predicted latency (exact, by dynamic programming per cell)."""
        choices: list[int] = []
        zero = self.space.operators.index(ZERO) if ZERO in self.space.operators else None
        for cell in self.space.plan.searched_cells:
            costs = self.edge_ms[len(choices) : len(choices) + len(cell.edges)]
            choices += find_cheapest_operators(cell, costs, zero)
        return Architecture.from_choices(self.space, choices, int(self.head_ms.argmin()), selected="fastest")

    @cached_property
    def slowest(self) -> Architecture:
        """Valid architecture with the largest predicted latency."""
        costs = self.edge_ms.copy()
        if ZERO in self.space.operators:
            costs[:, self.space.operators.index(ZERO)] = -np.inf
        choices, head = costs.argmax(axis=1).tolist(), int(self.head_ms.argmax())
        return Architecture.from_choices(self.space, choices, head, selected="slowest")


def find_cheapest_operators(cell: CellPlan, costs: Array, zero: int | None) -> list[int]:
    """Return the cheapest operator of each edge of a cell such that every input and node has a live edge.

    Args:
        cell: Cell.
        costs: Costs in ms, [edges, operators].
        zero: Index of the zero operator, whose edges are not live; None if the space has none.
    """
    inputs = len(cell.inputs)
    # bit set of the input and the node of each edge
    covers = [(1 << edge.source) * (edge.source < inputs) | 1 << (inputs + edge.node) for edge in cell.edges]
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for edge_costs, cover in zip(costs, covers, strict=True):
        live = edge_costs.copy()
        if zero is not None:
            live[zero] = np.inf
        operator = int(live.argmin())
        options = [(cover, operator)] if zero is None else [(cover, operator), (0, zero)]
        extended: dict[int, tuple[float, list[int]]] = {}
        for covered, (total, chosen) in best.items():
            for gained, option in options:
                state, value = covered | gained, total + float(edge_costs[option])
                if state not in extended or value < extended[state][0]:
                    extended[state] = (value, [*chosen, option])
        best = extended
    everything = 0
    for cover in covers:
        everything |= cover
    return best[everything][1]
