"""Refinement by measurement: the projection repeated with the latency that the device itself shows.

A table predicts networks to a percent or two. Where the device is available, the result is measured. The ratio of
measurement to prediction corrects the predictions of similar architectures, and the result is projected again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...models.space.cost import Array
from ...models.space.protocol import Architecture
from ..config import SearchConfig
from .constraint import CostConstraint
from .projection import ArchitectureBatch, build_architecture, project_to_target

AIM = 0.99
"""Measured latency to aim at, as a share of the target: another measurement of the result may be a percent higher."""
ACCEPTED = (0.975, 0.995)
"""Measured latencies that need no further refinement, as shares of the target."""
CAUTION = 0.01
"""Reduction of the aim after each architecture that was measured above the target."""
LOWEST_AIM = 0.9
"""Aim below which nothing is tried."""
MAX_REFINEMENTS = 6
"""Maximum number of measured architectures."""
KEEP_PREFERENCE = 1.0
"""Preference for the operators of the measured result, in nats, so that few of them change."""

MeasureLatency = Callable[[Architecture], float]
"""Latency of an architecture in milliseconds, corrected for machine drift since the table was made."""


@dataclass(frozen=True)
class MeasuredArchitecture:
    """An architecture and its measured latency.

    Attributes:
        architecture: the architecture, a single row.
        measured_ms: measured latency, corrected for machine drift.
        predicted_ms: the table's prediction, times the previous architecture's ratio of measurement to prediction.
    """

    architecture: ArchitectureBatch
    measured_ms: float
    predicted_ms: float


def require_refinable(config: SearchConfig, tables: int) -> None:
    """Check that results have exactly one target, on one device, for the latency itself.

    Raises:
        UsageError: there are several tables, no target, or a quantile.
    """
    if tables > 1 or not config.targets_ms or config.quantile is not None:
        raise UsageError(
            "refinement by measurement needs one table, a target for it and no quantile: change --lut, --target-ms "
            "(or --target-fps) or --quantile, or leave --measure out"
        )


def refine_by_measurement(
    start: ArchitectureBatch, constraint: CostConstraint, measure: MeasureLatency
) -> list[MeasuredArchitecture]:
    """Measure an architecture that the table predicts on the target, and its successors, until one is just below it.

    Args:
        start: the first architecture, a single row.
        constraint: latency by one table, with a target.
        measure: measurement of an architecture.

    Returns:
        Every measured architecture, the slowest that meets the target first; then those above it, the nearest first.
    """
    assert constraint.targets is not None  # `require_refinable`
    target, factor, aim, current = float(constraint.targets[0]), 1.0, AIM, start
    searched = constraint.decisions.num_searched
    measured = list[MeasuredArchitecture]()
    while len(measured) < MAX_REFINEMENTS:
        table_ms = float(constraint.evaluate(current.choices)[0, 0])
        ms = measure(build_architecture(current, 0, constraint))
        measured.append(MeasuredArchitecture(current, ms, table_ms * factor))
        if ACCEPTED[0] <= ms / target <= ACCEPTED[1]:
            break
        factor = ms / table_ms
        known = [each.architecture.choices.tolist() for each in measured]
        while True:
            aim -= CAUTION * (ms > target)
            following = project_to_target(
                current.choices[:, :searched], _prefer(current, constraint), constraint.scale(factor / aim)
            )
            is_new = following.choices.tolist() not in known
            if is_new or ms <= target or aim <= LOWEST_AIM:
                break
        if not is_new:
            break
        current = following
    return sorted(measured, key=lambda result: (result.measured_ms > target, abs(result.measured_ms / target - 1)))


def _prefer(architecture: ArchitectureBatch, constraint: CostConstraint) -> Array:
    """Return a preference [S, C] for the searched choices of an architecture."""
    preference = np.zeros(constraint.decisions.searched_shape)
    preference[np.arange(len(preference)), architecture.choices[0, : len(preference)]] = KEEP_PREFERENCE
    return preference
