"""Classes of labels without a description: their values or colours, collected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import DataError
from ..codings.bits import collect_bits, describe_mixed_bits, find_meaning
from ..codings.palettes import is_trivial_palette
from ..codings.raw import GREY, RawLabel, read_raw_label, require_lossless, unpack_colour
from ..labels import IGNORE
from ..schema import MAX_CLASSES, MIN_CLASSES, format_values

MAX_LIKELY = 64
"""Number of classes above which labels may have been resized or compressed."""
RARE_SHARE, MIN_RARE = 0.005, 3
"""Share of the pixels below which a class is rare; number of rare classes, and half of all, that may be mixtures."""
MIN_GREY = 0.25
"""Label value from which few classes look like greys, as a share of the value for void."""
DEEP_IGNORE = 65535
"""Label value of 16 bits that stands for void, as 255 of 8 bits does."""


@dataclass(frozen=True)
class CollectedClasses:
    """Classes of all labels.

    Attributes:
        fields: Fields of a `dataset.yaml`.
        origin: Where the classes come from, for messages.
        notes: Assumptions and doubts, a line each.
    """

    fields: dict[str, Any]
    origin: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """Values of a label file, and the colour of each in palette mode."""

    path: Path
    is_coloured: bool
    values: dict[int, int]
    palette: dict[int, int] | None
    grey_step: int | Fraction = 1


def _summarise(path: Path) -> _Content:
    raw = read_raw_label(path)
    require_lossless(raw)
    values, counts = np.unique(raw.values, return_counts=True)
    _require_few(values, raw.is_coloured, path)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return _Content(path, raw.is_coloured, pixels, _list_palette(raw, pixels), raw.grey_step)


def _list_palette(raw: RawLabel, values: Iterable[int]) -> dict[int, int] | None:
    """Return the colour of each value; None without a palette that says something."""
    if raw.palette is None or is_trivial_palette(raw.palette, np.array([*values])):
        return None
    if max(values) >= len(raw.palette):
        raise DataError(f"{raw.path} contains the value {max(values)}, its palette only {len(raw.palette)} colours")
    return {value: int(raw.palette[value]) for value in values}


@lru_cache(maxsize=8)
def collect_classes(
    files: tuple[tuple[Path, int, int], ...], splits: tuple[tuple[str, frozenset[Path]], ...] = ()
) -> CollectedClasses:
    """Return the classes of all labels; files have sizes and times, so that changed ones are read again.

    Args:
        files: Path, size and time of each label.
        splits: Name and labels of each split.

    Raises:
        DataError: A label cannot be read, or the values cannot be classes.
    """
    paths = [path for path, *_ in files]
    with ThreadPoolExecutor() as pool:
        contents = _unify_bits(_join_equal_channels([*_limit_classes(pool.map(_summarise, paths))]))
    palette = _merge_palettes(contents)
    if palette is None:
        parts = {name: [content for content in contents if content.path in labels] for name, labels in splits}
        for first, second in combinations(parts.items(), 2):
            _require_common_colour(first, second)
        contents = [_as_colours(content) for content in contents]
    kinds = {content.is_coloured: content.path for content in contents}
    if len(kinds) > 1:
        raise DataError(f"{kinds[True]} holds colours, {kinds[False]} indices: bring the labels into one form")
    pixels = Counter[int]()
    for content in contents:
        pixels.update(content.values)
    by_colour = contents[0].is_coloured
    _require_few(pixels, by_colour, paths[0])
    classes = _number_colours(pixels, paths) if by_colour else _number_values(pixels, palette or {}, paths)
    return replace(classes, notes=(*classes.notes, *_list_sources(contents, classes.fields.get("ignore", ()))))


def _list_sources(contents: Sequence[_Content], ignored: Collection[int]) -> list[str]:
    """Return a remark on masks of two values, one of which differs between files, as in masks of two sources."""
    forms = [*{frozenset(content.values) for content in contents if len(content.values) > 1}]
    if len(forms) != 2 or [len(form) for form in forms] != [2, 2] or len(forms[0] & forms[1]) != 1:
        return []
    first, second = sorted(forms[0] ^ forms[1])
    if second in ignored:  # which is said
        return []
    names = [f"#{code:06x}" if contents[0].is_coloured else str(code) for code in (first, second)]
    return [
        f"no label holds both {names[0]} and {names[1]}: if these are one class, in masks of two sources, join them by "
        "`map`"
    ]


def _limit_classes(contents: Iterable[_Content]) -> Iterator[_Content]:
    """Yield labels until they have too many values or colours, so that no more of them are kept in memory.

    Raises:
        DataError: They have.
    """
    known: dict[bool, set[int]] = {True: set(), False: set()}
    for content in contents:
        known[content.is_coloured].update(content.values)
        _require_few(known[content.is_coloured], content.is_coloured, content.path)
        yield content


def _require_few(values: Sized, is_coloured: bool, path: Path) -> None:
    """Check the number of label values, of which one may be ignored, or of colours.

    Raises:
        DataError: There are more than classes may be.
    """
    if len(values) > MAX_CLASSES + (not is_coloured):
        noun = "colours" if is_coloured else "values"
        raise DataError(f"{path.parent} has labels of {len(values)} {noun}, more than {MAX_CLASSES} classes")


def _join_equal_channels(contents: list[_Content]) -> list[_Content]:
    """Return grey labels with three channels as one channel, if the others have one channel with the same values."""
    colours = {code for content in contents if content.is_coloured for code in content.values}
    others = [content for content in contents if not content.is_coloured]
    values = {value for content in others if content.grey_step == 1 for value in content.values}
    greys = {code & 255 for code in colours}
    if not others or any(content.palette for content in others) or any(code % GREY for code in colours):
        return contents
    if values and not (greys <= values or values <= greys):
        return contents
    return [
        replace(content, is_coloured=False, values={code & 255: count for code, count in content.values.items()})
        if content.is_coloured
        else content
        for content in contents
    ]


def _unify_bits(contents: list[_Content]) -> list[_Content]:
    """Return labels of different bits, those of other than 8 as greys if the others have these as values.

    Raises:
        DataError: The others do not show whether values or greys are meant.
    """
    files, known = collect_bits(
        (content.path, content.grey_step, content.values) for content in contents if not content.is_coloured
    )
    if len(files) < 2:
        return contents
    unified = []
    for content in contents:
        step = content.grey_step
        meaning: str | None = "values"
        if step != 1 and any(content.values):
            meaning = find_meaning(content.values, step, known)
        if meaning is None:
            other = next(path for bits, path in files.items() if bits != step)
            raise DataError(describe_mixed_bits(content.path, step, content.values, other))
        greys = {int(value * step): count for value, count in content.values.items()}
        unified.append(replace(content, values=greys) if meaning == "greys" else content)
    return unified


def _merge_palettes(contents: Iterable[_Content]) -> dict[int, int] | None:
    """Return the colour of each value, which is empty without palettes; None if labels must be read by colour.

    Raises:
        DataError: Some labels have palettes of greys in another order than the values of the others.
    """
    merged = dict[int, int]()
    for content in contents:
        if content.is_coloured and any(other.palette is not None for other in contents):
            return None
        for value, colour in (content.palette or {}).items():
            if merged.setdefault(value, colour) != colour:
                return None
    plain = [content.path for content in contents if content.palette is None]
    greys = {value: value * GREY for value in merged}
    if plain and merged != greys and not any(colour % GREY for colour in merged.values()):
        path = next(content.path for content in contents if content.palette is not None)
        raise DataError(
            f"{path} has a palette of greys that are not its values, {plain[0]} has none: convert the labels"
        )
    return merged if len(set(merged.values())) == len(merged) else {}


def _require_common_colour(*splits: tuple[str, Sequence[_Content]]) -> None:
    """Check that two splits, whose labels must be read by colour, have a colour in common besides background and void.

    Raises:
        DataError: Each has colours of its own alone, so that one lacks the classes of the other.
    """
    palettes = [[content.palette for content in part if content.palette is not None] for _, part in splits]
    voids = [{palette.get(value) for palette in part for value in (0, IGNORE)} for part in palettes]
    void = voids[0] & voids[1] if all(palettes) else voids[0] | voids[1]
    own, other = ({code: content.path for content in part for code in _list_colours(content)} for _, part in splits)
    own, other = ({code: path for code, path in part.items() if code not in void} for part in (own, other))
    if own and other and not own.keys() & other.keys():
        (a, _), (b, _) = splits
        code, other_code = max(own), max(other)
        raise DataError(
            f"the labels of {a} and {b} have no common colour of a class, e.g. #{code:06x} in {own[code]} and "
            f"#{other_code:06x} in {other[other_code]}: write a dataset.yaml, with `kind: indices` if the values are "
            "the same classes, else join the colours by `map` (docs/datasets.md)"
        )


def _list_colours(content: _Content) -> Iterable[int]:
    """Return the colours of a label; none of one with indices alone."""
    if content.palette is not None:
        return content.palette.values()
    return content.values if content.is_coloured else ()


def _as_colours(content: _Content) -> _Content:
    """Return a label in palette mode as colours."""
    if content.palette is None:
        return content
    if len({*content.palette.values()}) < len(content.palette):
        raise DataError(f"the palettes of the labels differ, and that of {content.path} has a colour of several values")
    pixels = Counter[int]()
    for value, count in content.values.items():
        pixels[content.palette[value]] += count
    return _Content(content.path, True, dict(pixels), None)


def _number_colours(pixels: Mapping[int, int], paths: list[Path]) -> CollectedClasses:
    colours = [unpack_colour(code) for code in sorted(pixels)]
    _require_several(colours, paths)
    notes = ["no colour is ignored: move void colours to `ignore`"]
    if len(colours) > 2 and all(len({*colour}) == 1 for colour in colours):
        notes.append("all colours are grey: if they are indices, save the labels with one channel")
    classes = {f"colour #{code:06x}": list(unpack_colour(code)) for code in sorted(pixels)}
    return CollectedClasses(
        {"kind": "colours", "classes": classes},
        f"by colour, in order of red, green and blue, in {len(paths)} labels",
        (*notes, *_list_doubts(pixels, pixels)),
    )


def _number_values(pixels: Mapping[int, int], palette: Mapping[int, int], paths: list[Path]) -> CollectedClasses:
    values = sorted(pixels)
    classes, ignored = list(values), list[int]()
    for void in (DEEP_IGNORE, IGNORE):
        if void in classes and classes != [0, void]:
            classes.remove(void)
            ignored.append(void)
    _require_several(classes, paths)
    names = {value: f"value {value}" for value in classes}
    coloured = all(value in palette for value in classes)
    fields: dict[str, Any] = {
        "kind": "indices",
        "classes": {names[value]: list(unpack_colour(palette[value])) for value in classes}
        if coloured
        else [*names.values()],
        "values": classes,
        "ignore": sorted(ignored),
    }
    notes = _list_doubts(pixels, classes)
    for void in ignored:
        share = 100 * pixels[void] / sum(pixels.values())
        notes.append(f"label value {void} is ignored, {share:.1f} % of the pixels")
        if MIN_GREY * void < classes[-1] < void and classes[-1] >= 2 * len(classes):
            notes.append(
                f"{len(classes)} label values up to {classes[-1]} look like greys: if {void} is a class too, add it "
                "and write `ignore: []`; if the others are its edges, the labels were resized or compressed"
            )
    if classes[-1] > IGNORE and classes != [0, DEEP_IGNORE]:
        notes.append(f"label values up to {classes[-1]}: if they number objects, join those of a class by `map`")
    return CollectedClasses(fields, f"of label values {format_values(classes)} in {len(paths)} labels", tuple(notes))


def _list_doubts(pixels: Mapping[int, int], classes: Collection[int]) -> list[str]:
    """Return remarks on an unlikely number of classes, and on many rare ones."""
    limit = RARE_SHARE * sum(pixels.values())
    rare = sum(pixels[value] < limit for value in classes)
    if len(classes) > MAX_LIKELY:
        return ["an unlikely number of classes: were the labels resized or compressed?"]
    if rare >= max(MIN_RARE, len(classes) / 2):
        return [
            f"{rare} of {len(classes)} classes have less than {100 * RARE_SHARE} % of the pixels each: if the labels "
            "were resized or compressed, they are mixtures of the others"
        ]
    return []


def _require_several(classes: list[Any], paths: list[Path]) -> None:
    if len(classes) < MIN_CLASSES:
        raise DataError(
            f"all {len(paths)} labels in {paths[0].parent} have a single class ({classes[0]}): a data set needs 2"
        )
