"""Packed views: the windows of a batch as one array of bytes, the smallest form that can travel to a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....models.images import Normalisation, RGBImage
from ..labels import LabelMap
from .geometry import View

GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""
MEAN_SAMPLES = 32
"""Number of rows and columns of a window, at least, that its mean grey is computed from."""

Colours = tuple[tuple[float, float, float, float], ...]
"""Matrix [3, 4] that maps (red, green, blue, 1), in 0..255, to normalised colours."""
Cut = tuple[View, RGBImage, LabelMap]
"""A view, and the window of the image [h, w, 3] and of its label [h, w]."""


class PackedViews(NamedTuple):
    """Views of a batch, on the host.

    Attributes:
        data: Bytes of all windows: of each the image [h, w, 3], then its label [h, w].
        colours: Change of the colours of each view.
        views: Windows and places.
    """

    data: Tensor
    colours: tuple[Colours, ...]
    views: tuple[View, ...]


def pack_views(cuts: Sequence[Cut], normalisation: Normalisation) -> PackedViews:
    """Copy the windows of views into one array."""
    data = torch.empty(sum(4 * classes.size for _, _, classes in cuts), dtype=torch.uint8)
    content, start = data.numpy(), 0
    for _, pixels, classes in cuts:
        for part in (pixels, classes):
            content[start : start + part.size].reshape(part.shape)[:] = part
            start += part.size
    colours = tuple(make_colours(view.jitter, pixels, normalisation) for view, pixels, _ in cuts)
    return PackedViews(data, colours, tuple(view for view, _, _ in cuts))


def make_colours(jitter: tuple[float, float, float], pixels: RGBImage, normalisation: Normalisation) -> Colours:
    """Return the change of a view's colours.

    Brightness is multiplied; then contrast is changed around the mean grey of the window, and saturation around each
    pixel's own grey. The mean is that of a grid of pixels, in whole numbers, so it is the same on every machine.
    """
    brightness, contrast, saturation = jitter
    step = max(1, min(pixels.shape[:2]) // MEAN_SAMPLES)
    sample = pixels[::step, ::step]
    mean = sum(weight * int(sample[..., channel].sum(dtype=np.int64)) for channel, weight in enumerate(GREY.tolist()))
    matrix = np.empty((3, 4))
    matrix[:, :3] = contrast * brightness * (saturation * np.eye(3) + (1 - saturation) * GREY)
    matrix[:, 3] = (1 - contrast) * brightness * mean / (sample.size // 3) - 255 * np.array(normalisation.mean)
    return tuple(map(tuple, (matrix / (255 * np.array(normalisation.std)[:, None])).tolist()))
