"""Input images: reading as RGB bytes, resizing, normalisation."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, LgcError, UsageError
from ..files import describe

if TYPE_CHECKING:
    from PIL import Image

MIN_STD = 1e-6
"""Smallest standard deviation: a smaller one is a mistake, and makes pixels infinite."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of a network's input, per RGB channel in 0..1.

    Raises:
        UsageError: A deviation is below `MIN_STD`, or a number is not finite.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) < MIN_STD:
            numbers = f"mean {self.mean}, std {self.std}"
            raise UsageError(f"invalid normalisation: {numbers}; all must be finite, std must be above 0.000001")


def list_pixel_scales(mean: Iterable[float], std: Iterable[float]) -> set[float]:
    """Return the largest pixel values, 1 or 255, that mean and standard deviation refer to.

    Below 1 a number refers to pixels in 0..1, above 1 to pixels in 0..255; 0 and 1 may refer to both.
    """
    return {1.0 if abs(value) < 1 else 255.0 for value in (*mean, *std) if abs(value) not in (0, 1)}


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""ImageNet's statistics, the default of all networks."""

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
"""File extensions of JPEG files; browsers save `.jfif`."""
NETPBM_SUFFIXES = (".ppm", ".pgm", ".pbm", ".pnm")
"""File extensions of Netpbm files."""
LOSSY_SUFFIXES = (*JPEG_SUFFIXES, ".webp", ".avif", ".jp2", ".j2k")
"""File extensions of formats whose compression may alter pixels."""
IMAGE_SUFFIXES = (".png", *LOSSY_SUFFIXES, ".bmp", ".gif", *NETPBM_SUFFIXES, ".tif", ".tiff")
"""File extensions of images in a folder, in lower case."""
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
"""File extensions of cameras' raw files."""
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".tga", ".psd", ".svg", ".exr", ".hdr", ".dcm", ".npy", ".npz"),
    *RAW_SUFFIXES,
)
"""File extensions of images that are not read: Pillow cannot open them, or not as RGB of 8 bits."""
CONVERT_HINT = "convert them to JPEG or PNG"
"""Way out for images that are not read."""
MAX_PIXELS_VARIABLE = "LGC_MAX_PIXELS"
"""Environment variable with the largest number of pixels of an image; by default Pillow's limit, 179 million."""
IMAGE_FOLDER, LABEL_FOLDERS = "images", ("labels", "masks", "annotations")
"""Name of a dataset's folder of images, and of folders of labels next to it."""
LABEL_ENDINGS = ("annot", "_labels", "_masks")
"""Endings of a folder of labels next to that of its images, e.g. `trainannot` next to `train`."""
SYSTEM_NAMES = ("__macosx", "thumbs.db", "desktop.ini")
"""Files and folders that macOS and Windows leave among images, in lower case."""

MAX_DARK = 63
"""Largest value of an image that uses fewer than its 16 bits, e.g. the 12 bits of a camera."""
_OPTIONAL_SUFFIXES = (".avif", ".jp2", ".j2k")
"""File extensions of formats that some builds of Pillow cannot open."""
_WEBP_HEAD = 64
"""Bytes of a WebP file that show its compression."""
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF files, those of BigTIFF last."""
_SAMPLE_FORMATS = {2: " signed", 3: " float", 5: " complex", 6: " complex"}
"""Names of a TIFF file's sample formats, but for unsigned integers."""
_DOUBTFUL_FORMATS = {"AVIF": "AVIF", "JPEG2000": "JPEG 2000"}
"""Pillow's names of formats that have lossless forms, which their headers do not show -> names in messages."""
PREVIEW_FORMATS = ("MPO",)
"""Formats of photographs whose further frames are previews or other views."""

RGBImage = NDArray[np.uint8]
"""RGB, [H, W, 3]."""

OnRemark = Callable[[str], None]
"""Receives remarks on an image, as phrases without a full stop."""


