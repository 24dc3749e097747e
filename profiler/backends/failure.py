"""What TensorRT or CUDA said where it failed, as an error of one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import MeasurementError

LONGEST = 400
"""Characters of their words that an error message carries at most."""

_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|insufficient memory|memoryallocation|gpu memory .*could not be allocated", re.IGNORECASE
)
_NO_KERNEL = "could not find any implementation"
"""What TensorRT's error says where its warnings tell that no kernel got the memory it wants."""


def failure(what: str, errors: Sequence[str], warnings: Sequence[str] = ()) -> MeasurementError:
    """An error to raise: what happened, why by these words, and, where memory is short, what helps.

    Args:
        what: say `TensorRT 10.9 could not build the engine`.
        errors: the library's own words.
        warnings: likewise; they count where the errors give no reason.
    """
    words = one_line("\n".join(errors))
    short = [line for line in warnings if _MEMORY.search(line)] if not words or _NO_KERNEL in words.lower() else []
    if short or _MEMORY.search(words):
        words = one_line("\n".join([*errors, *short[:1]])).rstrip(".")
        return MeasurementError(
            f"too little GPU memory: {what}: {words}; take a smaller input size, or end other programs on the GPU"
        )
    return MeasurementError(f"{what}: {words or 'it gave no reason'}")


def one_line(text: str) -> str:
    """Their words on one line: no line twice, at most `LONGEST` characters, no echo of a missing driver."""
    lines = (line.strip() for line in text.splitlines())
    words = "; ".join(dict.fromkeys(line for line in lines if line and "catchCudaError" not in line))
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
