"""Any network or supernet as a list of slots, without a search space of lgc's.

A slot with several candidates is a decision of its own, unless the slots name shared decisions.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from ...errors import FileFormatError, PluginError, UsageError
from ..recipe import hash_text
from .operators import ZERO, digest_recipes, get_recipe
from .opspec import OpSpec
from .protocol import Architecture, Decision, Requirement, Slot, Space, register_space
from .settings import validate

MAX_DRAWS = 200
"""Random draws until an architecture takes no `zero` instead."""
GOLDEN_STEP = (5**0.5 - 1) / 2
"""Step of the cost level in `SlotSpace.spread`: the golden ratio spreads any number of points evenly."""


@register_space("slots")
@dataclass(frozen=True)
class SlotSpace(Space):
    """Space of the networks that a list of slots describes; see `from_slots`.

    Attributes:
        all_slots: Slots in the order of computation.
        decisions: Decisions that the slots refer to.
        requirements: Conditions of a valid architecture.
        name: Display name.
    """

    all_slots: tuple[Slot, ...]
    decisions: tuple[Decision, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    name: str = "slots"

    def __post_init__(self) -> None:
        _check_slots(self.all_slots, self.decisions)
        _check_decisions(self.decisions, self.requirements)

    @classmethod
    def from_slots(
        cls,
        slots: Sequence[Slot],
        decisions: Sequence[Decision] = (),
        requirements: Sequence[Requirement] = (),
        name: str = "slots",
    ) -> Self:
        """Return the space of `slots`.

        Without `decisions`, each slot with several candidates is a decision; its choices are named by operator, or by
        the whole key where candidates share an operator.

        Args:
            slots: Slots in the order of computation.
            decisions: Decisions that the slots refer to by index, those with a default last.
            requirements: Conditions of a valid architecture.
            name: Display name.

        Raises:
            UsageError: A slot has no candidates, or they do not match its decisions; names repeat; or an operator does
                not support a candidate.
            UnknownOperatorError: An operator is not registered.
            PluginError: A recipe of the user's fails.
        """
        for slot in slots:
            for spec in slot.candidates:
                _check_candidate(slot.name, spec)
        return cls._number_decisions(slots, decisions, requirements, name)

    @classmethod
    def _number_decisions(
        cls, slots: Sequence[Slot], decisions: Sequence[Decision], requirements: Sequence[Requirement], name: str
    ) -> Self:
        """Return the space of slots whose operators need not be registered; see `from_slots`."""
        if decisions:
            return cls(tuple(slots), tuple(decisions), tuple(requirements), name)
        own, numbered = [], []
        for slot in slots:
            if len(slot.candidates) > 1 and not slot.decisions:
                own.append(Decision(slot.name, _name_choices(slot.candidates)))
                slot = replace(slot, decisions=(len(own) - 1,))
            numbered.append(slot)
        return cls(tuple(numbered), tuple(own), tuple(requirements), name)

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot in the order of computation."""
        return self.all_slots

    @cached_property
    def fingerprint(self) -> str:
        """Hash of slots, decisions, requirements, and recipes that differ from lgc 0.1's: 12 hexadecimal digits."""
        content = {key: value for key, value in self.to_dict().items() if key != "name"}
        if recipes := digest_recipes(self.specs()):
            content["recipes"] = recipes
        return hash_text(json.dumps(content, sort_keys=True))

    def build(self, choices: Sequence[int], **provenance: object) -> SlotArchitecture:
        """Return the architecture of these choices, [D].

        Raises:
            UsageError: There are more or fewer choices, or one is out of range.
            ValueError: The choices break a requirement.
        """
        return SlotArchitecture(self, tuple(map(int, choices)), provenance)

    def sample(self, seed: int) -> SlotArchitecture:
        """Return a random architecture, choices drawn uniformly, with the defaults of decisions that have one."""
        import numpy as np

        rng = np.random.default_rng(seed)
        for _ in range(MAX_DRAWS):
            choices = [
                int(rng.integers(len(decision.choices))) if decision.default is None else decision.default
                for decision in self.decisions
            ]
            if self.find_fault(choices) is None:
                break
        return self.build(self._without_zeros(choices), sampled="even", seed=seed)

    def spread(self, count: int, seed: int) -> Iterator[SlotArchitecture]:
        """Yield `count` random architectures, from cheap to expensive by multiply-accumulates.

        Uniform draws cost nearly the same, too narrow a range for a fit or a rank correlation. So each architecture has
        a level from 0 to 1, and each of its choices a binomial rank of that level among the choices by cost.
        """
        import numpy as np

        rng = np.random.default_rng(seed)
        ranks = self._rank_choices()
        start = rng.random()
        for index in range(count):
            level = (start + index * GOLDEN_STEP) % 1
            for _ in range(MAX_DRAWS):
                choices = [order[rng.binomial(len(order) - 1, level)] for order in ranks]
                if self.find_fault(choices) is None:
                    break
            yield self.build(self._without_zeros(choices), sampled="spread", seed=seed, index=index)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the space's file."""
        return {
            "kind": self.kind,
            "name": self.name,
            "decisions": [
                {"name": decision.name, "choices": [*decision.choices], "default": decision.default}
                for decision in self.decisions
            ],
            "requirements": [
                {"decisions": [*requirement.decisions], "fault": requirement.fault} for requirement in self.requirements
            ],
            "slots": [
                {
                    "name": slot.name,
                    "candidates": [str(spec) for spec in slot.candidates],
                    "decisions": [*slot.decisions],
                    "sums": [*slot.sums],
                    "scope": slot.scope,
                }
                for slot in self.all_slots
            ],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str) -> Self:
        """Build a space from the content of its file.

        Raises:
            FileFormatError: A field is missing, unknown or invalid; the message names the first three.
        """
        problem = f"{where}: invalid search space"
        checked = validate(_SpaceContent, content, problem)
        try:
            return cls._number_decisions(
                [slot.to_slot() for slot in checked.slots],
                [Decision(entry.name, entry.choices, entry.default) for entry in checked.decisions],
                [Requirement(entry.decisions, entry.fault) for entry in checked.requirements],
                checked.name,
            )
        except UsageError as error:
            raise FileFormatError(f"{problem}: {error}") from error

    def _rank_choices(self) -> list[list[int]]:
        """Return the choices of each decision from few to many multiply-accumulates."""
        import numpy as np

        from .costs import count_cost

        cost = count_cost(self, "macs")
        orders = []
        for index, decision in enumerate(self.decisions):
            terms = cost.single[index, : len(decision.choices)].copy()
            for (first, second), pair in cost.pairs.items():
                if index in (first, second):
                    terms += pair.mean(axis=1 if index == first else 0)
            orders.append(np.argsort(terms, kind="stable").tolist())
        return orders

    def _without_zeros(self, choices: Sequence[int]) -> list[int]:
        """Return the choices, or if they break a requirement, others than `zero` in its place."""
        if self.find_fault(choices) is None:
            return [*choices]
        return [
            (choice + 1) % len(decision.choices) if choice == decision.zero else choice
            for choice, decision in zip(choices, self.decisions, strict=True)
        ]


