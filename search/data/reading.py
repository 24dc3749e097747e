"""Read images and labels; a damaged or invalid file is a `DataError` that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...models.images import decode_image
from .labels import IGNORE, LabelMap

Values = npt.NDArray[np.integer]
"""Label values [H, W], or colours as 24-bit numbers."""
GREY_PALETTE = np.arange(256) * 0x010101
"""Colour of each value of a grey image, as a 24-bit number."""
_PNG_HEAD = 26
"""Bytes of a PNG file up to its bits per channel, the byte before the last, and its kind of colour, the last."""
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
    def ambiguous_greys(self) -> frozenset[int]:
        """Label values that are ignored as indices, while the grey of that value is a class's colour."""
        ignored = {value for value, index in self.values.items() if index == IGNORE and value <= IGNORE}
        return frozenset(value for value in ignored if self.colours.get(value * 0x010101, IGNORE) != IGNORE)

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
    """

    path: Path
    mode: str
    values: Values
    is_coloured: bool
    palette: Values | None = None


def pack_colours(rgb: npt.NDArray[np.uint8]) -> Values:
    """Return colours as 24-bit numbers; shape [..., 3] to [...]."""
    wide = rgb.astype(np.int64)
    return np.asarray(wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2])


def unpack_colour(code: int) -> tuple[int, int, int]:
    """Return red, green and blue of a 24-bit number."""
    return code >> 16, code >> 8 & 255, code & 255


def read_raw_label(path: Path) -> RawLabel:
    """Read a label file without giving its values a meaning, rotated by an EXIF orientation of its own.

    Raises:
        DataError: The file cannot be decoded, or its mode is not that of a label.
    """
    file = decode_image(path)
    if file.mode in ("LA", "RGBA", "PA"):
        alpha = np.asarray(file.getchannel("A"))
        if (alpha != 255).any():
            raise DataError(f"cannot read label {path}: it has transparent pixels (mode {file.mode}); remove its alpha")
        file = file.convert({"LA": "L", "RGBA": "RGB", "PA": "P"}[file.mode])
    if file.mode == "RGB":
        return RawLabel(path, file.mode, pack_colours(np.asarray(file)), True)
    if file.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(f"cannot read label {path}: mode {file.mode} is neither of indices nor of colours")
    palette = None
    if file.mode == "P":
        colours = np.array(file.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette = pack_colours(colours)
    values = np.asarray(file)
    if file.mode == "1":
        values = values.astype(np.uint8)
    elif file.mode == "L":
        values = values // _read_grey_scale(path)
    return RawLabel(path, file.mode, values, False, palette)


def _read_grey_scale(path: Path) -> int:
    """Return the factor by which Pillow spreads the values of grey PNG files with 2 or 4 bits over 0..255."""
    with path.open("rb") as file:
        head = file.read(_PNG_HEAD)
    if len(head) < _PNG_HEAD or not head.startswith(b"\x89PNG") or head[25] != 0:
        return 1
    return {2: 85, 4: 17}.get(head[24], 1)


def read_label(path: Path, coding: Coding) -> LabelMap:
    """Read a label as classes: uint8 [H, W], 0..(num_classes - 1), and 255 for void.

    Raises:
        DataError: The file cannot be decoded, or has a value or colour that is not in `coding`.
    """
    raw = resolve_palette(read_raw_label(path), coding)
    classes = decode_values(raw, coding)
    if (classes == _UNKNOWN).any():
        value = int(raw.values[classes == _UNKNOWN][0])
        noun = f"the colour {unpack_colour(value)}" if raw.is_coloured else f"the value {value}"
        raise DataError(f"{path} contains {noun}, expected {coding.name}")
    return classes.astype(np.uint8)


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
    """Return a label as values or as colours, whichever its palette, if any, shows to be meant.

    Raises:
        DataError: Both readings are possible, or neither.
    """
    if raw.is_coloured or (raw.palette is None and not coding.ambiguous_greys):
        return raw
    palette = GREY_PALETTE if raw.palette is None else raw.palette
    used = np.flatnonzero(np.bincount(raw.values.ravel()))
    inside = used[used < len(palette)]
    colours = palette[inside]
    if raw.palette is not None and coding.kind in ("colours", "palette"):
        if len(inside) < len(used):
            raise DataError(f"{raw.path} contains the value {int(used[-1])}, its palette {len(palette)} colours")
        return RawLabel(raw.path, raw.mode, palette[raw.values], True)
    by_colour = [coding.colours.get(int(colour), _UNKNOWN) for colour in colours]
    by_value = [coding.values.get(int(value), _UNKNOWN) for value in inside]
    if raw.palette is None or is_trivial_palette(palette):
        if coding.kind is not None or coding.ambiguous_greys.isdisjoint(inside.tolist()):
            return raw
    elif all(
        value in (colour, IGNORE * (colour == _UNKNOWN)) for value, colour in zip(by_value, by_colour, strict=True)
    ) or (coding.kind == "indices" and _UNKNOWN in by_colour):
        return raw
    elif coding.kind is None and _UNKNOWN not in by_colour and len(inside) == len(used):
        return RawLabel(raw.path, raw.mode, palette[raw.values], True)
    shown = ", ".join(map(str, used[:_MAX_SHOWN]))
    tints = ", ".join(str(unpack_colour(int(colour))) for colour in colours[:_MAX_SHOWN])
    raise DataError(
        f"{raw.path} is ambiguous (mode {raw.mode}): its values are {shown}, their colours {tints}, and the data set "
        f"expects {coding.name}: write `kind: indices` or `kind: colours` into its dataset.yaml"
    )


def is_trivial_palette(palette: Values) -> bool:
    """Return True if a palette is a ramp of grey, or black, and thus says nothing about classes."""
    return len(palette) > 1 and (np.array_equal(palette, GREY_PALETTE[: len(palette)]) or not palette.any())


def count_classes(labels: LabelMap) -> npt.NDArray[np.int64]:
    """Return the number of pixels of each class, [256]; the last is void."""
    return np.bincount(labels.ravel(), minlength=IGNORE + 1)
