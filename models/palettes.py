"""Colour palettes of classes."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Palette = tuple[tuple[int, int, int], ...]
"""RGB colour of each class, 0 to 255."""

HUE_STEP = (5**0.5 - 1) / 2
"""Golden ratio, as a part of the colour circle: spreads any number of hues evenly."""
SHADES = ((0.70, 1.0), (0.85, 0.72), (0.45, 0.90))
"""Saturation and value of consecutive colours, repeated."""


def distinct_palette(count: int) -> Palette:
    """Return `count` different colours; consecutive colours contrast."""
    colours = []
    for index in range(count):
        saturation, value = SHADES[index % len(SHADES)]
        colours.append(colorsys.hsv_to_rgb(index * HUE_STEP % 1, saturation, value))
    return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours)


def colourise_labels(labels: npt.NDArray[np.integer], palette: Palette) -> npt.NDArray[np.uint8]:
    """Map labels [H, W] to colours, uint8 [H, W, 3]; classes beyond the palette become black."""
    import numpy as np

    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    colours: npt.NDArray[np.uint8] = table[np.asarray(labels, dtype=np.uint8)]
    return colours
