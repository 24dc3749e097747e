"""Read images and labels; a damaged or invalid file is a `DataError` that names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...models.images import decode_image, read_header
from .labels import IGNORE, LabelMap
from .patterns import FilePattern

Values = npt.NDArray[np.integer]
"""Label values [H, W], or colours as 24-bit numbers."""
_GREY = 0x010101
"""Darkest grey as a 24-bit number, of which the others are multiples."""
GREY_PALETTE = np.arange(256) * _GREY
"""Colour of each value of a grey image, as a 24-bit number."""
_MODE_MAXIMUM = {"L": 255, "I": 65535}
"""Largest value of a mode, over whose range Pillow spreads the values of files with a smaller maximum."""
_DEEP_STEP = Fraction(1, 257)
"""Step between the greys, 0..255, of successive values of 16 bits."""
_UNKNOWN = -1
_MAX_SHOWN = 6
"""Number of values in a message."""
MAX_SIBLINGS = 32
"""Number of other labels that are read to see what a doubtful one is."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Content of those labels that leave no doubt.

    Attributes:
        kind: Their kind, `indices` or `colours`; None if they differ.
        values: Values of those with one channel of 8 bits or more.
        steps: Step between the greys of successive values, see `RawLabel` -> a file that is not black.
        palette: Colour of each value in palettes that say something; the first where they differ.
    """

    kind: str | None
    values: frozenset[int]
    steps: Mapping[int | Fraction, Path]
    palette: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Coding:
    """Meaning of the pixel values in a label file.

    Attributes:
        name: Name of the values in messages.
        values: Label value -> class, 255 for ignored ones.
        colours: Colour as a 24-bit number -> class; empty if labels have one channel only.
        kind: `indices`, `colours` or `palette`; None for what each file says by its mode.
        files: Label files of this coding, which show what a doubtful one is; None if unknown.
        has_ranges: True if ranges of values have a class, which joins values that compression has altered.
    """

    name: str
    values: Mapping[int, int]
    colours: Mapping[int, int]
    kind: str | None = None
    files: FilePattern | None = None
    has_ranges: bool = False

    @cached_property
    def table(self) -> npt.NDArray[np.int16]:
        """Class of each label value, -1 for unknown ones; [256] or longer."""
        table = np.full(max(max(self.values, default=0), IGNORE) + 1, _UNKNOWN, dtype=np.int16)
        table[list(self.values)] = list(self.values.values())
        return table

    @cached_property
    def has_greys(self) -> bool:
        """True if a grey has a meaning, so that labels with one channel may hold colours."""
        return any(colour % _GREY == 0 for colour in self.colours)

    @cached_property
    def evidence(self) -> Evidence:
        """Content of a sample of the labels."""
        paths = self.files.list_files() if self.files is not None else []
        kinds, values, steps, palette = set[str | None](), set[int](), dict[int | Fraction, Path](), dict[int, int]()
        for path in paths[:: len(paths) // MAX_SIBLINGS + 1]:
            with suppress(DataError):  # reported where the file is used
                raw = read_raw_label(path)
                require_lossless(raw)
                readings = None if raw.is_coloured else _compare_readings(raw, self)
                kinds.add("colours" if readings is None else readings.kind)
                if readings is not None and not readings.is_grey:
                    palette = dict(zip(readings.used.tolist(), readings.colours, strict=False)) | palette
                if readings is not None and raw.palette is None and readings.used.any():
                    steps.setdefault(raw.grey_step, path)
                    values.update(readings.used.tolist() if raw.grey_step == 1 else ())
        kinds -= {None, "both"}
        return Evidence(kinds.pop() if len(kinds) == 1 else None, frozenset(values), steps, palette)

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


@dataclass(frozen=True, eq=False)
class _Readings:
    """Content of a label with one channel or a palette, read by index and by colour.

    Attributes:
        used: Values in use.
        palette: Colour of each value.
        colours: Colours in use.
        has_colours: True if all of them have a meaning.
        is_grey: True if the file has no palette, or one that says nothing.
        kind: `indices` or `colours`, `both` if these are equal, None if the file does not show which is meant.
    """

    used: Values
    palette: Values
    colours: list[int]
    has_colours: bool
    is_grey: bool
    kind: str | None


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
    raw = read_raw_label(path, image)
    if raw.lossy is not None and coding.has_ranges:
        raw = _join_equal_channels(raw)
    if raw.lossy is not None and coding.has_ranges and not raw.is_coloured:
        raw = replace(raw, note=f"{raw.lossy}, whose values the ranges of `map` join")
    else:
        require_lossless(raw)
    raw = _resolve_bits(resolve_palette(raw, coding), coding)
    return raw, decode_values(raw, coding)


def _join_equal_channels(raw: RawLabel) -> RawLabel:
    """Return a label with three equal channels, as some tools write masks, as one channel; others as they are."""
    greys = raw.values & 255
    if raw.is_coloured and (raw.values == greys * 0x010101).all():
        return replace(raw, values=greys, is_coloured=False)
    return raw


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

    Where a file shows neither, the other labels do.

    Raises:
        DataError: Both readings are possible, or neither.
    """
    if raw.is_coloured or coding.kind == "indices":
        return raw
    if raw.palette is None and (coding.kind == "palette" or not (coding.kind or coding.has_greys)):
        return raw
    readings = _compare_readings(raw, coding)
    kind, note = readings.kind, ""
    if not (coding.kind or coding.colours) and (readings.palette % _GREY).any():
        _require_equal_palette(raw, readings, coding)
        kind, note = "indices", "read by index, since `classes` has no colours for those of its palette"
    if coding.kind is not None:
        if raw.palette is not None and readings.used[-1] >= len(readings.palette):
            palette = len(readings.palette)
            raise DataError(f"{raw.path} contains the value {readings.used[-1]}, its palette {palette} colours")
        kind = "indices" if raw.palette is None and not readings.has_colours else "colours"
    elif kind is None and (readings.has_colours if coding.evidence.kind == "colours" else readings.is_grey):
        kind = coding.evidence.kind
        note = f"greys have another class by colour than by index: read as {kind}, like the other labels"
    if kind == "colours":
        return replace(raw, values=readings.palette[raw.values], is_coloured=True, palette=None, note=note)
    if kind is not None:
        return replace(raw, note=note or raw.note)
    shown = ", ".join(map(str, readings.used[:_MAX_SHOWN]))
    tints = ", ".join(str(unpack_colour(colour)) for colour in readings.colours[:_MAX_SHOWN])
    raise DataError(
        f"{raw.path} is ambiguous (mode {raw.mode}): its values are {shown}, their colours {tints}, and the data set "
        f"expects {coding.name}: write `kind: indices` or `kind: colours` into its dataset.yaml"
    )


