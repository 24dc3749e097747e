"""The decisions of a search: those of a space, some of which may share a choice or be fixed.

Symbols, used wherever architectures are handled as arrays:

    D  decisions of the space            G  decisions of the search
    C  largest number of choices         N  architectures in a batch
    R  requirements, each of which needs a live decision
    choices [N, G]  index of the choice at each decision of the search

Decisions without a default are searched: the supernet has all of their choices, and a preference scores them. For the
others it has the default only, and the last step of a projection chooses among them; see `projection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..models.space.cost import Array, Cost
from ..models.space.extremes import find_cheapest
from ..models.space.protocol import Decision, Space

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

DEFAULT_COST = 0.1
"""Cost of each step away from a decision's default, in nats. Ours: small compared with any operator's."""


class Decisions:
    """All decisions of a search.

    Args:
        space: search space.
        assignment: decision of the search for each of the space's, [D]; -1 where the choice is fixed. None if each has
            its own.
        fixed: choice of each of the space's decisions where it is fixed, [D].

    Attributes:
        decisions: decisions of the search, those that are searched first.
        num_decisions: G.
        num_searched: number of searched decisions.
        num_choices: C.

    Raises:
        UsageError: decisions with different choices share one.
    """

    def __init__(
        self, space: Space, assignment: Sequence[int] | None = None, fixed: Sequence[int] | None = None
    ) -> None:
        self.space = space
        count = len(space.decisions)
        self.assignment: Indices = np.array(range(count) if assignment is None else assignment, np.int64)
        self.fixed: Indices = np.zeros(count, np.int64) if fixed is None else np.array(fixed, np.int64)
        members = [int(np.flatnonzero(self.assignment == own)[0]) for own in range(self.assignment.max() + 1)]
        self.decisions: tuple[Decision, ...] = tuple(space.decisions[member] for member in members)
        for own, decision in zip(self.assignment.tolist(), space.decisions, strict=True):
            if own >= 0 and self.decisions[own].choices != decision.choices:
                first = self.decisions[own].name
                raise UsageError(f"decisions {first} and {decision.name} of {space.name} differ: they cannot share one")
        self.num_decisions = len(self.decisions)
        searched = [decision.default is None for decision in self.decisions]
        assert searched == sorted(searched, reverse=True), "searched decisions come first"
        self.num_searched = sum(searched)
        self.num_choices = max(len(decision.choices) for decision in self.decisions)

    @cached_property
    def defaults(self) -> Indices:
        """Choice of each decision without a preference, [G]: the default, or 0."""
        return np.array([decision.default or 0 for decision in self.decisions])

    @cached_property
    def zeros(self) -> Indices:
        """Index of `zero` among each decision's choices, [G]; -1 without it."""
        return np.array([-1 if decision.zero is None else decision.zero for decision in self.decisions])

    @cached_property
    def exists(self) -> Mask:
        """True for each choice that a decision has, [G, C]."""
        sizes = np.array([len(decision.choices) for decision in self.decisions])
        mask: Mask = np.arange(self.num_choices) < sizes[:, None]
        return mask

    @cached_property
    def requirements(self) -> Mask:
        """Decisions of each requirement, [R, G]; those that fixed choices meet, and repeated ones, are left out.

        Raises:
            UsageError: fixed choices break a requirement.
        """
        rows: dict[bytes, Mask] = {}
        for requirement in self.space.requirements:
            members = np.array(requirement.decisions)
            is_fixed = self.assignment[members] < 0
            zeros = [self.space.decisions[member].zero for member in members]
            if any(fixed and self.fixed[m] != zero for fixed, m, zero in zip(is_fixed, members, zeros, strict=True)):
                continue
            if is_fixed.all():
                raise UsageError(f"fixed choices are invalid in space {self.space.name}: {requirement.fault}")
            row = np.zeros(self.num_decisions, bool)
            row[self.assignment[members[~is_fixed]]] = True
            rows.setdefault(row.tobytes(), row)
        return np.array(list(rows.values())).reshape(len(rows), self.num_decisions)

    def with_defaults(self, choices: Indices) -> Indices:
        """Return choices of all decisions, [N, G], for those of the searched ones, [N, S]."""
        completed = np.tile(self.defaults, (len(choices), 1))
        completed[:, : self.num_searched] = choices
        return completed

    def expand(self, choices: Indices) -> Indices:
        """Return the choices of the space's decisions, [N, D], for choices [N, G], or [N, S] with all defaults."""
        if choices.shape[1] == self.num_searched:
            choices = self.with_defaults(choices)
        expanded: Indices = np.where(self.assignment >= 0, choices[:, self.assignment], self.fixed)
        return expanded

    def merge(self, cost: Cost) -> Cost:
        """Return a cost of the space as a function of the search's decisions."""
        return cost.merge(self.assignment.tolist(), self.fixed.tolist(), self.decisions)

    def find_cheapest(self, cost: Cost, *, zero: bool = True) -> Indices:
        """Return the valid architecture, [1, G], of smallest cost over the search's decisions."""
        requirements = [np.flatnonzero(row).tolist() for row in self.requirements]
        return np.array([find_cheapest(cost, self.decisions, requirements, zero=zero)])

    def complete_preferences(self, preference: Array) -> Array:
        """Return preferences of all decisions, [..., G, C], for those of the searched ones, [..., S, <= C].

        Choices near a default are preferred, by `DEFAULT_COST` a step; choices that a decision lacks get -inf.
        """
        complete = np.full((*preference.shape[:-2], self.num_decisions, self.num_choices), -np.inf)
        complete[..., : self.num_searched, : preference.shape[-1]] = preference
        steps = np.abs(np.arange(self.num_choices) - self.defaults[:, None])
        complete[..., self.num_searched :, :] = -DEFAULT_COST * steps[self.num_searched :]
        complete[..., ~self.exists] = -np.inf
        return complete

    @property
    def searched_shape(self) -> tuple[int, int]:
        """Shape of preferences of the searched decisions: S, and their largest number of choices."""
        return self.num_searched, max(len(decision.choices) for decision in self.decisions[: self.num_searched])

    def draw_preferences(self, count: int, rng: np.random.Generator) -> Array:
        """Return Gumbel noise as preferences of the searched decisions, [count, S, C]; -inf for missing choices."""
        shape = self.searched_shape
        noise = rng.gumbel(size=(count, *shape))
        return np.where(self.exists[: shape[0], : shape[1]], noise, -np.inf)

    def find_live(self, choices: Indices) -> Mask:
        """Return decisions whose choice is not `zero`: [N, G] -> [N, G]."""
        live: Mask = choices != self.zeros
        return live

    def find_required(self, choices: Indices) -> Mask:
        """Return live decisions that are the only live one of some requirement: [N, G] -> [N, G]."""
        live = self.find_live(choices)
        sole = (live @ self.requirements.T.astype(np.int64)) == 1
        required: Mask = live & ((sole.astype(np.int64) @ self.requirements) > 0)
        return required

    def repair_searched(self, choices: Indices, preference: Array) -> Indices:
        """Repair choices of the searched decisions, [N, S], by preferences [S, C] or [N, S, C]; see `repair`."""
        return self.repair(self.with_defaults(choices), self.complete_preferences(preference))[:, : self.num_searched]

    def repair(self, choices: Indices, preference: Array) -> Indices:
        """Give each broken requirement a live choice, at the decision where that costs the smallest preference.

        Args:
            choices: choices, [N, G].
            preference: preference for each choice, e.g. log-probabilities, [G, C] or [N, G, C].

        Returns:
            Valid choices, [N, G]; rows without a broken requirement are unchanged.
        """
        repaired = choices.copy()
        scores = np.broadcast_to(preference, (len(choices), *preference.shape[-2:]))
        rows = np.flatnonzero(self.zeros >= 0)
        live_scores, gain = scores.copy(), np.zeros(choices.shape)
        live_scores[:, rows, self.zeros[rows]] = -np.inf
        gain[:, rows] = live_scores[:, rows].max(axis=2) - scores[:, rows, self.zeros[rows]]
        for requirement in self.requirements:
            dead = ~self.find_live(repaired)[:, requirement].any(axis=1)
            if dead.any():
                decision = np.where(requirement, gain[dead], -np.inf).argmax(axis=1)
                repaired[np.flatnonzero(dead), decision] = live_scores[dead, decision].argmax(axis=1)
        return repaired
