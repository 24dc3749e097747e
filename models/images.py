"""Input images: reading as RGB bytes, resizing, normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of a network's input, per RGB channel in 0..1.

    Raises:
        UsageError: A deviation is not positive, or a number is not finite.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise UsageError(f"invalid normalisation: mean {self.mean}, std {self.std}; std must be above 0")


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""ImageNet's statistics, the default of all networks."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
"""File extensions of images in a folder."""

RGBImage = NDArray[np.uint8]
"""RGB, [H, W, 3]."""


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn Pillow's errors into a DataError that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"cannot read image {path}: unknown format") from error
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: truncated or damaged ({error})") from error


def check_image(path: Path) -> None:
    """Check that a file is an image by its header alone, without decoding it.

    Raises:
        DataError: The file is missing or not an image.
    """
    from PIL import Image

    with _translate_errors(path), Image.open(path):
        pass


def read_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image, rotated by its EXIF orientation, from its header.

    Raises:
        DataError: The file is missing or not an image.
    """
    from PIL import ExifTags, Image

    with _translate_errors(path), Image.open(path) as file:
        width, height = file.size
        if file.format == "PNG" and "exif" not in file.info:  # `getexif` would decode the pixels to look behind them
            return height, width
        is_turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by 90 degrees
    return (width, height) if is_turned else (height, width)


def decode_image(path: Path) -> Image.Image:
    """Decode an image file.

    Raises:
        DataError: The file is missing, not an image, truncated or damaged.
    """
    from PIL import Image

    with _translate_errors(path), Image.open(path) as file:
        file.load()
        return file.copy()


def read_image(path: Path) -> Image.Image:
    """Read an image with 8 bits per channel as RGB, rotated by its EXIF orientation.

    Raises:
        DataError: The file cannot be decoded, or has more than 8 bits per channel.
    """
    from PIL import ImageOps

    image = decode_image(path)
    if image.mode[0] in "IF":  # Pillow would clip the values to a white image
        raise DataError(f"cannot read image {path}: mode {image.mode}; convert it to 8 bits per channel")
    return ImageOps.exif_transpose(image).convert("RGB")


def read_pixels(path: Path, size: tuple[int, int] | None = None) -> RGBImage:
    """Read an image as RGB bytes; see `read_image`.

    Args:
        path: Image file.
        size: Height and width to resize to, bilinear; None keeps the image's size.
    """
    return resize_image(np.asarray(read_image(path)), size)


def resize_image(pixels: RGBImage, size: tuple[int, int] | None) -> RGBImage:
    """Resize an image to `size`, (height, width), bilinear; None keeps its size."""
    from PIL import Image

    if size is None or pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def normalise_image(pixels: RGBImage, normalisation: Normalisation = IMAGENET) -> NDArray[np.float32]:
    """Normalise RGB bytes [..., H, W, 3] to float32 [..., 3, H, W]."""
    image = np.ascontiguousarray(np.moveaxis(pixels, -1, -3), np.float32)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (normalisation.mean, normalisation.std))
    image /= 255
    image -= mean
    image /= std
    return image


def list_images(path: Path) -> Iterator[Path]:
    """Yield `path` if it is a file; else the images in that folder and its subfolders, sorted by path.

    Raises:
        DataError: `path` does not exist, or the folder contains no images.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise DataError(f"no such file or folder: {path}")
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not images:
        raise DataError(f"no images in folder {path} ({', '.join(IMAGE_SUFFIXES)})")
    yield from images
