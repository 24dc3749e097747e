"""Images as networks take them: read as RGB bytes, resized, normalised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in 0..1: what every network here is trained on and fed with."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
"""Files that count as images where a folder is given."""

RGBImage = NDArray[np.uint8]
"""RGB, [H, W, 3]."""


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what Pillow raises over a file into the error that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image that can be read") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist any more") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error


def check_image(path: Path) -> None:
    """Show that a file is an image, by its head alone, which takes no time.

    Raises:
        DataError: it is none.
    """
    from PIL import Image

    with _refused(path), Image.open(path):
        pass


def decode_image(path: Path) -> Image.Image:
    """Decode a whole image file.

    Raises:
        DataError: where it is missing, no image, truncated or damaged.
    """
    from PIL import Image

    with _refused(path), Image.open(path) as file:
        file.load()
        return file.copy()


def read_pixels(path: Path, size: tuple[int, int] | None = None) -> RGBImage:
    """Read an image as RGB, upright (EXIF), resized (bilinear) to `size`, (height, width), if one is given.

    Raises:
        DataError: where the file cannot be decoded, or its values are no bytes.
    """
    from PIL import ImageOps

    image = decode_image(path)
    if image.mode[0] in "IF":  # Pillow would clip them, and give a white image
        raise DataError(f"{path} has {image.mode} values, no bytes: convert it to 8 bits a channel")
    return resize_image(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), size)


def resize_image(pixels: RGBImage, size: tuple[int, int] | None) -> RGBImage:
    """The image at `size`, (height, width), bilinear; as it is where it has that size or None is given."""
    from PIL import Image

    if size is None or pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def normalise_image(pixels: RGBImage) -> NDArray[np.float32]:
    """RGB bytes [..., H, W, 3] -> float32 [..., 3, H, W] of about zero mean and unit variance."""
    image = np.ascontiguousarray(np.moveaxis(pixels, -1, -3), np.float32)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    image /= 255
    image -= mean
    image /= std
    return image


def list_images(place: Path) -> Iterator[Path]:
    """The images at a place: a file itself, or those in a folder and below, by name.

    Raises:
        DataError: there is nothing, or a folder without images.
    """
    if place.is_file():
        yield place
        return
    if not place.is_dir():
        raise DataError(f"{place} does not exist")
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{place} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    yield from found
