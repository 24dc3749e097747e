"""Meaning of the pixel values in label files, and what the files themselves say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..labels import IGNORE
from .raw import GREY, Values

UNKNOWN = -1
"""Class of values without a meaning."""


@dataclass(frozen=True, eq=False)
class LabelEvidence:
    """Content of a sample of the labels that share a coding, but for those that leave a doubt.

    Attributes:
        kinds: Their kinds, `indices` and `colours`: of the split's own labels, else of those of all splits.
        values: Values of those with one channel of 8 bits.
        steps: Step between the greys of successive values, see `RawLabel` -> a file that is not black.
        colours: Colour of each value in palettes that say something; the first where they differ.
        palettes: Palettes, with None for files in colours without.
        has_equal_channels: True if some have three channels, and these are equal: such labels hold values.
    """

    kinds: frozenset[str] = frozenset()
    values: frozenset[int] = frozenset()
    steps: Mapping[int | Fraction, Path] = field(default_factory=dict)
    colours: Mapping[int, int] = field(default_factory=dict)
    palettes: frozenset[tuple[int, ...] | None] = frozenset()
    has_equal_channels: bool = False

    @property
    def kind(self) -> str | None:
        """Kind of the labels; None if it is unknown, or if they differ."""
        return next(iter(self.kinds)) if len(self.kinds) == 1 else None


NO_EVIDENCE = LabelEvidence()


@dataclass(frozen=True, eq=False)
class Coding:
    """Meaning of the pixel values in a label file.

    Attributes:
        name: Name of the values in messages.
        values: Label value -> class, 255 for ignored ones.
        colours: Colour as a 24-bit number -> class; empty if labels have one channel only.
        kind: `indices`, `colours` or `palette`; None for what each file says by its mode.
        has_ranges: True if ranges of values have a class, which joins values that compression has altered.
        evidence: What the label files say, which decides on doubtful ones.
    """

    name: str
    values: Mapping[int, int]
    colours: Mapping[int, int]
    kind: str | None = None
    has_ranges: bool = False
    evidence: LabelEvidence = NO_EVIDENCE

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Key that codings with the same meaning have in common, whatever their files and names."""
        return frozenset(self.values.items()), frozenset(self.colours.items()), self.kind, self.has_ranges

    @property
    def has_values_only(self) -> bool:
        """True if no label is read by its colours."""
        return self.kind == "indices" or not (self.kind or self.colours)

    @property
    def is_coloured(self) -> bool:
        """True if labels are read by their colours: as the description says, else if one of the sample is.

        The others, e.g. black ones with one channel, may belong to labels of either kind.
        """
        return not self.has_values_only and (self.kind is not None or "colours" in self.evidence.kinds)

    @cached_property
    def table(self) -> npt.NDArray[np.int16]:
        """Class of each label value, -1 for unknown ones; [256] or longer."""
        table = np.full(max(max(self.values, default=0), IGNORE) + 1, UNKNOWN, dtype=np.int16)
        table[list(self.values)] = list(self.values.values())
        return table

    @cached_property
    def has_greys(self) -> bool:
        """True if a grey has a meaning, so that labels with one channel may hold colours."""
        return any(colour % GREY == 0 for colour in self.colours)

    @cached_property
    def sorted_colours(self) -> tuple[Values, npt.NDArray[np.int16]]:
        """Colours in ascending order, and their classes."""
        codes = sorted(self.colours)
        return np.array(codes, dtype=np.int64), np.array([self.colours[code] for code in codes], dtype=np.int16)