def ignore_remark(remark: str) -> None:
    """Ignore a remark."""


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file lazily; Pillow's errors inside the block become a DataError that names the file."""
    from PIL import Image, UnidentifiedImageError

    _apply_pixel_limit()
    try:
        with Image.open(path) as file:
            yield file
    except LgcError:
        raise
    except Image.DecompressionBombError as error:  # "Image size (200000000 pixels) exceeds limit of ..."
        count, *_ = re.findall(r"\d+", str(error)) or ["?"]
        raise DataError(
            f"cannot read image {path}: too large: {count} pixels (set {MAX_PIXELS_VARIABLE}={count} to allow them)"
        ) from error
    except UnidentifiedImageError as error:
        kind = _describe_tiff(path) or describe(path)
        reason = "truncated or damaged" if kind.endswith("image") else f"it is {kind}"
        is_unread = path.suffix.lower() in (*UNREAD_SUFFIXES, *_OPTIONAL_SUFFIXES)
        raise DataError(f"cannot read image {path}: {reason}{'; convert it to JPEG or PNG' * is_unread}") from error
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except MemoryError as error:
        raise DataError(f"cannot read image {path}: not enough memory for its pixels") from error
    except Exception as error:  # decoders raise errors of any class for damaged files
        reason = getattr(error, "strerror", None) or f"truncated or damaged ({error or type(error).__name__})"
        raise DataError(f"cannot read image {path}: {reason}") from error


def _describe_tiff(path: Path) -> str | None:
    """Return what bands a TIFF file has that Pillow cannot decode, for a message; None for other or damaged files."""
    from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT, SAMPLESPERPIXEL, ImageFileDirectory_v2

    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] not in _TIFF_HEADS:
            return None
        try:
            tags = ImageFileDirectory_v2(head + file.read(8 * (43 in head[2:4])))
            file.seek(tags.next)
            tags.load(file)
            bands, bits = tags.get(SAMPLESPERPIXEL, 1), max(tags.get(BITSPERSAMPLE, (1,)))
            form = _SAMPLE_FORMATS.get(max(tags.get(SAMPLEFORMAT, (1,))), "")
        except Exception:  # Pillow's parser raises errors of any class
            return None
    noun = "band" if bands == 1 else "bands"
    return (
        f"a TIFF image with {bands} {noun} of {bits}-bit{form} samples: save it with 1 or 3 bands of 8 bits (grey, RGB)"
    )


def _apply_pixel_limit() -> None:
    """Replace Pillow's limit by the environment's, if it has one; silence its warnings, e.g. above half of the limit.

    Raises:
        UsageError: The environment's limit is not a positive integer.
    """
    from PIL import Image

    silent = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if silent not in warnings.filters:  # a change of the filters would show other warnings again
        warnings.filterwarnings("ignore", module=r"PIL\.")
    limit = os.environ.get(MAX_PIXELS_VARIABLE)
    if not limit:
        return
    if not limit.isdecimal() or int(limit) < 1:
        raise UsageError(f"{MAX_PIXELS_VARIABLE} must be a number of pixels, got {limit!r}")
    Image.MAX_IMAGE_PIXELS = (int(limit) + 1) // 2  # Pillow refuses images above twice this number


def check_image(path: Path) -> None:
    """Check that a file is an image by its header alone, without decoding it.

    Raises:
        DataError: The file is missing, not an image, or too large.
    """
    with _open_image(path):
        pass


@dataclass(frozen=True)
class ImageHeader:
    """Content of an image file's header.

    Attributes:
        size: Height and width, rotated by the EXIF orientation.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        frames: Number of frames or pages; 1 for photographs with previews.
        channels: Number of channels after decoding.
        bits: Bits per channel; Pillow keeps the upper 8 of 16 where there are several channels.
        maximum: Largest value that the file can have, if Pillow spreads its values over the whole range; else None.
        lossy: Name of the compression if it may alter pixels, else None.
    """

    size: tuple[int, int]
    orientation: int
    frames: int
    channels: int
    bits: int
    maximum: int | None
    lossy: str | None


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image file, without decoding the pixels.

    Raises:
        DataError: The file is missing, not an image, or too large.
    """
    with _open_image(path) as file:
        tiles = getattr(file, "tile", None)
        arguments = tiles[0][3] if tiles else ()
        raw_mode, *others = (arguments,) if isinstance(arguments, str) else arguments or ("",)
        maximum = {"L;2": 3, "L;4": 15}.get(raw_mode)
        if file.format == "PPM" and others:
            maximum = int(others[0])
        is_deep = ";16" in str(raw_mode) and not str(raw_mode).startswith("BGR;")  # BGR;16 has 16 bits per pixel
        orientation = _read_orientation(file, path)
        is_turned = orientation >= 5 and file.format != "TIFF"  # whose size Pillow has exchanged
        return ImageHeader(
            size=(file.width, file.height) if is_turned else (file.height, file.width),
            orientation=orientation,
            frames=1 if file.format in PREVIEW_FORMATS else getattr(file, "n_frames", 1),
            channels=len(file.getbands()),
            bits=16 if is_deep or (maximum or 0) > 255 else 8,
            maximum=maximum,
            lossy=_find_lossy_compression(file, path),
        )


def _find_lossy_compression(file: Image.Image, path: Path) -> str | None:
    """Return the name of an open image's compression if it may alter pixels, whatever the file's name; else None."""
    if file.format in ("JPEG", "MPO"):
        return "JPEG"
    if file.format == "WEBP":
        with path.open("rb") as content:
            return "lossy WebP" if b"VP8 " in content.read(_WEBP_HEAD) else None
    if file.format in _DOUBTFUL_FORMATS:
        return _DOUBTFUL_FORMATS[file.format]
    return "JPEG-compressed TIFF" if "jpeg" in str(file.info.get("compression")) else None


def _read_orientation(file: Image.Image, path: Path) -> int:
    """Return the EXIF orientation of an open image; 1 if it has none, or damaged EXIF data, as in `decode_image`."""
    from PIL import ExifTags

    if file.format == "PNG" and not _has_exif(path):  # `getexif` would decode the pixels to look behind them
        return 1
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's parser raises errors of any class
        return 1
    return orientation if orientation in range(1, 9) else 1


def _has_exif(path: Path) -> bool:
    """Return True if a PNG file has EXIF or XMP data, before or behind its pixels."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4], "big")
            start = file.read(min(length, 21))
            if head[4:] == b"eXIf" or start.startswith((b"XML:com.adobe.xmp", b"Raw profile type exif")):
                return True
            file.seek(length - len(start) + 4, os.SEEK_CUR)
    return False


