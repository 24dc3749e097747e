"""Labels with one channel or a palette, read by index and by colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..labels import IGNORE
from .coding import UNKNOWN, Coding
from .raw import GREY, GREY_PALETTE, RawLabel, Values, list_values


@dataclass(frozen=True, eq=False)
class Readings:
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


def compare_readings(raw: RawLabel, coding: Coding) -> Readings:
    """Read a label with one channel or a palette by index and by colour, and say which of them is meant."""
    used = list_values(raw.values)
    palette = np.arange(0, 256, int(max(raw.grey_step, 1))) * GREY if raw.palette is None else raw.palette
    is_grey = raw.palette is None or is_trivial_palette(palette, used)
    if is_grey and coding.kind is None and len(used) > 1 and not palette.any():
        palette = GREY_PALETTE  # black, which would merge the values
    inside = used[(used >= 0) & (used < len(palette))]
    colours = palette[inside].tolist()
    by_value = [coding.values.get(value, UNKNOWN) for value in inside.tolist()]
    by_colour = [coding.colours.get(colour, UNKNOWN) for colour in colours]
    has_colours = len(inside) == len(used) and UNKNOWN not in by_colour
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
    return Readings(used, palette, colours, has_colours, is_grey, kind)


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
    differing = [row for row in rows if row[0] != row[1] and row[:2] != (IGNORE, UNKNOWN)]
    filled = [
        row
        for row in rows
        if used[row[2]] > 1 or (row[0] == IGNORE and row[1] not in (IGNORE, UNKNOWN) and palette[row[2]] > 1)
    ]
    if not differing:
        return "indices"
    if filled:
        in_order = all(row in filled for row in differing) and any(value == colour for value, colour, _ in rows)
        return "indices" if in_order and UNKNOWN not in by_value else None
    may_be_filled = all(value == IGNORE or palette[colour] > 1 for value, _, colour in differing)
    return None if may_be_filled and UNKNOWN not in by_value else "colours"


def is_trivial_palette(palette: Values, used: Values) -> bool:
    """Return True if a palette says nothing about classes: it is black, or of greys that are the values in use."""
    inside = used[used < len(palette)]
    is_ramp = not (palette % GREY).any() and np.array_equal(palette[inside], GREY_PALETTE[inside])
    return len(palette) > 1 and (is_ramp or not palette.any())
