"""Read images and labels; a damaged or invalid file is a `DataError` that names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from .codings.bits import describe_mixed_bits, find_meaning
from .codings.coding import UNKNOWN, Coding
from .codings.palettes import Readings, compare_readings
from .codings.raw import (
    GREY,
    RawLabel,
    join_equal_channels,
    list_values,
    read_raw_label,
    require_lossless,
    unpack_colour,
)
from .labels import IGNORE, LabelMap

_MAX_SHOWN = 6
"""Number of values in a message."""


def read_label(path: Path, coding: Coding, image: Path | None = None) -> LabelMap:
    """Read a label as classes: uint8 [H, W], 0..(num_classes - 1), and 255 for void; see `read_raw_label` for `image`.

    Raises:
        DataError: The file cannot be decoded, or has a value or colour that is not in `coding`.
    """
    raw, classes = read_classes(path, coding, image)
    if (classes == UNKNOWN).any():
        value = int(raw.values[classes == UNKNOWN][0])
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
        raw = join_equal_channels(raw)
    if raw.lossy is not None and coding.has_ranges and not raw.is_coloured:
        raw = replace(raw, note=f"{raw.lossy}, whose values the ranges of `map` join")
    else:
        require_lossless(raw)
    if raw.is_coloured and coding.has_values_only and coding.evidence.has_equal_channels:
        raw = replace(join_equal_channels(raw), note="its three channels are equal, and read as one")
    raw = _resolve_bits(resolve_palette(raw, coding), coding)
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
        return np.where(codes[position] == raw.values, classes[position], np.int16(UNKNOWN))
    if raw.values.min() < 0 or raw.values.max() >= len(coding.table):
        return np.where(
            (raw.values < 0) | (raw.values >= len(coding.table)),
            np.int16(UNKNOWN),
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
    readings = compare_readings(raw, coding)
    kind, note = readings.kind, ""
    if not (coding.kind or coding.colours) and (readings.palette % GREY).any():
        _require_equal_palette(raw, readings, coding)
        kind, note = "indices", "read by index, since `classes` has no colours for those of its palette"
    if coding.kind is not None:
        if raw.palette is not None and readings.used[-1] >= len(readings.palette):
            palette = len(readings.palette)
            raise DataError(f"{raw.path} contains the value {readings.used[-1]}, its palette {palette} colours")
        kind = "indices" if raw.palette is None and not readings.has_colours else "colours"
    elif kind == "both" and coding.evidence.kind == "colours":
        kind = "colours"  # the same classes, whatever the bits of other labels
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


def _require_equal_palette(raw: RawLabel, readings: Readings, coding: Coding) -> None:
    """Check that the values of a label have the same colours as in other palettes, so that its indices mean the same.

    Raises:
        DataError: They do not.
    """
    for value, colour in zip(readings.used.tolist(), readings.colours, strict=False):
        other = coding.evidence.colours.get(value, colour)
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
    used = [] if raw.is_coloured or raw.palette is not None or raw.grey_step == 1 else list_values(raw.values).tolist()
    by_value, by_grey = ([coding.values.get(v * step, UNKNOWN) for v in used] for step in (1, raw.grey_step))
    if by_value == by_grey:
        return raw
    if UNKNOWN in by_value and UNKNOWN not in by_grey:
        has_class = any(index != IGNORE for value, index in zip(used, by_grey, strict=True) if value)
        step = raw.grey_step
        greys = raw.values * step.numerator // step.denominator
        return replace(raw, values=greys, grey_step=1) if has_class else raw
    others = {step: path for step, path in coding.evidence.steps.items() if step != raw.grey_step}
    are_values = UNKNOWN in by_grey and {*others} <= {1}
    if others and not are_values and find_meaning(used, raw.grey_step, coding.evidence.values) != "values":
        raise DataError(describe_mixed_bits(raw.path, raw.grey_step, used, next(iter(others.values()))))
    return raw
