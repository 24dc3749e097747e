"""Labels of different bits per pixel: values or greys."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fractions import Fraction
from pathlib import Path


def collect_bits(
    files: Iterable[tuple[Path, int | Fraction, Collection[int]]],
) -> tuple[dict[int | Fraction, Path], frozenset[int]]:
    """Return the first file of each step between greys that is not black, and the values of those with step 1.

    Args:
        files: Path, step and values in use of each label with one channel, see `RawLabel`.
    """
    steps, values = dict[int | Fraction, Path](), set[int]()
    for path, step, used in files:
        if any(used):
            steps.setdefault(step, path)
            values.update(used if step == 1 else ())
    return steps, frozenset(values)


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
