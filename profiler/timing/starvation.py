"""Starvation: a process whose runs wait for CPU time, because of other programs or a CPU quota."""

from __future__ import annotations

MAX_RATIO = 2.0
"""Ratio of the median of all runs to the table's statistic above which a process is starved; about 1.1 without load."""
MAX_P90_RATIO = 4.0
"""The same for the 90th percentile: a few long waits leave the median as it is."""


def describe_starvation(latency_ms: float | None, median_ms: float | None, p90_ms: float | None) -> str | None:
    """Return a remark if runs took far longer than undisturbed ones; else None.

    Args:
        latency_ms: latency by the table's statistic, which a starved process changes least; None if nothing ran.
        median_ms: median of all runs.
        p90_ms: 90th percentile of all runs.
    """
    for name, value, limit in (("median", median_ms, MAX_RATIO), ("90th percentile", p90_ms, MAX_P90_RATIO)):
        if value is not None and latency_ms is not None and value > limit * latency_ms:
            return (
                f"the {name} of all runs, {value:.3g} ms, is {value / latency_ms:.1f} times the latency of "
                f"undisturbed runs, {latency_ms:.3g} ms: the process waits for CPU time (other programs, a CPU "
                "quota), so FPS is not that of a free machine"
            )
    return None
