"""Coding of label files that a `dataset.yaml` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..labels import IGNORE
from ..schema import IGNORED, DatasetSettings, LabelKey, LabelSettings, SplitSettings, ValueRange, format_values
from .coding import Coding
from .raw import pack_colours


def choose_values(settings: DatasetSettings, files: SplitSettings) -> tuple[int, ...]:
    """Return the label value of each class in the predictions of a split.

    It is that of the split's own labels, else the data set's, else that of its labels, in each case of the first entry.
    """
    entries = files.labels or settings.labels or ()
    own = not files.labels and (settings.values is not None or bool(settings.map))
    values = build_coding(settings, settings if own else next(iter(entries), settings)).values
    return tuple(next((v for v, c in values.items() if c == i), i) for i in range(len(settings.classes)))


def build_coding(settings: DatasetSettings, label: DatasetSettings | LabelSettings) -> Coding:
    """Return the coding of label files, whose own values replace the data set's."""
    names = list(settings.classes)
    own = label.values is not None
    keys = label.values if own else settings.values
    mapped = () if own else settings.map
    ignored = label.ignore if label.ignore is not None else settings.ignore
    values = dict[int, int]()
    if keys is not None:
        values = dict(zip(_expand(keys), range(len(names)), strict=True))
    for key, name in mapped:
        if isinstance(key, ValueRange):
            values |= dict.fromkeys(key.values, IGNORE if name == IGNORED else names.index(name))
    if all(number == IGNORE for number in values.values()):
        values = {index: index for index in range(len(names))} | values
    pairs = [(colour, index) for index, colour in enumerate(settings.classes.values()) if colour is not None]
    pairs += [
        (key, IGNORE if name == IGNORED else names.index(name))
        for key, name in mapped
        if not isinstance(key, ValueRange)
    ]
    colours = {int(pack_colours(colour)): index for colour, index in pairs}
    # A label entry's own values are not ignored because the data set ignores them.
    keeps_values = ignored is None or (own and label.ignore is None)
    for key in (ValueRange(IGNORE, IGNORE),) if ignored is None else ignored:
        if isinstance(key, ValueRange):
            values |= {value: IGNORE for value in key.values if not (keeps_values and value in values)}
        else:
            colours[int(pack_colours(key))] = IGNORE
    meaning = label.meaning or (None if own else settings.meaning) or _describe_coding(settings, values)
    has_ranges = any(isinstance(key, ValueRange) and key.low < key.high for key, _ in mapped)
    return Coding(meaning, values, colours, settings.kind, has_ranges)


def _describe_coding(settings: DatasetSettings, values: Mapping[int, int]) -> str:
    """Return the name of label values in messages."""
    kinds = [f"label values {format_values(values)}"] if settings.kind in (None, "indices") else []
    if settings.kind != "indices" and None not in settings.classes.values():
        kinds.append("the colours of the classes")
    return " or ".join(kinds)


def _expand(keys: Sequence[LabelKey]) -> list[int]:
    """Return the label values of a sequence of ranges."""
    return [value for key in keys if isinstance(key, ValueRange) for value in key.values]
