"""Resampling of scores and label maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...models.geometry import Affine, Geometry, locate_features

Labels = NDArray[np.uint8]
"""Label map, [h, w]."""


def upsample(
    channel: NDArray[np.float32], size: tuple[int, int], geometry: Geometry = Geometry.HALF_PIXEL
) -> NDArray[np.float32]:
    """Interpolate bilinearly, as in training and evaluation: [h, w] -> a new [*size]."""
    height, width = channel.shape
    if (height, width) == size:
        return channel.copy()
    rows, columns = locate_features(size, (height, width), geometry)
    top, bottom, down = _interpolation_weights(rows, size[0], height)
    left, right, across = _interpolation_weights(columns, size[1], width)
    wide = channel[:, left] * (1 - across) + channel[:, right] * across
    return np.asarray(wide[top] * (1 - down)[:, None] + wide[bottom] * down[:, None], np.float32)


def _interpolation_weights(
    axis: Affine, length: int, source: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return both source indices of each of `length` positions, and the weight of the second."""
    position = np.clip(np.arange(length) * axis.scale + axis.offset, 0, source - 1)
    first = np.floor(position).astype(np.int64)
    return first, np.minimum(first + 1, source - 1), (position - first).astype(np.float32)


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resize classes by nearest neighbour: [H, W] -> [*size]."""
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum(((np.arange(length) + 0.5) * source / length).astype(np.int64), source - 1)
        for length, source in zip(size, labels.shape, strict=True)
    )
    resized_labels: Labels = labels[rows[:, None], columns]
    return resized_labels
