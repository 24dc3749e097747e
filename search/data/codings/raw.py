"""Content of label files before their values get a meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ....errors import DataError
from ....models.images import decode_image, read_header

Values = npt.NDArray[np.integer]
"""Label values [H, W], or colours as 24-bit numbers."""
GREY = 0x010101
"""Darkest grey as a 24-bit number, of which the others are multiples."""
GREY_PALETTE = np.arange(256) * GREY
"""Colour of each value of a grey image, as a 24-bit number."""
_MODE_MAXIMUM = {"L": 255, "I": 65535}
"""Largest value of a mode, over whose range Pillow spreads the values of files with a smaller maximum."""
_DEEP_STEP = Fraction(1, 257)
"""Step between the greys, 0..255, of successive values of 16 bits."""


@dataclass(frozen=True, eq=False)
class RawLabel:
    """Content of a label file before its values get a meaning.

    Attributes:
        path: The file.
        mode: Pillow's name of its pixel format.
        values: Label values, or colours as 24-bit numbers; [H, W].
        is_coloured: True if `values` are colours.
        palette: Colour of each value as a 24-bit number, of files in palette mode; else None.
        grey_step: Step between the greys, 0..255, of successive values in files with one channel: 255 for one bit.
        lossy: Name of the compression if it alters values, else None.
        note: Assumption under which it was read; empty for none.
    """

    path: Path
    mode: str
    values: Values
    is_coloured: bool
    palette: Values | None = None
    grey_step: int | Fraction = 1
    lossy: str | None = None
    note: str = ""


def pack_colours(rgb: npt.ArrayLike) -> Values:
    """Return colours as 24-bit numbers; shape [..., 3] to [...]."""
    wide = np.asarray(rgb, dtype=np.int64)
    return np.asarray(wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2])


def unpack_colour(code: int) -> tuple[int, int, int]:
    """Return red, green and blue of a 24-bit number."""
    return code >> 16, code >> 8 & 255, code & 255


def read_raw_label(path: Path, image: Path | None = None) -> RawLabel:
    """Read a label file without giving its values a meaning, rotated by its EXIF orientation as its image is.

    Args:
        path: Label file.
        image: Its image, whose EXIF orientation that of the label must be, if the label has one; None if unknown.

    Raises:
        DataError: The file cannot be decoded without loss, its mode is not that of a label, or it would be rotated
            against its image.
    """
    header, file = read_header(path), decode_image(path)
    problem = f"cannot read label {path}: "
    if header.frames > 1:
        raise DataError(f"{problem}it has {header.frames} pages or frames; save one image per label")
    if header.channels > 1 and (header.bits > 8 or header.maximum not in (None, 255)):
        raise DataError(f"{problem}its channels have not 8 bits each; convert it, or save indices in one channel")
    if image is not None and header.orientation != 1 and header.orientation != read_header(image).orientation:
        raise DataError(f"{problem}it has the EXIF orientation {header.orientation}, {image.name} another; remove it")
    if file.mode in ("LA", "RGBA", "PA"):
        alpha = np.asarray(file.getchannel("A"))
        if (alpha != 255).any():
            raise DataError(f"{problem}it has transparent pixels (mode {file.mode}); remove its alpha")
        file = file.convert({"LA": "L", "RGBA": "RGB", "PA": "P"}[file.mode])
    if file.mode == "RGB":
        return RawLabel(path, file.mode, pack_colours(np.asarray(file)), True, lossy=header.lossy)
    if file.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(f"{problem}mode {file.mode} is neither of indices nor of colours")
    palette = None
    if file.mode == "P":
        colours = np.array(file.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette = pack_colours(colours)
    values: Values = np.asarray(file)
    step: int | Fraction = _DEEP_STEP if file.mode.startswith("I;16") else 1
    if file.mode == "1":
        values, step = values.astype(np.uint8), 255
    elif header.maximum is not None and palette is None:
        values = np.rint(values * (header.maximum / _MODE_MAXIMUM[file.mode])).astype(values.dtype)
        step = max(255 // header.maximum, 1)
    return RawLabel(path, file.mode, values, False, palette, step, header.lossy)


def require_lossless(raw: RawLabel) -> None:
    """Check by its content, whatever its name, that the compression of a label keeps its values.

    Raises:
        DataError: It does not.
    """
    if raw.lossy is not None:
        raise DataError(
            f"{raw.path} is a {raw.lossy} file, whose compression alters label values: convert the labels to PNG, or "
            "join values of one channel by ranges of `map`"
        )


def join_equal_channels(raw: RawLabel) -> RawLabel:
    """Return a label with three equal channels, as some tools write masks, as one channel; others as they are."""
    greys = raw.values & 255
    if raw.is_coloured and (raw.values == greys * GREY).all():
        return replace(raw, values=greys.astype(np.uint8), is_coloured=False)
    return raw


def list_values(values: Values) -> Values:
    """Return the values in use in ascending order; quicker than `np.unique` for labels of 8 bits."""
    return np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)
