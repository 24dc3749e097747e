"""Sources of decoded images and labels: the files themselves, or a cache of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ....errors import DataError
from ....models.images import RGBImage, read_pixels, read_size
from ..labels import IGNORE, LabelMap
from ..pairs import Pair
from ..reading import read_label


class PixelStore(Protocol):
    """Source of decoded images and labels; it can be pickled, so that data-loading processes can use it."""

    def read(self, pair: Pair) -> tuple[RGBImage, LabelMap]:
        """Return an image, uint8 [H, W, 3], and its label, uint8 [H, W], which is all void if there is no file.

        Raises:
            DataError: A file is damaged, a label has an invalid value, or its size differs from the image's.
        """

    def count(self, pair: Pair) -> npt.NDArray[np.int64]:
        """Return the number of pixels of each value of a label, [256]: of classes, and 255 of ignored ones.

        Raises:
            DataError: The label is damaged, or has an invalid value.
        """

    def estimate_pixels(self, pairs: Sequence[Pair]) -> int:
        """Return the number of pixels of the largest of several images.

        Raises:
            DataError: A file is damaged.
        """


class FileStore:
    """Files, decoded each time that they are read."""

    def read(self, pair: Pair) -> tuple[RGBImage, LabelMap]:
        """Decode an image and its label, see `PixelStore`."""
        pixels = read_pixels(pair.image)
        height, width, _ = pixels.shape
        if pair.label is None:
            return pixels, np.full((height, width), IGNORE, dtype=np.uint8)
        label = read_label(pair.label, pair.coding, pair.image)
        if label.shape == (height, width):
            return pixels, label
        message = (
            f"{pair.label} is {label.shape[0]}x{label.shape[1]} pixels, its image {pair.image.name} {height}x{width}"
        )
        with Image.open(pair.image) as file:
            if file.size[::-1] == label.shape:
                message += " after its EXIF rotation: rotate the label too, or remove the image's EXIF orientation"
        raise DataError(message)

    def count(self, pair: Pair) -> npt.NDArray[np.int64]:
        """Count the values of a label, see `PixelStore`; without a label, nothing is counted."""
        if pair.label is None:
            return np.zeros(IGNORE + 1, np.int64)
        return count_values(read_label(pair.label, pair.coding, pair.image))

    def estimate_pixels(self, pairs: Sequence[Pair]) -> int:
        """Return twice the number of the first image, as a margin: thousands of headers take too long to read."""
        height, width = read_size(pairs[0].image)
        return 2 * height * width


def count_values(classes: LabelMap) -> npt.NDArray[np.int64]:
    """Return the number of pixels of each value, [256]."""
    return np.bincount(classes.ravel(), minlength=IGNORE + 1)
