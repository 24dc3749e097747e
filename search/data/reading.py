"""Read images and labels; a damaged or invalid file is a `DataError` that names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...models.images import decode_image, read_header
from .labels import IGNORE, LabelMap

Values = npt.NDArray[np.integer]
"""Label values [H, W], or colours as 24-bit numbers."""
_GREY = 0x010101
"""Darkest grey as a 24-bit number, of which the others are multiples."""
GREY_PALETTE = np.arange(256) * _GREY
"""Colour of each value of a grey image, as a 24-bit number."""
_SPREAD = {"L": 255, "I": 65535}
"""Largest value of a mode, over whose range Pillow spreads the values of files with a smaller maximum."""
_UNKNOWN = -1
_MAX_SHOWN = 6
"""Number of values in a message."""


@dataclass(frozen=True, eq=False)
class Coding:
    """Meaning of the pixel values in a label file.

    Attributes:
        name: Name of the values in messages.
        values: Label value -> class, 255 for ignored ones.
        colours: Colour as a 24-bit number -> class; empty if labels have one channel only.
        kind: `indices`, `colours` or `palette`; None for what each file says by its mode.
    """

    name: str
    values: Mapping[int, int]
    colours: Mapping[int, int]
    kind: str | None = None

    @cached_property
    def table(self) -> npt.NDArray[np.int16]:
        """Class of each label value, -1 for unknown ones; [256] or longer."""
        table = np.full(max(max(self.values, default=0), IGNORE) + 1, _UNKNOWN, dtype=np.int16)
        table[list(self.values)] = list(self.values.values())
        return table

    @cached_property
    def has_greys(self) -> bool:
        """True if several classes have a grey, so that labels with one channel may hold colours."""
        return len({index for colour, index in self.colours.items() if colour % _GREY == 0} - {IGNORE}) > 1

    @cached_property
    def sorted_colours(self) -> tuple[Values, npt.NDArray[np.int16]]:
        """Colours in ascending order, and their classes."""
        codes = sorted(self.colours)
        return np.array(codes, dtype=np.int64), np.array([self.colours[code] for code in codes], dtype=np.int16)


@dataclass(frozen=True, eq=False)
class RawLabel:
    """Content of a label file before its values get a meaning.

    Attributes:
        path: The file.
        mode: Pillow's name of its pixel format.
        values: Label values, or colours as 24-bit numbers; [H, W].
        is_coloured: True if `values` are colours.
        palette: Colour of each value as a 24-bit number, of files in palette mode; else None.
        grey_step: Step between the greys of successive values, of files with one channel: 255 for one bit.
    """

    path: Path
    mode: str
    values: Values
    is_coloured: bool
    palette: Values | None = None
    grey_step: int = 1


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
        return RawLabel(path, file.mode, pack_colours(np.asarray(file)), True)
    if file.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(f"{problem}mode {file.mode} is neither of indices nor of colours")
    palette = None
    if file.mode == "P":
        colours = np.array(file.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette = pack_colours(colours)
    values, step = np.asarray(file), 1
    if file.mode == "1":
        values, step = values.astype(np.uint8), 255
    elif header.maximum is not None and palette is None:
        values = np.rint(values * (header.maximum / _SPREAD[file.mode])).astype(values.dtype)
        step = max(255 // header.maximum, 1)
    return RawLabel(path, file.mode, values, False, palette, step)


def read_label(path: Path, coding: Coding, image: Path | None = None) -> LabelMap:
    """Read a label as classes: uint8 [H, W], 0..(num_classes - 1), and 255 for void; see `read_raw_label` for `image`.

    Raises:
        DataError: The file cannot be decoded, or has a value or colour that is not in `coding`.
    """
    raw, classes = read_classes(path, coding, image)
    if (classes == _UNKNOWN).any():
        value = int(raw.values[classes == _UNKNOWN][0])
        noun = f"the colour {unpack_colour(value)}" if raw.is_coloured else f"the value {value}"
        raise DataError(f"{path} contains {noun}, expected {coding.name}")
    return classes.astype(np.uint8)


def read_classes(path: Path, coding: Coding, image: Path | None) -> tuple[RawLabel, npt.NDArray[np.int16]]:
    """Read a label; return its content, and the class of each pixel, int16 [H, W], see `decode_values`.

    Args:
        path: Label file.
        coding: Meaning of its values.
        image: See `read_raw_label`.

    Raises:
        DataError: The file cannot be decoded, or is not in `coding`.
    """
    raw = resolve_palette(read_raw_label(path, image), coding)
    return raw, decode_values(raw, coding)


def decode_values(raw: RawLabel, coding: Coding) -> npt.NDArray[np.int16]:
    """Return the class of each pixel of a label, int16 [H, W]: 255 is void, -1 a value that `coding` does not know.

    Raises:
        DataError: The label has colours and `coding` is of indices, or the reverse.
    """
    unsuited = ("indices",) if raw.is_coloured else ("colours", "palette")
    if coding.kind in unsuited or not (coding.colours if raw.is_coloured else coding.values):
        raise DataError(f"{raw.path} is an image of mode {raw.mode}, expected {coding.name}")
    if raw.is_coloured:
        codes, classes = coding.sorted_colours
        position = np.minimum(np.searchsorted(codes, raw.values), len(codes) - 1)
        return np.where(codes[position] == raw.values, classes[position], np.int16(_UNKNOWN))
    if raw.values.min() < 0 or raw.values.max() >= len(coding.table):
        return np.where(
            (raw.values < 0) | (raw.values >= len(coding.table)),
            np.int16(_UNKNOWN),
            coding.table[np.clip(raw.values, 0, len(coding.table) - 1)],
        )
    return coding.table[raw.values]


def resolve_palette(raw: RawLabel, coding: Coding) -> RawLabel:
    """Return a label as values or as colours, whichever its palette shows to be meant; one channel is that of greys.

    Raises:
        DataError: Both readings are possible, or neither.
    """
    if raw.is_coloured or coding.kind == "indices":
        return raw
    if raw.palette is None and (coding.kind == "palette" or not (coding.kind or coding.has_greys)):
        return raw
    used = np.unique(raw.values)
    palette = np.arange(0, 256, raw.grey_step) * _GREY if raw.palette is None else raw.palette
    is_grey = raw.palette is None or is_trivial_palette(palette, used)
    if raw.palette is not None and is_grey and coding.kind is None:
        palette = GREY_PALETTE
    inside = used[(used >= 0) & (used < len(palette))]
    colours = palette[inside]
    by_value = [coding.values.get(value, _UNKNOWN) for value in inside.tolist()]
    by_colour = [coding.colours.get(colour, _UNKNOWN) for colour in colours.tolist()]
    has_colours = len(inside) == len(used) and _UNKNOWN not in by_colour
    kind: str | None
    if coding.kind is not None:
        if raw.palette is not None and len(inside) < len(used):
            raise DataError(f"{raw.path} contains the value {int(used[-1])}, its palette {len(palette)} colours")
        kind = "indices" if raw.palette is None and not has_colours else "colours"
    elif is_grey:
        is_doubtful = coding.has_greys and has_colours and _UNKNOWN not in by_value and by_value != by_colour
        kind = None if is_doubtful else "indices"
    else:
        kind = _choose_kind(by_value, by_colour, colours.tolist(), Counter(palette.tolist()))
        kind = None if kind == "colours" and not has_colours else kind
    if kind is not None:
        return raw if kind == "indices" else RawLabel(raw.path, raw.mode, palette[raw.values], True)
    shown = ", ".join(map(str, used[:_MAX_SHOWN]))
    tints = ", ".join(str(unpack_colour(int(colour))) for colour in colours[:_MAX_SHOWN])
    raise DataError(
        f"{raw.path} is ambiguous (mode {raw.mode}): its values are {shown}, their colours {tints}, and the data set "
        f"expects {coding.name}: write `kind: indices` or `kind: colours` into its dataset.yaml"
    )


def _choose_kind(
    by_value: Sequence[int], by_colour: Sequence[int], colours: Sequence[int], palette: Counter[int]
) -> str | None:
    """Return what the values of a file with a palette are, `indices` or `colours`; None if that cannot be known.

    Colours that fill up a palette say nothing: they would merge several values, or make void a class. Such files are
    of indices if the palette has the classes' order otherwise.

    Args:
        by_value: Class of each value in use, read as an index.
        by_colour: Class of its colour.
        colours: Its colour.
        palette: Colour -> its number in the palette.
    """
    used = Counter(colours)
    rows = list(zip(by_value, by_colour, colours, strict=True))
    differing = [row for row in rows if row[0] != row[1] and row[:2] != (IGNORE, _UNKNOWN)]
    filled = [
        row
        for row in rows
        if used[row[2]] > 1 or (row[0] == IGNORE and row[1] not in (IGNORE, _UNKNOWN) and palette[row[2]] > 1)
    ]
    if not differing:
        return "indices"
    if filled:
        in_order = all(row in filled for row in differing) and any(value == colour for value, colour, _ in rows)
        return "indices" if in_order and _UNKNOWN not in by_value else None
    may_be_filled = all(value == IGNORE or palette[colour] > 1 for value, _, colour in differing)
    return None if may_be_filled and _UNKNOWN not in by_value else "colours"


def is_trivial_palette(palette: Values, used: Values) -> bool:
    """Return True if a palette says nothing about classes: it is black, or of greys that are the values in use."""
    inside = used[used < len(palette)]
    is_ramp = not (palette % _GREY).any() and np.array_equal(palette[inside], GREY_PALETTE[inside])
    return len(palette) > 1 and (is_ramp or not palette.any())