def _require_equal_palette(raw: RawLabel, readings: _Readings, coding: Coding) -> None:
    """Check that the values of a label have the same colours as in other palettes, so that its indices mean the same.

    Raises:
        DataError: They do not.
    """
    for value, colour in zip(readings.used.tolist(), readings.colours, strict=False):
        other = coding.evidence.palette.get(value, colour)
        if other != colour:
            raise DataError(
                f"{raw.path} has the colour {unpack_colour(colour)} for the value {value}, other labels have "
                f"{unpack_colour(other)}, so that values are not those of classes: give each of `classes` its colour"
            )


def _resolve_bits(raw: RawLabel, coding: Coding) -> RawLabel:
    """Return a label of other than 8 bits as greys if these are the label values, e.g. 0 and 255 for one bit.

    Raises:
        DataError: Values and greys have different classes, other labels have other bits, and these do not show which
            are meant.
    """
    used = [] if raw.is_coloured or raw.palette is not None or raw.grey_step == 1 else _list_values(raw.values).tolist()
    by_value, by_grey = ([coding.values.get(v * step, _UNKNOWN) for v in used] for step in (1, raw.grey_step))
    if by_value == by_grey:
        return raw
    if _UNKNOWN in by_value and _UNKNOWN not in by_grey:
        has_class = any(index != IGNORE for value, index in zip(used, by_grey, strict=True) if value)
        step = raw.grey_step
        greys = raw.values * step.numerator // step.denominator
        return replace(raw, values=greys, grey_step=1) if has_class else raw
    others = {step: path for step, path in coding.evidence.steps.items() if step != raw.grey_step}
    are_values = _UNKNOWN in by_grey and {*others} <= {1}
    if others and not are_values and find_meaning(used, raw.grey_step, coding.evidence.values) != "values":
        raise DataError(describe_mixed_bits(raw.path, raw.grey_step, used, next(iter(others.values()))))
    return raw


def find_meaning(used: Iterable[int], step: int | Fraction, known: Collection[int]) -> str | None:
    """Return what the values of a label of other than 8 bits are, `values` or `greys`; None if that cannot be known.

    Args:
        used: Its values.
        step: Step between its greys.
        known: Values of the labels whose greys are their values.
    """
    known = {0, *known}
    are_values, are_greys = ({value * factor for value in used} <= known for factor in (1, step))
    if step < 1 and not are_greys:  # values of 16 bits that 8 bits do not hold
        return "values"
    return None if are_values == are_greys else "greys" if are_greys else "values"


def describe_mixed_bits(path: Path, step: int | Fraction, used: Iterable[int], other: Path) -> str:
    """Return the message on a label whose values and greys differ, while those of another have other steps."""
    value = max(used)
    return (
        f"{path} and {other} differ in bits per pixel, and nothing shows whether value {value} of the first or grey "
        f"{value * step} is meant: save all labels with the same bits per pixel"
    )


def _compare_readings(raw: RawLabel, coding: Coding) -> _Readings:
    """Read a label with one channel or a palette by index and by colour, and say which of them is meant."""
    used = _list_values(raw.values)
    palette = np.arange(0, 256, int(max(raw.grey_step, 1))) * _GREY if raw.palette is None else raw.palette
    is_grey = raw.palette is None or is_trivial_palette(palette, used)
    if is_grey and coding.kind is None and len(used) > 1 and not palette.any():
        palette = GREY_PALETTE  # black, which would merge the values
    inside = used[(used >= 0) & (used < len(palette))]
    colours = palette[inside].tolist()
    by_value = [coding.values.get(value, _UNKNOWN) for value in inside.tolist()]
    by_colour = [coding.colours.get(colour, _UNKNOWN) for colour in colours]
    has_colours = len(inside) == len(used) and _UNKNOWN not in by_colour
    kind: str | None
    if is_grey and not has_colours:
        kind = "indices"
    elif by_value == by_colour and has_colours:
        kind = "both"
    elif is_grey:
        kind = None
    else:
        kind = _choose_kind(by_value, by_colour, colours, Counter(palette.tolist()))
        kind = None if kind == "colours" and not has_colours else kind
    return _Readings(used, palette, colours, has_colours, is_grey, kind)


def _list_values(values: Values) -> Values:
    """Return the values in use in ascending order; quicker than `np.unique` for labels of 8 bits."""
    return np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)


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
