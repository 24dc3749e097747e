"""Space and image size whose architectures would reach a target that a table's space does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import LgcError
from ...lut.predictor import Predictor
from ...lut.table.table import LatencyTable
from ...models.space.costs import count_cost
from ...models.space.protocol import SearchSpace
from ..decisions import Decisions

PRESET = "rapid"
"""Preset that is suggested next to the table's own space: the one with the largest range."""
SCALES = (1.0, 0.75, 1.5, 0.5, 2.0, 0.375, 3.0, 0.25, 4.0)
"""Changes of height and width, the preferred first."""
ROOM = 1.2
"""Factor that a target keeps from both ends of an estimated range, for the error of the estimate."""
MULTIPLE = 32
"""Number that suggested sides are rounded to."""


@dataclass(frozen=True)
class Suggestion:
    """A space to profile.

    Attributes:
        space: the space.
        range_ms: estimated latencies of its fastest and slowest architecture.
        command: command that measures its table on the device of the present one.
    """

    space: SearchSpace
    range_ms: tuple[float, float]
    command: str

    def describe(self) -> str:
        """Return the suggestion as the end of a sentence."""
        height, width = self.space.input
        low, high = self.range_ms
        return (
            f"space {self.space.name} at {height}x{width} would have about {low:.3g} to {high:.3g} ms by its "
            f"multiply-accumulates: {self.command}"
        )


def suggest_space(predictor: Predictor, target_ms: float) -> Suggestion | None:
    """Return a space that would hold a target, estimated by multiply-accumulates; None without one.

    Its operators are assumed to take as long per multiply-accumulate as those of the table's fastest and slowest
    architectures.

    Args:
        predictor: predictor of the table.
        target_ms: target by the table's statistic, in ms.
    """
    own = predictor.space
    if not isinstance(own, SearchSpace):
        return None
    rates = [ms / macs for ms, macs in zip(predictor.range_ms, _count_macs(own), strict=True)]
    for space in _list_spaces(own):
        low, high = (macs * rate for macs, rate in zip(_count_macs(space), rates, strict=True))
        if low * ROOM <= target_ms <= high / ROOM:
            name = f"{space.name}-{'x'.join(map(str, space.input))}.lut"
            return Suggestion(space, (low, high), _write_command(predictor.table_path, space, name))
    return None


def _write_command(table: Path, space: SearchSpace, name: str) -> str:
    with LatencyTable.open(table) as opened:
        return opened.profile_command(out=table.with_name(name), space=space)


def _list_spaces(own: SearchSpace) -> Iterator[SearchSpace]:
    """Yield the preset and the table's space at each scale, the preferred first."""
    spaces = [SearchSpace.require(SearchSpace.load(PRESET)).with_classes(own.classes), own]
    for scale in SCALES:
        for space in spaces if own.name != PRESET else spaces[1:]:
            size = own.input
            if scale != 1:
                size = tuple(max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in size)  # type: ignore[assignment]
            try:
                yield space.with_input(*size)
            except LgcError:  # too small or too large for the space
                continue


def _count_macs(space: SearchSpace) -> tuple[float, float]:
    """Return the multiply-accumulates of the cheapest and of the costliest architecture."""
    cost, decisions = count_cost(space, "macs"), Decisions(space)
    ends = decisions.find_cheapest(cost), decisions.find_cheapest(cost.scale(-1), zero=False)
    low, high = (float(cost.evaluate(choices)[0]) for choices in ends)
    return low, high
