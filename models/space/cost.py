"""Cost of the architectures of a space: a constant, terms of one decision, and terms of two.

    cost(x) = constant + sum over decisions d of single[d, x[d]] + sum over pairs (d, e) of pairs[d, e][x[d], x[e]]

Terms of two decisions arise where an operator depends on two choices, e.g. a convolution on the widths on both sides.
Latency, energy, multiply-accumulates and parameters all have this form; they differ in unit and source.

    D  decisions      C  largest number of choices      N  architectures
    choices [N, D]  index of the choice at each decision, one architecture per row
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .operators import ZERO
from .opspec import OpSpec
from .protocol import CORE, DENSE, Decision, Slot, Space

Array = NDArray[np.float64]
Choices = NDArray[np.integer]
Pairs = Mapping[tuple[int, int], Array]
Number = TypeVar("Number", np.int64, np.float64)

CHUNK_ROWS = 8192
"""Architectures processed at once, few enough for the CPU's cache."""


@dataclass(frozen=True, eq=False)
class Cost:
    """Cost of every architecture.

    Attributes:
        unit: Unit, e.g. `ms`.
        source: Origin, e.g. the path of a latency table.
        constant: Cost of all that does not depend on a decision.
        single: Terms of one decision, [D, C]; 0 beyond a decision's choices.
        pairs: Terms of two decisions d < e, [choices of d, choices of e].
    """

    unit: str
    source: str
    constant: float
    single: Array
    pairs: Pairs

    def evaluate(self, choices: Choices) -> Array:
        """Return the cost of architectures: choices [N, D] -> [N]."""
        total: Array = self.constant + gather_sum(self.single, choices)
        for (d, e), terms in self.pairs.items():
            total += terms[choices[:, d], choices[:, e]]
        return total

    def evaluate_swaps(self, choices: Choices, count: int | None = None) -> Array:
        """Return the cost after each swap of a single choice: choices [N, D] -> [N, D, C].

        Args:
            choices: Architectures, [N, D].
            count: Number of decisions to swap, the first ones; None for all.
        """
        terms: Array = np.broadcast_to(self.single, (len(choices), *self.single.shape))
        if self.pairs:
            terms = terms.copy()
            for (d, e), table in self.pairs.items():
                terms[:, d, : table.shape[0]] += table[:, choices[:, e]].T
                terms[:, e, : table.shape[1]] += table[choices[:, d]]
        terms = terms[:, :count]
        chosen = np.take_along_axis(terms, choices[:, :count, None], axis=2)
        swaps: Array = self.evaluate(choices)[:, None, None] + terms - chosen
        return swaps

    def scale(self, factor: float) -> Cost:
        """Return the cost times `factor`."""
        pairs = {pair: terms * factor for pair, terms in self.pairs.items()}
        return replace(self, constant=self.constant * factor, single=self.single * factor, pairs=pairs)

    def merge(self, assignment: Sequence[int], fixed: Sequence[int], decisions: Sequence[Decision]) -> Cost:
        """Return the cost as a function of other decisions, each of which stands for some of this cost's.

        Args:
            assignment: New decision of each decision, [D]; -1 where the choice is fixed.
            fixed: Fixed choice of each decision, [D]; ignored elsewhere.
            decisions: New decisions.
        """
        width = max(len(decision.choices) for decision in decisions)
        constant, single = self.constant, np.zeros((len(decisions), width))
        pairs: dict[tuple[int, int], Array] = {}
        for row, new, choice in zip(self.single, assignment, fixed, strict=True):
            if new < 0:
                constant += float(row[choice])
            else:
                size = len(decisions[new].choices)
                single[new, :size] += row[:size]
        for (d, e), terms in self.pairs.items():
            first, second = assignment[d], assignment[e]
            if first < 0 and second < 0:
                constant += float(terms[fixed[d], fixed[e]])
            elif first < 0:
                single[second, : terms.shape[1]] += terms[fixed[d]]
            elif second < 0:
                single[first, : terms.shape[0]] += terms[:, fixed[e]]
            elif first == second:
                single[first, : len(terms)] += np.diagonal(terms)
            else:
                pair, table = ((first, second), terms) if first < second else ((second, first), terms.T)
                pairs[pair] = pairs.get(pair, 0) + table
        return replace(self, constant=constant, single=single, pairs=pairs)


