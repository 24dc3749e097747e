"""Colours of classes: what a palette is, and distinct ones for classes that no data set has given any."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Palette = tuple[tuple[int, int, int], ...]
"""RGB, 0 to 255, for each class."""

HUE_STEP = (5**0.5 - 1) / 2
SHADES = ((0.70, 1.0), (0.85, 0.72), (0.45, 0.90))
"""Saturation and brightness, in turn."""


def distinct_palette(count: int) -> Palette:
    """So many colours, all different, neighbours in the list far apart: hues by the golden ratio, in three shades."""
    colours = []
    for index in range(count):
        saturation, value = SHADES[index % len(SHADES)]
        colours.append(colorsys.hsv_to_rgb(index * HUE_STEP % 1, saturation, value))
    return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours)


def colourise_labels(label: npt.NDArray[np.integer], palette: Palette) -> npt.NDArray[np.uint8]:
    """Return `label` [H, W] in the colours of `palette`, uint8 [H, W, 3]; classes beyond the palette are black."""
    import numpy as np

    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    coloured: npt.NDArray[np.uint8] = table[np.asarray(label, dtype=np.uint8)]
    return coloured
