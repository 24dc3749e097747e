"""Range of a space's latencies: targets outside it, and how to reach them."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import UsageError
from ...lut.predictor import Predictor

MAX_PIXEL_RATIO = 100.0
"""Largest change of the number of pixels that a message suggests."""
DIGITS = 4
"""Significant digits of a suggested target."""


def require_target_in_range(
    predictor: Predictor, target_ms: float, quantile: float | None = None, fps: float | None = None
) -> None:
    """Check that the space has an architecture at the target.

    Args:
        predictor: predictor of the space.
        target_ms: target by the table's statistic, in ms.
        quantile: probability that the measured latency meets the target; None to compare the prediction itself.
        fps: frame rate that the target was converted from; None for a target in ms.

    Raises:
        UsageError: the target is below the fastest or above the slowest architecture; the message gives both, and what
            to change.
    """
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    fastest, slowest = (margin * end for end in predictor.range_ms)
    if fastest <= target_ms <= slowest:
        return
    target = f"{target_ms:.4g} ms" if fps is None else f"{fps:.4g} FPS ({target_ms:.4g} ms)"
    too_fast = target_ms < fastest
    side = "below the fastest" if too_fast else "above the slowest"
    if fps is not None:
        side = "faster than the fastest" if too_fast else "slower than the slowest"
    bound = "" if quantile is None else f", with the margin of --quantile {quantile:g}"
    raise UsageError(
        f"a target of {target} is {side} architecture of {predictor.space.name}: {predictor.table_path} "
        f"predicts {predictor.format_range(margin)} in scope {predictor.scope}{bound}; "
        f"{_advise(target_ms, fastest, slowest)}"
    )


def _advise(target_ms: float, fastest: float, slowest: float) -> str:
    """Return how to reach a target outside the range; the latency is about proportional to the pixels."""
    too_fast = target_ms < fastest
    ratio, size = (fastest / target_ms, "smaller") if too_fast else (target_ms / slowest, "larger")
    pixels = f" ({ratio:.2g} times {'fewer' if too_fast else 'the'} pixels or more)" if ratio <= MAX_PIXEL_RATIO else ""
    end = f"the fastest: --target-ms {_round(fastest, math.ceil)}"
    if not too_fast:
        end = f"the slowest: --target-ms {_round(slowest, math.floor)}"
    return f"profile a {size} --input{pixels} or a {size} space (docs/spaces.md), or take {end}"


def _round(value: float, direction: Callable[[float], int]) -> str:
    """Return a number with `DIGITS` significant digits, rounded up or down to stay within the range."""
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - DIGITS)
    return f"{direction(value / unit) * unit:.{DIGITS}g}"
