"""Names of the precisions that networks are computed in."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16"]
"""Floating-point precision: of a latency table, and of a training."""
PRECISIONS: tuple[str, ...] = get_args(Precision)
INT8 = "int8"
EXPORT_PRECISIONS = (*PRECISIONS, INT8)
"""Precisions of exported networks."""
