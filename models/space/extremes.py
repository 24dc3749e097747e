"""The cheapest architecture of a space, exactly, for any cost of terms of one and of two decisions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from .cost import Array, Cost, Pairs
from .protocol import Decision

Factor = tuple[tuple[int, ...], Array]
"""Decisions, and a term of the cost for each combination of their choices."""


def find_cheapest(
    cost: Cost, decisions: Sequence[Decision], requirements: Sequence[Sequence[int]], *, zero: bool = True
) -> list[int]:
    """Return the choices [D] of smallest cost that leave a live decision in every requirement.

    The result is exact. Decisions that interact in pairs are eliminated one by one (bucket elimination, Dechter 1999):
    the effort grows exponentially only with the number of decisions that meet in one table, e.g. two where widths
    interact along a chain. The other decisions are solved by dynamic programming for each choice of those.

    Args:
        cost: Cost of the decisions.
        decisions: Decisions.
        requirements: Sets of decisions; see `Requirement`.
        zero: Allow dead decisions.
    """
    allowed = [
        [choice for choice in range(len(decision.choices)) if zero or choice != decision.zero] for decision in decisions
    ]
    zeros = [decision.zero for decision in decisions]
    interacting = _cover_pairs(cost.pairs)
    groups = [_Group.build(cost, members, rows, zeros) for members, rows in _connect(requirements, interacting, zeros)]
    sizes = [len(decision.choices) for decision in decisions]
    factors = [_tabulate(group, cost, allowed, sizes) for group in groups]
    for decision in interacting:
        single = np.full(sizes[decision], np.inf)
        single[allowed[decision]] = cost.single[decision, allowed[decision]]
        factors.append(((decision,), single))
    factors += [(pair, terms) for pair, terms in cost.pairs.items() if set(pair) <= set(interacting)]
    values = _eliminate(factors)
    for group in groups:
        values |= group.solve(cost, allowed, values)[1]
    return [values[decision] for decision in range(len(decisions))]


def _cover_pairs(pairs: Pairs) -> list[int]:
    """Return decisions of which every pair has one: the one in most pairs first (a greedy vertex cover)."""
    left, cover = set(pairs), list[int]()
    while left:
        members = [decision for pair in left for decision in pair]
        cover.append(max(sorted(set(members)), key=members.count))
        left = {pair for pair in left if cover[-1] not in pair}
    return sorted(cover)


def _connect(
    requirements: Sequence[Sequence[int]], interacting: Sequence[int], zeros: Sequence[int | None]
) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
    """Yield groups of decisions that do not interact but share requirements, each with its requirements."""
    groups: list[tuple[set[int], list[Sequence[int]]]] = []
    for requirement in requirements:
        members = set(requirement) - set(interacting)
        joined = [group for group in groups if group[0] & members]
        groups = [group for group in groups if group not in joined]
        together = [*(each for group in joined for each in group[1]), requirement]
        groups.append((members.union(*(group[0] for group in joined)), together))
    alone = set(range(len(zeros))) - set(interacting) - set().union(*(group[0] for group in groups))
    for members, together in [*groups, *(({decision}, []) for decision in sorted(alone))]:
        yield sorted(members), together


@dataclass(frozen=True)
class _Group:
    """Decisions that share requirements, as a function of the interacting decisions in `scope`.

    Attributes:
        members: Decisions.
        scope: Interacting decisions that the members' terms or requirements depend on.
        bits: Requirements of each decision, as bits.
        zeros: Index of `zero` among each decision's choices.
    """

    members: list[int]
    scope: tuple[int, ...]
    bits: Mapping[int, int]
    zeros: Sequence[int | None]

    @classmethod
    def build(
        cls, cost: Cost, members: list[int], requirements: Sequence[Sequence[int]], zeros: Sequence[int | None]
    ) -> _Group:
        """Return the group of `members` with their requirements."""
        own = set(members)
        scope = {other for pair in cost.pairs if own & set(pair) for other in pair} | set().union(*requirements)
        involved = sorted(own | scope)
        bits = {each: sum(1 << i for i, row in enumerate(requirements) if each in row) for each in involved}
        return cls(members, tuple(sorted(scope - own)), bits, zeros)

    def solve(
        self, cost: Cost, allowed: Sequence[Sequence[int]], values: Mapping[int, int]
    ) -> tuple[float, dict[int, int]]:
        """Return the smallest cost of the members, and their choices, for the values of the scope.

        Dynamic programming over the members: its states are the sets of requirements that have a live decision. A
        state is dropped once a requirement can no longer be met.
        """
        start = everything = 0
        for decision, bits in self.bits.items():
            everything |= bits
            if decision in self.scope and values[decision] != self.zeros[decision]:
                start |= bits
        best: dict[int, tuple[float, dict[int, int]]] = {start: (0.0, {})}
        for position, member in enumerate(self.members):
            later = reduce(or_, (self.bits[other] for other in self.members[position + 1 :]), 0)
            needed = everything & ~later  # no later member meets these
            terms = self._terms(cost, member, values)
            zero = self.zeros[member]
            live = [choice for choice in allowed[member] if choice != zero]
            moves = [(self.bits[member], live[int(terms[live].argmin())])] if live else []
            if zero is not None and zero in allowed[member]:
                moves.append((0, zero))
            extended: dict[int, tuple[float, dict[int, int]]] = {}
            for covered, (total, chosen) in best.items():
                for gained, choice in moves:
                    state, value = covered | gained, total + float(terms[choice])
                    if state & needed == needed and (state not in extended or value < extended[state][0]):
                        extended[state] = (value, {**chosen, member: choice})
            best = extended
        return best.get(everything, (np.inf, dict.fromkeys(self.members, 0)))

    def _terms(self, cost: Cost, member: int, values: Mapping[int, int]) -> Array:
        """Return the terms of each choice of a member."""
        terms: Array = cost.single[member]
        for (d, e), table in cost.pairs.items():
            if member in (d, e):
                column = table[:, values[e]] if member == d else table[values[d]]
                terms = terms[: len(column)] + column
        return terms


def _tabulate(group: _Group, cost: Cost, allowed: Sequence[Sequence[int]], sizes: Sequence[int]) -> Factor:
    """Return a group's smallest cost for every combination of choices in its scope; inf where they are not allowed."""
    table = np.full([sizes[decision] for decision in group.scope], np.inf)
    for choices in itertools.product(*(allowed[decision] for decision in group.scope)):
        table[choices] = group.solve(cost, allowed, dict(zip(group.scope, choices, strict=True)))[0]
    return group.scope, table


