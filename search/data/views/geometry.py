"""Random views: the window of an image that a training sees, its place in the crop, and its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ....models.images import RGBImage
from ..labels import LabelMap

Size = tuple[int, int]
"""Height and width in pixels."""

SCALES = (0.5, 2.0)
"""Smallest and largest factor between an image and its view."""
MIN_COVER = 0.75
"""Smallest share of each side of the crop that the scaled image covers, whatever the factor; the rest is padding."""
JITTER = 0.3
"""Largest relative change of brightness, contrast and saturation."""


@dataclass(frozen=True)
class View:
    """A random view of an image, in pixels.

    Attributes:
        crop: Height and width of the view.
        window: Top, left, height and width of the region of the image file.
        place: Top, left, height and width of the scaled window in the crop; the rest of the crop is padding.
        flip: True if the scaled window is mirrored horizontally.
        jitter: Factors of brightness, contrast and saturation.
    """

    crop: Size
    window: tuple[int, int, int, int]
    place: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[float, float, float]

    def cut(self, pixels: RGBImage, classes: LabelMap) -> tuple[RGBImage, LabelMap]:
        """Return the window of an image [H, W, 3] and of its label [H, W]; nothing is copied."""
        top, left, height, width = self.window
        region = (slice(top, top + height), slice(left, left + width))
        return pixels[region], classes[region]


def draw_view(rng: np.random.Generator, file: Size, size: Size, crop: Size) -> View:
    """Draw a random view of an image.

    The image is scaled to `size` times a factor of 0.5 to 2, but not far below the crop's size, see `MIN_COVER`. A
    random window of size `crop` is flipped horizontally with probability 1/2; brightness, contrast and saturation vary
    by up to 30 %. The window begins and ends at whole pixels of the file, so the factor is met to within one of them.

    Args:
        rng: Random generator; the same state gives the same view.
        file: Size of the image file.
        size: Size of the image at factor 1.
        crop: Size of the view.
    """
    cover = max(side / full for side, full in zip(crop, size, strict=True))
    smallest = min(max(SCALES[0], MIN_COVER * cover), SCALES[1])
    # Uniform in the logarithm: halving and doubling are equally likely.
    factor = math.exp(rng.uniform(math.log(smallest), math.log(SCALES[1])))
    offset, flip = rng.random(2), bool(rng.random() < 0.5)
    brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
    (top, height), (row, rows) = _draw_side(file[0], size[0], crop[0], factor, offset[0])
    (left, width), (column, columns) = _draw_side(file[1], size[1], crop[1], factor, offset[1])
    jitter = (brightness, contrast, saturation)
    return View(crop, (top, left, height, width), (row, column, rows, columns), flip, jitter)


def _draw_side(
    file: int, size: int, crop: int, factor: float, offset: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return start and length of a view along one axis: in the file, and in the crop."""
    scaled = max(1, round(size * factor))
    length = min(crop, scaled)
    cut = min(max(1, round(length * file / scaled)), file)
    return (int(offset * (file - cut + 1)), cut), (int(offset * (crop - length + 1)), length)
