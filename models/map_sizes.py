"""Sizes of output maps: those of the whole image, and those of a part of it."""

from __future__ import annotations


def covers_image(size: tuple[int, int], image: tuple[int, int]) -> bool:
    """Return True if a map covers its whole image; False if it may be a cut-out or padded.

    A map covers it if its sides are those of the image divided by one integer, rounded up or down, or one larger for
    aligned corners. Other ratios must be exact: multiples, or divisors of twice the image's sides. Images that are not
    square may be divided by any factor, since a part without borders has other proportions.

    Args:
        size: Height and width of the map.
        image: Height and width of the image.
    """
    (height, width), (full_height, full_width) = size, image
    if height * full_width == width * full_height:
        if height > full_height:
            return height % full_height == 0
        if full_height != full_width or 2 * full_height % height == 0:
            return True
    return any(
        all(-1 < side - length / stride <= 1 for side, length in zip(size, image, strict=True))
        for stride in range(1, max(image) + 1)
    )
