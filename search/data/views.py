"""Data augmentation: random scale, crop, flip and colour jitter of a training image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...models.images import RGBImage
from .labels import IGNORE, LabelMap

SCALES = (0.5, 2.0)
JITTER = 0.3

IMAGENET_MEAN = (124, 116, 104)
"""Mean of ImageNet: such padding is 0 after normalisation."""


def resize_pair(image: Image.Image, label: LabelMap, size: tuple[int, int]) -> tuple[RGBImage, LabelMap]:
    """Resize an image (bilinear) and its label [H, W] (nearest) to `size`, (height, width)."""
    height, width = size
    box = (0.0, 0.0, float(image.width), float(image.height))
    return _crop_resize(image, label, (width, height), box)


def augment_pair(
    image: Image.Image,
    label: LabelMap,
    size: tuple[int, int],
    crop: tuple[int, int],
    rng: np.random.Generator,
    padding: tuple[int, ...] = IMAGENET_MEAN,
) -> tuple[RGBImage, LabelMap]:
    """Return a random view of an image and its label.

    Scale the image to `size` times a factor of 0.5 to 2, crop a random window of size `crop` (padded if the image is
    smaller), flip it horizontally with probability 1/2, and vary brightness, contrast and saturation by up to 30 %.

    Args:
        image: RGB image.
        label: Label of the same size, uint8 [H, W].
        size: Height and width at scale factor 1.
        crop: Height and width of the result.
        rng: Random generator; the same state gives the same view.
        padding: Colour of the pixels outside the image; the mean that the images are normalised by.

    Returns:
        Image, uint8 [crop height, crop width, 3], and label, uint8 [crop height, crop width]; padded labels are 255.
    """
    # Uniform in the logarithm: halving and doubling are equally likely.
    factor = float(np.exp(rng.uniform(np.log(SCALES[0]), np.log(SCALES[1]))))
    offset, flip = rng.random(2), rng.random() < 0.5
    jitter = rng.uniform(1 - JITTER, 1 + JITTER, 3)
    scaled = [max(1, round(side * factor)) for side in size]
    cut = [min(window, side) for window, side in zip(crop, scaled, strict=True)]
    start = [int(s * (side - c + 1)) for s, side, c in zip(offset, scaled, cut, strict=True)]
    slack = [int(s * (window - c + 1)) for s, window, c in zip(offset, crop, cut, strict=True)]
    # Pixels of the file per pixel of the scaled image. Only the window is resized.
    ratio = (image.height / scaled[0], image.width / scaled[1])
    box = (
        start[1] * ratio[1],
        start[0] * ratio[0],
        min((start[1] + cut[1]) * ratio[1], image.width),
        min((start[0] + cut[0]) * ratio[0], image.height),
    )
    pixels, classes = _crop_resize(image, label, (cut[1], cut[0]), box)
    view = np.empty((*crop, 3), dtype=np.uint8)
    view[:] = padding
    target = np.full(crop, IGNORE, dtype=np.uint8)
    window = (slice(slack[0], slack[0] + cut[0]), slice(slack[1], slack[1] + cut[1]))
    view[window] = _jitter(pixels, jitter)
    target[window] = classes
    if flip:
        view, target = view[:, ::-1], target[:, ::-1]
    return view, target


def _crop_resize(
    image: Image.Image, label: LabelMap, size: tuple[int, int], box: tuple[float, float, float, float]
) -> tuple[RGBImage, LabelMap]:
    """Resize the region `box` (left, top, right, bottom) of image and label to `size`, (width, height)."""
    pixels = image.resize(size, Image.Resampling.BILINEAR, box=box)
    classes = Image.fromarray(label).resize(size, Image.Resampling.NEAREST, box=box)
    return np.array(pixels, dtype=np.uint8), np.array(classes, dtype=np.uint8)


def _jitter(pixels: RGBImage, factors: npt.NDArray[np.float64]) -> RGBImage:
    """Multiply brightness, contrast and saturation by the three factors."""
    brightness, contrast, saturation = factors.astype(np.float32)
    values = pixels.astype(np.float32) * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    grey = (values @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    values = (values - grey) * saturation + grey
    return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)
