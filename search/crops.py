"""Validation of training crops."""

from __future__ import annotations

from ..errors import UsageError
from ..models.space.lgcnet import LGCNetSpace


def require_crop(crop: tuple[int, int] | None, space: LGCNetSpace) -> None:
    """Check that networks of `space` accept images of (height, width) `crop`, in pixels; None is the space's input.

    Raises:
        UsageError: they do not, or the crop is larger than the input.
    """
    if crop is None or crop == space.input:
        return
    if not space.accepts_size(crop):
        raise UsageError(f"--crop {crop[0]}x{crop[1]}: both sides must be {space.describe_sizes()}")
    if crop[0] > space.input[0] or crop[1] > space.input[1]:
        raise UsageError(
            f"--crop {crop[0]}x{crop[1]} is larger than the space's input, {space.input[0]}x{space.input[1]}"
        )
