"""Stopping rules: confidence interval, plateau and limits instead of a fixed number of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...lut.statistics.estimates import NOISY_PCT, Array, estimate_latency
from ...lut.target import Target

FLOOR_MS = 2e-4
"""Half width of an interval that is always narrow enough: 0.2 us."""
PLATEAU = 0.9
"""Doubling the batches should narrow the interval to 0.7 of its width; above this ratio it has reached a plateau."""
MIN_BATCHES = 4
"""Minimum of batches for any decision."""
CONVERGED = ""
"""Decision on a benchmark whose interval is narrow enough."""


@dataclass(frozen=True)
class StoppingRule:
    """Rule for the batches of a benchmark, and for its end.

    Attributes:
        runs: runs per batch; None for about `rounds.BATCH_MS` of runs.
        period: rounds between two batches.
        min_batches: batches before any decision.
        max_batches: batches after which the benchmark is noisy.
        reload: batches per instance; the graph is then loaded again, elsewhere in memory. None for one instance.
        loading: limit of the total reload time as a share of the run time; later reloads wait for more runs.
        precision_pct: target half width of the 95 % confidence interval, relative to the latency.
        cap_s: run time in seconds after which the benchmark is noisy.
    """

    runs: int | None
    period: int
    min_batches: int
    max_batches: int
    reload: int | None = None
    loading: float = math.inf
    precision_pct: float = 0.5
    cap_s: float = 60.0

    def limit_batches(self, max_batches: int | None) -> StoppingRule:
        """Return this rule with another maximum of batches; None keeps it."""
        if max_batches is None:
            return self
        return replace(self, max_batches=max_batches, min_batches=min(self.min_batches, max_batches))

    def target_ci_ms(self, latency_ms: float) -> float:
        """Return the target half width of the interval of a latency, both in milliseconds."""
        return max(self.precision_pct / 100 * latency_ms, FLOOR_MS)

    def estimate_batches(self, latency_ms: float, ci_ms: float, batches: int) -> int:
        """Estimate the final number of batches: the interval narrows with the square root of the number."""
        needed = batches * (ci_ms / self.target_ci_ms(latency_ms)) ** 2
        return int(min(max(needed, self.min_batches), self.max_batches))

    def decide(self, points: Array, spent_s: float = 0.0, instances: NDArray[np.int_] | None = None) -> str | None:
        """Return None to continue, `CONVERGED` if the interval is narrow enough, else the reason for noise.

        Args:
            points: latency of each batch in milliseconds, corrected for machine drift.
            spent_s: run time so far, in seconds.
            instances: instance of the graph in each batch; None for a single instance.
        """
        count = len(points)
        if count < (MIN_BATCHES if spent_s > self.cap_s else self.min_batches):
            return None
        latency_ms, ci_ms = estimate_latency(points, instances)
        if ci_ms <= self.target_ci_ms(latency_ms):
            return CONVERGED
        if spent_s > self.cap_s:
            limit = f"{spent_s:.0f} s"
        elif count >= self.max_batches:
            limit = f"{count} batches"
        elif count >= 4 * self.min_batches and self._has_plateaued(points, instances):
            limit = f"{count} batches, where more no longer help"
        else:
            return None
        ci_pct = ci_ms / latency_ms * 100
        return CONVERGED if ci_pct <= NOISY_PCT else f"confidence interval of {ci_pct:.1f} % after {limit}"

    def _has_plateaued(self, points: Array, instances: NDArray[np.int_] | None) -> bool:
        """Return True if doubling the batches twice narrowed the interval little each time; once can be chance."""
        parts = [len(points) // 4, len(points) // 2, len(points)]
        quarter, half, whole = (
            estimate_latency(points[:n], None if instances is None else instances[:n])[1] for n in parts
        )
        return whole > PLATEAU * half > PLATEAU**2 * quarter


CPU_PROBE = StoppingRule(runs=1, period=1, min_batches=96, max_batches=384, reload=16, precision_pct=1.0, cap_s=4.0)
"""One run per batch: another graph ran before, so weights and code are as cold as inside a network. Repeated runs of
one probe hit the nearest caches and take half the time."""
CPU_ALONE = StoppingRule(runs=None, period=8, min_batches=16, max_batches=64, reload=8, precision_pct=1.0, cap_s=1.0)
CPU_NETWORK = StoppingRule(runs=None, period=8, min_batches=32, max_batches=64, reload=8, cap_s=2.0)
GPU_PROBE = StoppingRule(runs=None, period=1, min_batches=16, max_batches=64, reload=4, loading=1.0)
"""Reloads matter here too: two builds of one graph differ in their place in memory."""
GPU_NETWORK = StoppingRule(runs=None, period=1, min_batches=16, max_batches=128, reload=4, loading=0.5, cap_s=4.0)


def stopping_rule(target: Target, kind: str, context: str) -> StoppingRule:
    """Return the rule for benchmarks of a kind (`operator`, `carrier`, `network`) on a target in a context."""
    on_cpu = target.device.is_cpu
    if kind == "network":
        return CPU_NETWORK if on_cpu else GPU_NETWORK
    if on_cpu:
        return CPU_ALONE if context == "isolated" else CPU_PROBE
    return GPU_PROBE