@dataclass(frozen=True)
class SlotArchitecture(Architecture):
    """Network of a `SlotSpace`.

    Attributes:
        space: The space.
        choices: Index of the choice at each decision, [D].
        provenance: Origin, e.g. seed.

    Raises:
        UsageError: There are more or fewer choices, or one is out of range.
        ValueError: The choices break a requirement.
    """

    space: SlotSpace
    choices: tuple[int, ...]
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        sizes = [len(decision.choices) for decision in self.space.decisions]
        if len(sizes) != len(self.choices) or not all(0 <= c < s for c, s in zip(self.choices, sizes, strict=True)):
            raise UsageError(f"invalid choices in space {self.space.name}: {[*self.choices]}")
        if (fault := self.space.find_fault(self.choices)) is not None:
            raise ValueError(fault)

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """Return the same architecture with another origin."""
        return replace(self, provenance=dict(provenance))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the architecture's file, without its header."""
        return {"space": self.space.to_dict(), "choices": [*self.choices], "provenance": self.provenance}

    @classmethod
    def from_dict(cls, content: dict[str, Any], problem: str) -> Self:
        """Build an architecture from the content of its file.

        Raises:
            FileFormatError: The content is invalid; the message is `problem`, a colon and the reasons.
        """
        checked = validate(_ArchitectureContent, content, problem)
        space = SlotSpace.check(checked.space, problem)
        try:
            return cls(space, checked.choices, checked.provenance)
        except (UsageError, ValueError) as error:
            raise FileFormatError(f"{problem}: {error}") from error


SlotSpace.architecture_type = SlotArchitecture


