"""When a subject is known well enough: confidence interval, plateau, caps. Not after a fixed number of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...lut.statistics.estimates import NOISY_PCT, Array, estimate_latency
from ...lut.target import Target

FLOOR_MS = 2e-4
"""An interval below 0.2 us is narrow enough however short the operator."""
STALE = 0.9
"""Doubling the visits should narrow the interval to 0.7 of its width; above this they have stopped helping."""
LEAST = 4
"""Visits without which there is no verdict at all."""
ENOUGH = ""
"""The verdict on a subject that is known well enough."""


@dataclass(frozen=True)
class StoppingRule:
    """How a subject is visited, and when it has been visited enough.

    Attributes:
        runs: runs a visit; None for as many as last about `rounds.VISIT_MS`.
        period: it joins every so many rounds.
        least: visits before any verdict.
        most: visits after which it is given up.
        reload: visits after which its graph is loaded anew, elsewhere in memory; None for never.
        loading: how long that may take in all, as a share of its own runs; what took longer waits for more runs.
        precision_pct: half the width of the 95 % confidence interval that is sought, relative to the latency.
        cap_s: seconds of its own runs after which it is given up.
    """

    runs: int | None
    period: int
    least: int
    most: int
    reload: int | None = None
    loading: float = math.inf
    precision_pct: float = 0.5
    cap_s: float = 60.0

    def at_most(self, visits: int | None) -> StoppingRule:
        """The same with another greatest number of visits, if one is given."""
        return self if visits is None else replace(self, most=visits, least=min(self.least, visits))

    def enough_ms(self, latency_ms: float) -> float:
        """Half width of the interval that is narrow enough for a latency (both in milliseconds)."""
        return max(self.precision_pct / 100 * latency_ms, FLOOR_MS)

    def visits_wanted(self, latency_ms: float, ci_ms: float, visits: int) -> int:
        """Estimate of the visits that it will have at the end: intervals narrow with the root of their number."""
        wanted = visits * (ci_ms / self.enough_ms(latency_ms)) ** 2
        return int(min(max(wanted, self.least), self.most))

    def verdict(self, points: Array, spent_s: float = 0.0, loads: NDArray[np.int_] | None = None) -> str | None:
        """None to go on, `ENOUGH` where the subject is known or known as well as is tolerated, else why it is noisy.

        Args:
            points: one latency for each visit so far, in milliseconds, the machine's speed divided out.
            spent_s: seconds spent on its runs.
            loads: which load of its graph each visit ran; one and the same if None.
        """
        count = len(points)
        if count < (LEAST if spent_s > self.cap_s else self.least):
            return None
        latency, ci = estimate_latency(points, loads)
        if ci <= self.enough_ms(latency):
            return ENOUGH
        if spent_s > self.cap_s:
            why = f"{spent_s:.0f} s"
        elif count >= self.most:
            why = f"{count} visits"
        elif count >= 4 * self.least and self._stale(points, loads):
            why = f"{count} visits, and more have stopped helping"
        else:
            return None
        known_pct = ci / latency * 100
        return ENOUGH if known_pct <= NOISY_PCT else f"known to {known_pct:.1f} % after {why}"

    def _stale(self, points: Array, loads: NDArray[np.int_] | None) -> bool:
        """Whether doubling the visits twice has each time hardly narrowed the interval; once can be chance."""
        parts = [len(points) // 4, len(points) // 2, len(points)]
        quarter, half, whole = (estimate_latency(points[:n], None if loads is None else loads[:n])[1] for n in parts)
        return whole > STALE * half > STALE**2 * quarter


CPU_PROBE = StoppingRule(runs=1, period=1, least=96, most=384, reload=16, precision_pct=1.0, cap_s=4.0)
"""One run a visit: what ran before was another graph, so weights and code are as cold as inside a network, where the
same probe run again and again finds both in the nearest caches and takes half the time."""
CPU_ALONE = StoppingRule(runs=None, period=8, least=16, most=64, reload=8, precision_pct=1.0, cap_s=1.0)
CPU_NETWORK = StoppingRule(runs=None, period=8, least=32, most=64, reload=8, cap_s=2.0)
GPU_PROBE = StoppingRule(runs=None, period=1, least=16, most=64, reload=4, loading=1.0)
"""Built anew too: two builds of one graph lie elsewhere in memory."""
GPU_NETWORK = StoppingRule(runs=None, period=1, least=16, most=128, reload=4, loading=0.5, cap_s=4.0)


def stopping_rule(target: Target, kind: str, context: str) -> StoppingRule:
    """How subjects of a kind (`operator`, `carrier`, `network`) are visited on a target in a context."""
    on_cpu = target.device.is_cpu
    if kind == "network":
        return CPU_NETWORK if on_cpu else GPU_NETWORK
    if on_cpu:
        return CPU_ALONE if context == "isolated" else CPU_PROBE
    return GPU_PROBE