def read_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image, rotated by its EXIF orientation, from its header.

    Raises:
        DataError: The file is missing, not an image, or too large.
    """
    return read_header(path).size


def decode_image(path: Path, on_remark: OnRemark = ignore_remark) -> Image.Image:
    """Decode an image file, upright: rotated by its EXIF orientation.

    Args:
        path: Image file. Of an animation or a file with several pages, the first frame is decoded.
        on_remark: Receives remarks on skipped frames and bands, and damaged EXIF data.

    Raises:
        DataError: The file is missing, not an image, truncated, damaged or too large.
    """
    from PIL import ImageOps

    with _open_image(path) as file:
        frames = getattr(file, "n_frames", 1)
        if frames > 1 and file.format not in PREVIEW_FORMATS:
            on_remark(f"the first of {frames} frames or pages is used")
        if file.format == "TIFF" and (bands := _count_tiff_bands(file)) > len(file.getbands()):
            on_remark(f"the first {len(file.getbands())} of {bands} bands are used")
        is_deep = len(file.getbands()) > 1 and any(_has_16_bits(tile) for tile in getattr(file, "tile", ()))
        file.load()
        if is_deep:
            largest = max(high for _, high in file.convert("RGB").getextrema())  # type: ignore[misc]
            hint = "" if largest > MAX_DARK else ": nearly black, scale it to 8 bits per channel"
            on_remark(f"of 16 bits per channel the upper 8 are used; their largest value is {largest} of 255{hint}")
        try:
            ImageOps.exif_transpose(file, in_place=True)
        except Exception:  # Pillow's parser raises errors of any class; the pixels are intact
            on_remark("damaged EXIF data: the image is not rotated")
        return file.copy()


def _count_tiff_bands(file: Any) -> int:
    """Return the number of bands of an open TIFF image; Pillow decodes up to four."""
    from PIL.TiffImagePlugin import SAMPLESPERPIXEL

    return int(file.tag_v2.get(SAMPLESPERPIXEL, 1))


def _has_16_bits(tile: Any) -> bool:
    """Return True if a part of a file has 16 bits per channel; Pillow keeps the upper 8 of several channels."""
    arguments = tile[3]
    mode = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return isinstance(mode, str) and ";16" in mode


def read_pixels(path: Path, size: tuple[int, int] | None = None, on_remark: OnRemark = ignore_remark) -> RGBImage:
    """Read an image as RGB, upright; transparency is ignored.

    Args:
        path: Image file with 8 bits per channel.
        size: Height and width to resize to, bilinear; None keeps the image's size.
        on_remark: Receives remarks on ignored parts of the file.

    Raises:
        DataError: The file cannot be decoded, or has one channel of more than 8 bits.
    """
    image = decode_image(path, on_remark)
    if image.mode[0] in "IF":  # Pillow would clip the values to a white image
        raise DataError(f"cannot read image {path}: mode {image.mode}; convert it to 8 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            on_remark("transparency is ignored")
    return resize_image(np.asarray(image.convert("RGB")), size)


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
