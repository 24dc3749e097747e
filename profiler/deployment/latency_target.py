"""The latency target of a search, held against the measured network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...lut.table.table import LatencyTable
from ...lut.target import Target

if TYPE_CHECKING:
    from .latency import TargetResult

UNKNOWN_INTERVAL_PCT = 5.0
"""Shortfall in percent that needs an explanation if the table has no prediction interval. Assumption."""


@dataclass(frozen=True)
class LatencyTarget:
    """Target of a search on one device.

    Attributes:
        ms: target by the table's statistic, at the machine's speed when the table was measured.
        fps: frame rate that it was converted from; None for a target in ms.
    """

    ms: float
    fps: float | None = None

    @classmethod
    def from_provenance(
        cls, provenance: Mapping[str, Any], target: Target, scope: str, table: LatencyTable | None
    ) -> LatencyTarget | None:
        """Return the target of the search that made an architecture; None without one for this device and scope.

        Args:
            provenance: origin of the architecture.
            target: where the network runs.
            scope: what is timed.
            table: table of `target`; it identifies the target of architectures that do not name theirs.
        """
        names = provenance.get("targets")
        if names is None and table is not None and str(table.path.resolve()) == provenance.get("table"):
            names = [str(table.target)]
        if not isinstance(names, list) or str(target) not in names or provenance.get("scope") != scope:
            return None
        index, tables = names.index(str(target)), provenance.get("tables") or ()
        row = tables[index] if index < len(tables) else provenance
        ms, fps = row.get("target_ms"), row.get("target_fps")
        return cls(float(ms), None if fps is None else float(fps)) if ms else None


def compute_shortfall(result: TargetResult) -> float | None:
    """Return by how much the measured network misses its target, in percent; negative if it is faster than that.

    A frame rate is compared as it is; a latency at the machine's speed when the table was measured.
    """
    if result.target_fps is not None and result.fps is not None:
        return (1 - result.fps / result.target_fps) * 100
    latency_ms = _undrifted_ms(result)
    if result.target_ms is None or latency_ms is None:
        return None
    return (latency_ms / result.target_ms - 1) * 100


def describe_target(result: TargetResult) -> str | None:
    """Return a line that holds the measured network against its target, and what to do if it misses it; else None."""
    shortfall = result.target_shortfall_pct
    if shortfall is None or result.measured_ms is None:
        return None
    if result.target_fps is not None:
        side = "short" if shortfall > 0 else "above"
        line = f"target {result.target_fps:.4g} FPS: measured {result.fps:.4g} FPS ({abs(shortfall):.1f} % {side})"
    else:
        side = "above" if shortfall > 0 else "below"
        line = (
            f"target {result.target_ms:.4g} ms: measured {_undrifted_ms(result):.4g} ms ({abs(shortfall):.1f} % {side})"
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
            "idle machine, or profile anew and search with that table"
        )
    return (
        "more than the prediction interval: measure again on an idle machine, or search with --target-fps "
        f"{result.target_fps * _miss(result):.4g}, or with --measure"
    )


def _miss(result: TargetResult) -> float:
    """Return the factor by which a target has to be tighter for a measurement that keeps its ratio to it."""
    shortfall = (result.target_shortfall_pct or 0.0) / 100
    return 1 + shortfall if result.target_fps is None else 1 / (1 - shortfall)


def _undrifted_ms(result: TargetResult) -> float | None:
    """Return the measured latency at the machine's speed when the table was measured."""
    return None if result.measured_ms is None else result.measured_ms / (1 + (result.drift_pct or 0.0) / 100)


def _interval_pct(result: TargetResult) -> float:
    """Return the half width of the prediction interval in percent."""
    if result.predicted_high_ms is None or not result.predicted_ms:
        return UNKNOWN_INTERVAL_PCT
    return (result.predicted_high_ms / result.predicted_ms - 1) * 100
