"""Landing by measurement: the last step taken again with what the device itself says of the result.

A table predicts networks to a percent or two. Where the device is at hand, the result is measured, and the ratio to its
prediction corrects the predictions of the architectures around it, among which the last step lands once more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...models.space.lgcnet import Architecture
from ..config import SearchConfig
from .latency import Latency
from .projection import ArchitectureBatch, architecture_of, project_to_target

ENOUGH = 0.01
"""Share of the target that a measured latency may be off."""
MAX_REFINEMENTS = 3
"""Architectures that are measured at most."""
KEPT = 1.0
"""Preference for the operators that the result has, in nats: few of them are to change."""

Measure = Callable[[Architecture], float]
"""Latency of an architecture in milliseconds, at the speed that the machine had when the table was made."""


@dataclass(frozen=True)
class Refined:
    """An architecture that was measured.

    Attributes:
        found: the architecture, a single row.
        measured_ms: at the table's speed.
        predicted_ms: what was expected of it: the table's prediction times what the architecture before it was off.
    """

    found: ArchitectureBatch
    measured_ms: float
    predicted_ms: float


def require_measurable(config: SearchConfig, tables: int) -> None:
    """Show that there is one target on one device, and that it is the latency itself.

    Raises:
        UsageError: there is not.
    """
    if tables > 1 or not config.targets_ms or config.quantile is not None:
        raise UsageError("landing by measurement wants one table, a target for it and no quantile")


def refine_by_measuring(found: ArchitectureBatch, latency: Latency, measure: Measure) -> list[Refined]:
    """Measure an architecture that the table puts on the target, and its successors, until one is there.

    Args:
        found: the architecture, a single row.
        latency: loads; one table, with a target.
        measure: see `Measure`.

    Returns:
        What was measured, the one that is nearest to the target first.
    """
    assert latency.targets_ms is not None  # `require_measurable`
    target, factor, landed = float(latency.targets_ms[0]), 1.0, list[Refined]()
    for _ in range(MAX_REFINEMENTS):
        table_ms = float(latency.predicted_ms(found.picked, found.heads)[0, 0])
        ms = measure(architecture_of(found, 0, latency))
        landed.append(Refined(found, ms, table_ms * factor))
        factor = ms / table_ms
        after = project_to_target(found.picked, _preference(found, latency), latency.slower(factor))
        same = np.array_equal(after.picked, found.picked) and np.array_equal(after.heads, found.heads)
        if abs(ms / target - 1) <= ENOUGH or same:
            break
        found = after
    return sorted(landed, key=lambda one: abs(one.measured_ms / target - 1))


def _preference(found: ArchitectureBatch, latency: Latency) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    preference = np.zeros(latency.ms.shape[1:])
    preference[np.arange(len(preference)), found.picked[0]] = KEPT
    return preference