def as_space(slots: Space | Sequence[Slot]) -> Space:
    """Return a space as it is, and a list of slots as a `SlotSpace`.

    Raises:
        UsageError: Invalid slots; see `SlotSpace.from_slots`.
    """
    return slots if isinstance(slots, Space) else SlotSpace.from_slots(slots)


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _DecisionContent(_Content):
    name: str
    choices: tuple[str, ...]
    default: int | None = None


class _RequirementContent(_Content):
    decisions: tuple[int, ...]
    fault: str


class _SlotContent(_Content):
    name: str
    candidates: tuple[str, ...]
    decisions: tuple[int, ...] = ()
    sums: tuple[int, ...] = ()
    scope: Literal["core", "dense"] = "core"

    def to_slot(self) -> Slot:
        """Return the slot."""
        return Slot(self.name, tuple(map(OpSpec.parse, self.candidates)), self.decisions, self.sums, self.scope)


class _SpaceContent(_Content):
    name: str = "slots"
    decisions: tuple[_DecisionContent, ...] = ()
    requirements: tuple[_RequirementContent, ...] = ()
    slots: tuple[_SlotContent, ...]


class _ArchitectureContent(_Content):
    space: dict[str, Any]
    choices: tuple[int, ...]
    provenance: dict[str, Any] = {}


def _check_candidate(slot: str, spec: OpSpec) -> None:
    """Check that the operator of a candidate supports its sizes."""
    try:
        get_recipe(spec)
    except (UsageError, PluginError) as error:
        raise type(error)(f"slot {slot}: {error}") from error


def _name_choices(candidates: Sequence[OpSpec]) -> tuple[str, ...]:
    """Return the name of each candidate: its operator, or its key where candidates share an operator."""
    counts = Counter(spec.operator for spec in candidates)
    return tuple(
        spec.operator if counts[spec.operator] == 1 or spec.operator == ZERO else str(spec) for spec in candidates
    )


def _check_slots(slots: Sequence[Slot], decisions: Sequence[Decision]) -> None:
    """Check the candidates of each slot against its decisions.

    Raises:
        UsageError: They do not match; the message names the slot.
    """
    if not slots:
        raise UsageError("a space needs at least one slot")
    for name, count in Counter(slot.name for slot in slots).items():
        if count > 1:
            raise UsageError(f"{count} slots are called {name!r}")
    known = range(len(decisions))
    for slot in slots:
        referred = {*slot.decisions, *slot.sums}
        if missing := sorted(referred - {*known}):
            raise UsageError(f"slot {slot.name} refers to decision {missing[0]}, but there are {len(decisions)}")
        if len({*slot.decisions}) != len(slot.decisions) or len(slot.decisions) > 2:
            raise UsageError(f"slot {slot.name} must depend on at most two different decisions")
        if slot.sums and (len(slot.decisions) > 1 or {*slot.sums} & {*slot.decisions}):
            raise UsageError(f"slot {slot.name} sums up decisions: it can depend on one other decision only")
        expected = math.prod(len(decisions[index].choices) for index in slot.decisions)
        if len(slot.candidates) != expected:
            raise UsageError(f"slot {slot.name} has {len(slot.candidates)} candidates, its decisions have {expected}")


def _check_decisions(decisions: Sequence[Decision], requirements: Sequence[Requirement]) -> None:
    """Check names, choices and defaults of decisions, and the decisions of requirements.

    Raises:
        UsageError: A name or choice repeats, a default does not exist or is not last, or an index is out of range.
    """
    for name, count in Counter(decision.name for decision in decisions).items():
        if count > 1:
            raise UsageError(f"{count} decisions are called {name!r}")
    for decision in decisions:
        if not decision.choices or len({*decision.choices}) < len(decision.choices):
            raise UsageError(f"decision {decision.name} must have different choices, got {', '.join(decision.choices)}")
        if decision.default is not None and not 0 <= decision.default < len(decision.choices):
            raise UsageError(f"decision {decision.name} has no choice {decision.default} for its default")
    searched = [decision.default is None for decision in decisions]
    if searched != sorted(searched, reverse=True):
        raise UsageError("decisions with a default must be the last ones")
    for requirement in requirements:
        if not requirement.decisions or not {*requirement.decisions} <= {*range(len(decisions))}:
            raise UsageError(f"a requirement ({requirement.fault}) names decisions that do not exist")