def sum_costs(costs: Sequence[Cost]) -> Cost:
    """Return the sum of costs of the same decisions, with the unit and source of the first."""
    pairs: dict[tuple[int, int], Array] = {}
    for cost in costs:
        for pair, terms in cost.pairs.items():
            pairs[pair] = pairs.get(pair, 0) + terms
    constant = sum(cost.constant for cost in costs)
    return replace(costs[0], constant=constant, single=np.sum([cost.single for cost in costs], axis=0), pairs=pairs)


def sum_slots(
    space: Space,
    operator_cost: Callable[[OpSpec], float],
    *,
    unit: str,
    source: str,
    scope: str = DENSE,
    constant: float = 0.0,
) -> Cost:
    """Return the cost of a space's architectures as the sum over their slots.

    Terms of one decision are relative to its default, if it has one.

    Args:
        space: Search space.
        operator_cost: Function from an operator to its cost.
        unit: Unit of the cost.
        source: Origin of the cost.
        scope: `dense`, or `core` to leave out the slots of `dense` alone.
        constant: Cost of a network in addition to its operators.
    """
    decisions = space.decisions
    single = np.zeros((len(decisions), space.num_choices))
    live = np.zeros_like(single)
    for d, decision in enumerate(decisions):
        live[d, : len(decision.choices)] = [name != ZERO for name in decision.choices]
    pairs: dict[tuple[int, int], Array] = {}
    for slot in space.slots():
        if scope == CORE and slot.scope == DENSE:
            continue
        terms = np.array([operator_cost(spec) for spec in slot.candidates])
        constant += _add_slot(slot, terms, decisions, live, single, pairs)
    return Cost(unit, source, constant, single, pairs)


def _add_slot(
    slot: Slot,
    terms: Array,
    decisions: Sequence[Decision],
    live: Array,
    single: Array,
    pairs: dict[tuple[int, int], Array],
) -> float:
    """Add a slot's terms to `single` and `pairs` in place; return its constant."""
    sizes = [len(decisions[d].choices) for d in slot.decisions]
    if slot.sums:
        for term in slot.sums:
            if slot.decisions:
                table = np.outer(live[term, : len(decisions[term].choices)], terms)
                _add_pair(pairs, (term, slot.decisions[0]), table)
            else:
                single[term] += terms[0] * live[term]
        terms = -terms
    if not slot.decisions:
        return float(terms[0])
    if len(sizes) == 2:
        _add_pair(pairs, (slot.decisions[0], slot.decisions[1]), terms.reshape(sizes))
        return 0.0
    (d,) = slot.decisions
    default = decisions[d].default
    reference = 0.0 if default is None else float(terms[default])
    single[d, : sizes[0]] += terms - reference
    return reference


def _add_pair(pairs: dict[tuple[int, int], Array], pair: tuple[int, int], table: Array) -> None:
    if pair[0] > pair[1]:
        pair, table = pair[::-1], table.T
    pairs[pair] = pairs.get(pair, 0) + table


def check_choices(choices: Choices, space: Space) -> Choices:
    """Return the choices as an array of indices, [N, D].

    Raises:
        UsageError: Wrong shape or type, or an index out of range.
    """
    choices = np.asarray(choices)
    sizes = np.array([len(decision.choices) for decision in space.decisions])
    if choices.ndim != 2 or choices.shape[1] != len(sizes) or choices.dtype.kind not in "iu":
        expected = f"integers [N, {len(sizes)}]"
        raise UsageError(f"choices in space {space.name} must be {expected}, not {choices.dtype} {list(choices.shape)}")
    too_high = choices >= sizes
    if too_high.any() or choices.min(initial=0) < 0:
        decision = int(np.flatnonzero((too_high | (choices < 0)).any(axis=0))[0])
        raise UsageError(
            f"choices of {space.decisions[decision].name} in space {space.name} must be from 0 to "
            f"{sizes[decision] - 1}, got {choices[:, decision].min()} to {choices[:, decision].max()}"
        )
    return choices


def row_chunks(count: int) -> Iterator[slice]:
    """Yield slices of `CHUNK_ROWS` rows that cover `count` rows; a single empty one if there are no rows."""
    for first in range(0, max(count, 1), CHUNK_ROWS):
        yield slice(first, first + CHUNK_ROWS)


def gather_sum(table: NDArray[Number], choices: Choices) -> NDArray[Number]:
    """Sum table[d, choices[n, d]] over the decisions d: table [D, C], choices [N, D] -> [N]."""
    decisions = np.arange(len(table))
    return np.concatenate([table[decisions, choices[rows]].sum(axis=1) for rows in row_chunks(len(choices))])
