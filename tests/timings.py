"""Rows of `lgc-bench` with chosen frame rates and scores."""

from __future__ import annotations

from typing import Any

from lgc.lut import Target
from lgc.models.space.protocol import DENSE
from lgc.profiler.comparison import Timing


def make_timing(name: str, fps: float, miou: float | None, **fields: Any) -> Timing:
    numbers = dict.fromkeys(
        ("median_ms", "p90_ms", "p99_ms", "iqr_ms", "relative", "relative_low", "relative_high"), 1000 / fps
    )
    target = vars(Target("cpu", "onnxruntime"))
    return Timing(
        name, "run", "64x96", DENSE, **target, parameters=1, macs=1, fps=fps, **numbers, runs=200, max_abs_diff=None,
        argmax_agreement_pct=100.0, miou=miou, scored_on="val", **fields,
    )  # fmt: skip
