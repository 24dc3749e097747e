"""Evidence of a coding: what a sample of the label files that share it says, over all splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from ....errors import DataError
from .bits import collect_bits
from .coding import Coding, LabelEvidence
from .palettes import compare_readings
from .raw import join_equal_channels, list_values, read_raw_label, require_lossless

MAX_SAMPLED = 32
"""Number of labels of each coding of a split that are read."""


@dataclass(frozen=True, eq=False)
class _Content:
    """Signs of its coding in a label file.

    Attributes:
        path: The file.
        kind: `indices` or `colours`, `both` if these are equal, None if the file does not show which is meant.
        values: Values in use; empty for colours in three channels.
        grey_step: See `RawLabel`.
        colours: Colour of each value in use, of a palette that says something.
        palette: Whole palette; None without.
    """

    path: Path
    kind: str | None
    values: Sequence[int] = ()
    grey_step: int | Fraction = 1
    colours: Mapping[int, int] = field(default_factory=dict)
    palette: tuple[int, ...] | None = None


def gather_evidence(labels: Mapping[Coding, Sequence[Path]]) -> dict[Coding, Coding]:
    """Return each coding with the evidence of its labels, and of those of other splits with the same meaning.

    Args:
        labels: Coding of a split -> its label files.
    """
    sampled = {coding: paths[:: len(paths) // MAX_SAMPLED + 1] for coding, paths in labels.items()}
    tasks = {(coding.key, path): coding for coding, paths in sampled.items() for path in paths}
    with ThreadPoolExecutor() as pool:
        read = pool.map(_try_content, (path for _, path in tasks), tasks.values())
        contents = dict(zip(tasks, read, strict=True))
    groups = dict[object, list[_Content]]()
    for (key, _), content in contents.items():
        groups.setdefault(key, []).extend([content] if content is not None else [])
    completed = dict[Coding, Coding]()
    for coding, paths in sampled.items():
        own = [content for path in paths if (content := contents[coding.key, path]) is not None]
        completed[coding] = replace(coding, evidence=_summarise(own, groups.get(coding.key, []), coding))
    return completed


def _try_content(path: Path, coding: Coding) -> _Content | None:
    """Return the content of a label; None if it cannot be read, which is reported where it is used."""
    try:
        raw = read_raw_label(path)
        require_lossless(raw)
    except DataError:
        return None
    if raw.is_coloured:
        joined = join_equal_channels(raw) if coding.has_values_only else raw
        return _Content(path, "colours", () if joined.is_coloured else list_values(joined.values).tolist())
    readings = compare_readings(raw, coding)
    kind = readings.kind
    if coding.has_values_only:
        kind = "indices"
    elif coding.kind is not None and raw.palette is not None:
        kind = "colours"
    colours = {} if readings.is_grey else dict(zip(readings.used.tolist(), readings.colours, strict=False))
    palette = None if raw.palette is None else tuple(raw.palette.tolist())
    return _Content(path, kind, readings.used.tolist(), raw.grey_step, colours, palette)


def _summarise(own: Iterable[_Content], group: Sequence[_Content], coding: Coding) -> LabelEvidence:
    """Return the evidence of the labels `own` of a split, and of all that share their coding."""
    coloured = [content for content in group if content.kind == "colours"]
    are_greys = coding.has_values_only and all(content.values for content in coloured)
    kinds = [
        {"indices" if are_greys else content.kind for content in part if content.kind not in (None, "both")}
        for part in (own, group)
    ]
    others = {"colours", None} if "colours" in kinds[1] else set()  # doubtful labels are of colours, too
    by_index = [content for content in group if content.kind not in others]
    steps, values = collect_bits((content.path, content.grey_step, content.values) for content in by_index)
    colours = dict[int, int]()
    for content in group:
        colours = {**content.colours, **colours}
    return LabelEvidence(
        kinds=frozenset(filter(None, kinds[0] or kinds[1])),
        values=values,
        steps=steps,
        colours=colours,
        palettes=frozenset(
            content.palette for content in group if content.palette or content.kind in (None, "colours")
        ),
        has_equal_channels=bool(coloured) and are_greys and bool(steps),  # black alone may be a colour
    )
