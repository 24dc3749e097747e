"""Outputs as maps of the image's pixels: their layout and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..signature import NCHW, NHWC, ImageInput, Signature, TensorSpec, count_images

MAX_STRIDE = 32
"""Largest ratio of an image's height and width to a map's: the usual one of a backbone's last features."""
MIN_MAP_SIDE = 2
"""Smallest height and width of a map of a larger image: a row of numbers is more likely a classifier's."""


@dataclass(frozen=True)
class PixelMap:
    """Output as a map of pixels.

    Attributes:
        layout: `NCHW` or `NHWC`.
        channels: Number of channels; 1 for outputs without an axis of channels.
        size: Height and width.
    """

    layout: str
    channels: int
    size: tuple[int, int]


def list_pixel_maps(output: TensorSpec, image: ImageInput) -> list[PixelMap]:
    """Return the ways to read an output as a map of the image's pixels, the likeliest first; none for other outputs.

    A map of the image's own size precedes smaller ones, and the layout of the input the other one.
    """
    shape = output.shape
    if output.dtype != "bool" and "int" not in output.dtype and "float" not in output.dtype:
        return []
    if len(shape) == 2:
        return [PixelMap(NCHW, 1, (shape[0], shape[1]))] if _is_scaled(shape, image.size) else []
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1):
        return []
    first, second, third = shape[-3:]
    maps = [PixelMap(NCHW, first, (second, third)), PixelMap(NHWC, third, (first, second))]
    fitting = [each for each in maps if _is_scaled(each.size, image.size)]
    return sorted(fitting, key=lambda each: (each.size != image.size, each.layout != image.layout))


def is_ambiguous(maps: Sequence[PixelMap], image: ImageInput) -> bool:
    """Return True if an output fits both layouts equally well."""
    return len(maps) > 1 and (maps[0].size == image.size) == (maps[1].size == image.size)


def find_channels(network: Signature) -> int | None:
    """Return the number of classes whose scores the outputs are; None without scores, or where they differ.

    Outputs with one channel are masks or label maps. An output that fits both layouts has no certain number. Of a batch
    those of one image are counted.
    """
    network = _select_image(network)
    image = network.find_image()
    if image is None:
        return None
    counts = set()
    for output in network.outputs:
        maps = list_pixel_maps(output, image)
        if maps and maps[0].channels > 1:
            counts.add(None if is_ambiguous(maps, image) else maps[0].channels)
    return counts.pop() if len(counts) == 1 else None


def _select_image(network: Signature) -> Signature:
    """Return the signature of a network for one image of its batch."""
    batch = count_images(network.inputs)

    def select(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(each, shape=(1, *each.shape[1:])) if each.shape[:1] == (batch,) else each for each in tensors
        )

    return Signature(network.where, select(network.inputs), select(network.outputs), network.metadata)


def find_channel_axis(output: TensorSpec, image: ImageInput | None) -> int | None:
    """Return the axis of the scores of classes, counted from the end; None for other outputs.

    An output that fits both layouts is read like `lgc-predict` does.
    """
    maps = [] if image is None else list_pixel_maps(output, image)
    if not maps or maps[0].channels == 1:
        return None
    return -3 if maps[0].layout == NCHW else -1


def _is_scaled(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """Return True if a map has the proportions of an image that it is not larger than, up to a row or column."""
    (height, width), (full_height, full_width) = shape, size
    if (height, width) == size:
        return True
    if height > full_height or width > full_width or min(height, width) < MIN_MAP_SIDE:
        return False
    if (height + 1) * MAX_STRIDE < full_height or (width + 1) * MAX_STRIDE < full_width:
        return False
    rows, columns = width * full_height / full_width, height * full_width / full_height
    return abs(height - rows) <= 1 or abs(width - columns) <= 1
