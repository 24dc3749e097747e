"""Range of a space's latencies: targets below it, and how to reach them."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import UsageError
from ...lut.predictor import Predictor
from .suggestion import suggest_space

DIGITS = 4
"""Significant digits of a suggested target."""


def require_target_in_range(
    predictor: Predictor, target_ms: float, quantile: float | None = None, fps: float | None = None
) -> None:
    """Check that an architecture of the space meets the target.

    Args:
        predictor: predictor of the space.
        target_ms: target by the table's statistic, in ms.
        quantile: probability that the measured latency meets the target; None to compare the prediction itself.
        fps: frame rate that the target was converted from; None for a target in ms.

    Raises:
        UsageError: even the fastest architecture is too slow; the message has the range in the target's unit, and what
            to change.
    """
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    fastest = margin * predictor.range_ms[0]
    if target_ms >= fastest:
        return
    if fps is None:
        target, side = _format(target_ms, "ms"), "below"
        limit = f"--target-ms {_round(fastest, math.ceil)}"
    else:
        target, side = _format(fps, "FPS"), "above"
        limit = f"--target-fps {_round(predictor.to_fps(fastest), math.floor)}"
    raise UsageError(
        f"a target of {target} is {side} the fastest architecture of {predictor.space.name}: "
        f"{_describe_range(predictor, predictor.range_ms, quantile, fps is not None)}; "
        f"{_suggest(predictor, target_ms / margin)}, or take the fastest: {limit}"
    )


def _suggest(predictor: Predictor, target_ms: float) -> str:
    """Return what to profile for a target outside the space's range."""
    fastest, slowest = predictor.range_ms
    if fastest <= target_ms <= slowest:
        return f"without --cells shared and --fusion fixed, the space has {fastest:.3f} to {slowest:.3f} ms"
    suggestion = suggest_space(predictor, target_ms)
    if suggestion is not None:
        return suggestion.describe()
    kind = "smaller" if target_ms < fastest else "larger"
    return f"profile a {kind} --input or space (docs/spaces.md)"


def describe_inactive_target(
    predictor: Predictor,
    range_ms: tuple[float, float],
    target_ms: float,
    quantile: float | None = None,
    fps: float | None = None,
) -> str:
    """Return a line on a target that every architecture meets, by a table.

    Args:
        predictor: predictor of the space.
        range_ms: latencies of the fastest and the slowest architecture that the search's settings allow, in ms.
        target_ms: target by the table's statistic, in ms.
        quantile: as in `require_target_in_range`.
        fps: frame rate that the target was converted from; None for a target in ms.
    """
    target = _format(target_ms, "ms") if fps is None else _format(fps, "FPS")
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    return (
        f"a target of {target} excludes nothing: {_describe_range(predictor, range_ms, quantile, fps is not None)}; "
        f"{_suggest(predictor, target_ms / margin)}"
    )


def _format(value: float, unit: str) -> str:
    """Return a value with four significant digits, or all of its integer ones."""
    return f"{_write(value)} {unit}"


def _write(value: float) -> str:
    return f"{value:.0f}" if value >= 10 ** (DIGITS - 1) else f"{value:.{DIGITS}g}"


def _describe_range(predictor: Predictor, range_ms: tuple[float, float], quantile: float | None, rates: bool) -> str:
    """Return a range of latencies, or of frame rates, as a table predicts it."""
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    fastest, slowest = (margin * end for end in range_ms)
    values = f"{fastest:.3f} to {slowest:.3f} ms"
    if rates:
        values = f"{_write(predictor.to_fps(slowest))} to {_format(predictor.to_fps(fastest), 'FPS')}"
    bound = "" if quantile is None else f", with the margin of --quantile {quantile:g}"
    return f"{predictor.table_path} predicts {values} in scope {predictor.scope}{bound}"


def _round(value: float, direction: Callable[[float], int]) -> str:
    """Return a number with `DIGITS` significant digits, rounded up or down to stay within the range."""
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - DIGITS)
    return _write(direction(value / unit) * unit)
