"""Predictor: latency of any architecture of a space, as a calibrated sum over its slots.

The table's latencies of the operators are the terms of a cost; see `models.space.cost`. It counts exactly the operators
in `Architecture.specs`. The correction is linear in the operators and included in all terms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MismatchError, UnknownNameError, UsageError
from ..models.space.cost import Array, Choices, Cost, check_choices, sum_slots
from ..models.space.costs import COUNTS, Costs, count_cost
from ..models.space.extremes import find_cheapest
from ..models.space.lgcnet import LGCNetSpace
from ..models.space.operators import is_free
from ..models.space.opspec import OpSpec
from ..models.space.protocol import DENSE, SCOPES, Architecture, Slot, Space
from ..models.space.slots import as_space
from .statistics.calibration import Correction
from .table.table import LatencyTable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Interval:
    """Interval that contains a latency with probability `calibration.PREDICTION_LEVEL`, in ms."""

    low_ms: float
    high_ms: float

    def __str__(self) -> str:
        """Return `1.234 to 1.345 ms`."""
        return f"{self.low_ms:.3f} to {self.high_ms:.3f} ms"


class Predictor:
    """Latency predictor of a search space, from a table.

    Attributes:
        space: Search space.
        scope: `dense` or `core`.
        calibrated: True if the table is calibrated in the scope.
        correction: Its calibration, or the identity.
        cost: Predicted latency of every architecture, in ms.
        median_ratio: Median of all runs over a latency of the table; None if unknown. See `LatencyTable.median_ratio`.
    """

    def __init__(self, space: Space | Sequence[Slot], table: LatencyTable, scope: str = DENSE) -> None:
        """Sum up the entries of `table`.

        Args:
            space: Space of the networks, or a list of slots. The table must have its operators.
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
        space = as_space(space)
        table.require(space=space)
        self.space = space
        self.scope = scope
        self.table_path = table.path
        self.target, self.device = table.target, table.target.device
        self.device_name = table.environment.get("device_name")
        self.median_ratio = table.median_ratio(scope)
        correction = table.correction(scope)
        self.calibrated = correction is not None
        self.correction = correction or Correction()
        cache: dict[OpSpec, float] = {}
        self.cost: Cost = sum_slots(
            space,
            lambda spec: self.cost_ms(table, spec, cache),
            unit="ms",
            source=str(table.path),
            scope=scope,
            constant=self.correction.intercept_ms,
        )

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
                f"the architecture has space {architecture.space.description}, but {self.table_path} has "
                f"{self.space.description}"
            )
        return float(self.predict_many(np.array([architecture.choices]))[0])

    def to_fps(self, latency_ms: float) -> float:
        """Return the images per second at a latency of the table, by the median of all runs if their ratio is known."""
        return self._images * 1000 / (latency_ms * (self.median_ratio or 1.0))

    def from_fps(self, fps: float) -> float:
        """Return the latency of the table, in ms, at a frame rate; see `to_fps`."""
        return self._images * 1000 / (fps * (self.median_ratio or 1.0))

    @cached_property
    def _images(self) -> int:
        """Images of a run: the batch of the operators."""
        batches = {spec.batch for spec in self.space.specs()}
        return batches.pop() if len(batches) == 1 else 1

    @cached_property
    def range_ms(self) -> tuple[float, float]:
        """Predicted latency of the fastest and of the slowest architecture, in ms."""
        return self.predict(self.fastest), self.predict(self.slowest)

    def format_range(self, margin: float = 1.0) -> str:
        """Return `0.476 to 1.514 ms (660 to 2100 FPS)`: the range of latencies times `margin`, and of frame rates."""
        fastest, slowest = (margin * end for end in self.range_ms)
        return f"{fastest:.3f} to {slowest:.3f} ms ({self.to_fps(slowest):.4g} to {self.to_fps(fastest):.4g} FPS)"

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

    def predict_many(self, choices: Choices) -> Array:
        """Return the predicted latencies of N architectures in ms: choices [N, D] -> [N].

        Raises:
            UsageError: The array has a wrong shape, or an index is out of range.
        """
        return self.cost.evaluate(check_choices(choices, self.space))

    def to_frame(self, choices: Choices) -> pd.DataFrame:
        """Return predictions and other costs, a row per architecture; choices [N, D] as in `predict_many`.

        Columns: latency_ms, low_ms and high_ms (90 % interval; NaN if not calibrated), macs, parameters, and for
        LGCNet's spaces peak_activation_bytes (of float32 values; see `models.space.costs`).
        """
        import pandas as pd

        choices = check_choices(choices, self.space)
        latency, half = self.cost.evaluate(choices), (self.correction.half_width_pct() or np.nan) / 100
        columns: dict[str, object] = {
            "latency_ms": latency,
            "low_ms": np.maximum(latency * (1 - half), 0.0),
            "high_ms": latency * (1 + half),
        }
        columns |= {unit: count_cost(self.space, unit).evaluate(choices).astype(np.int64) for unit in COUNTS}
        if isinstance(self.space, LGCNetSpace):
            columns["peak_activation_bytes"] = Costs(self.space).peak_activation_bytes(choices, scope=self.scope)
        return pd.DataFrame(columns)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all latencies and the calibration: twelve hexadecimal digits."""
        rows = list(zip(self.space.decisions, self.cost.single, strict=True))
        searched = [row[: len(decision.choices)].tobytes() for decision, row in rows if decision.default is None]
        others = [row[: len(decision.choices)].tobytes() for decision, row in rows if decision.default is not None]
        content: tuple[object, ...] = (self.scope, b"".join(searched), self.cost.constant)
        if any(decision.default is not None and len(decision.choices) > 1 for decision, _ in rows):
            content += (b"".join(others),)  # not hashed for a single choice: fingerprints of lgc 0.1
        if self.cost.pairs:
            content += tuple((pair, terms.tobytes()) for pair, terms in sorted(self.cost.pairs.items()))
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    @cached_property
    def fastest(self) -> Architecture:
        """Valid architecture with the smallest predicted latency; see `find_cheapest`."""
        return self._find_extreme(self.cost, selected="fastest")

    @cached_property
    def slowest(self) -> Architecture:
        """Valid architecture with the largest predicted latency, without `zero`."""
        return self._find_extreme(self.cost.scale(-1), zero=False, selected="slowest")

    def _find_extreme(self, cost: Cost, *, selected: str, zero: bool = True) -> Architecture:
        requirements = [requirement.decisions for requirement in self.space.requirements]
        choices = find_cheapest(cost, self.space.decisions, requirements, zero=zero)
        return self.space.build(choices, selected=selected)