def _eliminate(factors: Sequence[Factor]) -> dict[int, int]:
    """Return the value of each decision that minimises the sum of the factors."""
    left, steps = list(factors), list[tuple[int, tuple[int, ...], NDArray[np.intp]]]()
    sizes = {decision: size for scope, table in left for decision, size in zip(scope, table.shape, strict=True)}
    open_decisions = set(sizes)
    while open_decisions:
        scopes = {each: _find_neighbours(each, left) for each in sorted(open_decisions)}
        effort = {each: math.prod(sizes[other] for other in scope) for each, scope in scopes.items()}
        chosen = min(effort, key=effort.__getitem__)
        scope = scopes[chosen]
        total = np.zeros([*(sizes[other] for other in scope), sizes[chosen]])
        for own, table in left:
            if chosen in own:
                total = total + _align(table, own, (*scope, chosen))
        left = [factor for factor in left if chosen not in factor[0]]
        left.append((scope, total.min(axis=-1)))
        steps.append((chosen, scope, total.argmin(axis=-1)))
        open_decisions.remove(chosen)
    values: dict[int, int] = {}
    for decision, scope, best in reversed(steps):
        values[decision] = int(best[tuple(values[other] for other in scope)])
    return values


def _find_neighbours(decision: int, factors: Sequence[Factor]) -> tuple[int, ...]:
    """Return the decisions that share a factor with this one."""
    return tuple(sorted(set().union(*(scope for scope, _ in factors if decision in scope)) - {decision}))


def _align(table: Array, own: Sequence[int], scope: Sequence[int]) -> Array:
    """Return a table over the decisions `own` with the axes of `scope`, for broadcasting."""
    order = [own.index(decision) for decision in scope if decision in own]
    shape = [table.shape[own.index(decision)] if decision in own else 1 for decision in scope]
    return table.transpose(order).reshape(shape)
