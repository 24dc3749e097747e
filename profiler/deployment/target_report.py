"""Comparison of a measured network with the target of its search, as a line."""

from __future__ import annotations

from .latency import TargetResult

UNKNOWN_INTERVAL_PCT = 5.0
"""Shortfall in percent that needs an explanation if the table has no prediction interval. Assumption."""


def describe_target(result: TargetResult) -> str | None:
    """Return a line that compares the measured network with its target, and what to do if it misses it; else None."""
    shortfall = result.target_shortfall_pct
    if shortfall is None or result.measured_ms is None:
        return None
    if result.target_fps is not None:
        side = "short" if shortfall > 0 else "above"
        line = f"target {result.target_fps:.4g} FPS: measured {result.fps:.4g} FPS ({abs(shortfall):.1f} % {side})"
    else:
        side = "above" if shortfall > 0 else "below"
        line = (
            f"target {result.target_ms:.4g} ms: measured {result.undrifted_ms:.4g} ms ({abs(shortfall):.1f} % {side})"
        )
        if result.drift_pct is not None:
            line += f" at the machine's speed when the table was measured; {result.measured_ms:.4g} ms now"
    if shortfall <= _interval_pct(result):
        return line
    return f"{line}: {_advise(result)}"


def _advise(result: TargetResult) -> str:
    """Return the likeliest cause of a missed target, and what to do."""
    limit_pct = _interval_pct(result)
    if result.starvation:
        return "the process waits for CPU time: measure again on an idle machine"
    if result.target_fps is None:
        # Drift does not enter, so the prediction is too low.
        assert result.target_ms is not None
        return (
            "more than the prediction interval: search with --measure, which corrects the prediction on the device, or "
            f"with --target-ms {result.target_ms / _miss(result):.4g}"
        )
    if result.drift_pct is not None and result.drift_pct > limit_pct:
        return (
            f"the machine runs {result.drift_pct:.1f} % slower than when the table was measured: measure again on an "
            "idle machine, or profile again into another file and search with that table"
        )
    tighter = f"--target-fps {result.target_fps * _miss(result):.4g}"
    if result.error_pct is not None and result.error_pct >= -limit_pct and result.median_ms and result.measured_ms:
        return (
            f"undisturbed runs are as fast as predicted, but the median of all runs is "
            f"{(result.median_ms / result.measured_ms - 1) * 100:.0f} % above them: measure again on an idle machine, "
            f"or search with {tighter}"
        )
    return f"more than the prediction interval: search with --measure, or with {tighter}"


def _miss(result: TargetResult) -> float:
    """Return the factor by which a target has to be tighter for a measurement that keeps its ratio to it."""
    shortfall = (result.target_shortfall_pct or 0.0) / 100
    return 1 + shortfall if result.target_fps is None else 1 / (1 - shortfall)


def _interval_pct(result: TargetResult) -> float:
    """Return the half width of the prediction interval in percent."""
    if result.predicted_high_ms is None or not result.predicted_ms:
        return UNKNOWN_INTERVAL_PCT
    return (result.predicted_high_ms / result.predicted_ms - 1) * 100
