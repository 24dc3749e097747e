"""Positions of feature maps in the image.

A 3x3 convolution of stride 2 with padding 1 is centred on every second pixel, so behind convolutions of total stride r,
feature j sits at pixel r * j. Resizing with half-pixel centres puts it at r * j + (r - 1) / 2 instead.

    ratio  pixels of the image for each feature, a power of two      p  pixel of the image      j  feature
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from ..errors import MismatchError

Size = tuple[int, int]
"""Height and width."""

GEOMETRY_FIELD = "geometry"
"""Field of spaces, and metadata key of exported files; without it, the geometry is `HALF_PIXEL`."""


class Affine(NamedTuple):
    """Position on a feature map as a function of that in the image: scale * pixel + offset."""

    scale: float
    offset: float


class Geometry(IntEnum):
    """Rule by which pixel p reads a feature map of m features, for an image of n pixels.

    Attributes:
        HALF_PIXEL: At (p + 0.5) * m / n - 0.5, as `align_corners=False` in torch. Off by up to (ratio - 1) / 2 pixels,
            and by another amount in crops of other sizes.
        STRIDED: At p / ratio, clamped to the last feature: ONNX's `asymmetric`. Exact but for the last ratio - 1
            pixels, at every size; equal to aligned corners where n = ratio * k + 1.
    """

    HALF_PIXEL = 1
    STRIDED = 2


def strided_length(length: int, stride: int) -> int:
    """Return the length of an axis after a stride: divided, rounded up."""
    return -(-length // stride)


def find_ratio(image: Size, features: Size) -> int:
    """Return the ratio of an image to its feature map: the smallest power of two that divides its sides, rounded up.

    Raises:
        MismatchError: There is none.
    """
    ratio = 1
    while ratio < 2 * max(image):
        if features == tuple(strided_length(side, ratio) for side in image):
            return ratio
        ratio *= 2
    raise MismatchError(
        f"a map of {features[0]}x{features[1]} is not an image of {image[0]}x{image[1]} divided by a power of two, as "
        f"geometry {Geometry.STRIDED} needs: use images of the network's own size"
    )


def locate_features(image: Size, features: Size, geometry: Geometry) -> tuple[Affine, Affine]:
    """Return the rows and columns at which the pixels of an image read a feature map.

    Raises:
        MismatchError: In geometry `STRIDED`, the map is not the image divided by a power of two.
    """
    if geometry == Geometry.STRIDED:
        scale = 1 / find_ratio(image, features)
        return Affine(scale, 0.0), Affine(scale, 0.0)
    rows, columns = (length / side for side, length in zip(image, features, strict=True))
    return Affine(rows, rows / 2 - 0.5), Affine(columns, columns / 2 - 0.5)
