"""What any search space must do: the suite of the protocol, for every registered kind."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import FileFormatError, MismatchError, UsageError
from lgc.models import Architecture, SearchSpace, Space
from lgc.models.space.cost import sum_slots
from lgc.models.space.costs import COUNTS, count_cost
from lgc.models.space.extremes import find_cheapest
from lgc.models.space.operators import is_free
from lgc.models.space.opspec import OpSpec
from lgc.models.space.protocol import SCOPES, SPACES, Requirement, register_space

from ...spaces import EXAMPLES, enumerate_choices

seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module", params=EXAMPLES)
def space(request) -> Space:
    return EXAMPLES[request.param]()


@pytest.fixture(scope="module")
def every_choice(space) -> np.ndarray:
    return enumerate_choices(space)


def random_cost(spec: OpSpec) -> float:
    """Return a cost that depends on the whole spec, 0 if the operator takes no time."""
    return 0.0 if is_free(spec) else np.random.default_rng(list(str(spec).encode())).uniform(0.1, 1)


def draw_choices(space: Space, seed: int, count: int) -> np.ndarray:
    """Return random choices, valid or not, [count, D]."""
    sizes = [len(decision.choices) for decision in space.decisions]
    return np.random.default_rng(seed).integers(sizes, size=(count, len(sizes)))


def test_space_round_trip(space):
    content = json.loads(json.dumps(space.to_dict()))
    again = Space.check(content, "it")
    assert type(again) is type(space)
    assert (again.to_dict(), again.fingerprint) == (space.to_dict(), space.fingerprint)
    assert (again.decisions, again.slots()) == (space.decisions, space.slots())
    renamed = Space.check({**content, "name": "other"}, "it")
    assert (renamed.name, renamed.fingerprint) == ("other", space.fingerprint)


def test_invalid_content_is_rejected(space):
    with pytest.raises(FileFormatError, match="here: "):
        Space.check({**space.to_dict(), "colour": "red"}, "here")
    with pytest.raises(FileFormatError, match=r"kind 'cube'; known: .*lgcnet"):
        Space.check({**space.to_dict(), "kind": "cube"}, "here")


@pytest.mark.parametrize("kind", [kind for kind, space in SPACES.items() if issubclass(space, SearchSpace)])
def test_other_input_keeps_choices(kind):
    space = EXAMPLES[kind]()
    larger = space.with_input(64, 96)
    assert (larger.input, larger.decisions) == ((64, 96), space.decisions)
    assert larger.fingerprint != space.fingerprint
    with pytest.raises(FileFormatError):
        space.with_input(4, 4)


@pytest.mark.parametrize("kind", [kind for kind, space in SPACES.items() if issubclass(space, SearchSpace)])
def test_other_classes_keep_choices(kind):
    space = EXAMPLES[kind]()
    more = space.with_classes(7)
    assert (more.classes, more.input, more.name, more.decisions) == (7, space.input, space.name, space.decisions)
    assert more.fingerprint != space.fingerprint
    assert more.with_classes(space.classes) == space


def test_decisions_are_well_formed(space):
    assert len({decision.name for decision in space.decisions}) == len(space.decisions)
    for decision in space.decisions:
        assert len(set(decision.choices)) == len(decision.choices) > 0
        assert decision.default is None or 0 <= decision.default < len(decision.choices)
    searched = [decision.default is None for decision in space.decisions]
    assert searched == sorted(searched, reverse=True), "decisions with a default come last"


def test_slots_depend_on_at_most_two_decisions(space):
    slots = space.slots()
    assert len({slot.name for slot in slots}) == len(slots)
    for slot in slots:
        sizes = [len(space.decisions[decision].choices) for decision in slot.decisions]
        assert len(sizes) <= (1 if slot.sums else 2)
        assert len({*slot.decisions, *slot.sums}) == len(slot.decisions) + len(slot.sums), slot.name
        assert len(slot.candidates) == np.prod(sizes, dtype=int), slot.name
        assert slot.scope in SCOPES
    used = {decision for slot in slots for decision in (*slot.decisions, *slot.sums)}
    assert used == set(range(len(space.decisions))), "every decision matters to some slot"


def test_requirements_decide_validity(space, every_choice):
    valid = {tuple(choices) for choices in every_choice.tolist()}
    assert valid
    for choices in draw_choices(space, 0, 200).tolist():
        broken = [each for each in space.requirements if not is_met(space, each, choices)]
        assert (tuple(choices) in valid) == (not broken)
        if broken:
            with pytest.raises(ValueError, match=broken[0].fault):
                space.build(choices)
        else:
            assert space.build(choices).choices == tuple(choices)


def is_met(space: Space, requirement: Requirement, choices: list[int]) -> bool:
    names = [space.decisions[decision].choices[choices[decision]] for decision in requirement.decisions]
    return set(names) != {"zero"}


@pytest.mark.parametrize("change", ["short", "long", "high", "negative"])
def test_foreign_choices_are_rejected(space, change):
    choices = list(space.sample(0).choices)
    foreign = {"short": choices[:-2], "long": [*choices, 0], "high": [99, *choices[1:]], "negative": [-1, *choices[1:]]}
    with pytest.raises((ValueError, UsageError)):
        space.build(foreign[change])


def test_samples_are_valid_and_reproducible(space):
    drawn = [space.sample(seed) for seed in range(20)]
    assert [each.choices for each in drawn] == [space.sample(seed).choices for seed in range(20)]
    assert len({each.choices for each in drawn}) > 10
    spread = [each.choices for each in space.spread(20, 3)]
    assert spread[:7] == [each.choices for each in space.spread(7, 3)]
    assert spread != [each.choices for each in space.spread(20, 4)]
    assert all(space.find_fault(choices) is None for choices in (*spread, *(each.choices for each in drawn)))
    for decision, choice in zip(space.decisions, drawn[0].choices, strict=True):
        assert decision.default in (None, choice)


def test_architecture_round_trip(space, tmp_path):
    for number, architecture in enumerate(space.spread(5, 0)):
        architecture.with_provenance({"seed": number}).save(tmp_path / "a.json")
        again = Architecture.load(tmp_path / "a.json")
        assert type(again) is type(architecture) is space.architecture_type
        assert (again.choices, again.key, again.provenance) == (
            architecture.choices,
            architecture.key,
            {"seed": number},
        )
        assert again.space.fingerprint == space.fingerprint
    damaged = json.loads(architecture.to_json())
    named = {**damaged, "space": {**damaged["space"], "kind": space.kind}}
    assert Architecture.parse(json.dumps(named), "here").choices == architecture.choices
    with pytest.raises(FileFormatError, match="here: invalid architecture"):
        Architecture.parse(json.dumps({name: value for name, value in damaged.items() if name != "space"}), "here")
    with pytest.raises(FileFormatError, match="here: invalid architecture"):
        Architecture.parse(json.dumps({**damaged, "space": {**space.to_dict(), "kind": "cube"}}), "here")


def test_keys_identify_architectures(space, every_choice):
    rows = every_choice[:: max(len(every_choice) // 500, 1)]
    assert len({space.build(choices).key for choices in rows.tolist()}) == len(rows)


def test_only_own_class_is_accepted(space):
    (other,) = [kind for kind in SPACES.values() if kind is not type(space)][:1]
    assert Space.require(space) is space
    with pytest.raises(MismatchError, match=f"space {space.name} is a .*: only {other.__name__} is supported"):
        other.require(space)
    with pytest.raises(MismatchError, match=r"the architecture belongs to space .*: only .* is supported"):
        other.architecture_type.require(space.sample(0))


def test_registered_kind_is_taken(space):
    (kind,) = [name for name, registered in SPACES.items() if registered is type(space)]
    with pytest.raises(UsageError, match="already registered"):
        register_space(kind)(type(space))


def test_networks_need_only_entries_of_the_space(space):
    entries = set(space.specs())
    for architecture in space.spread(20, 0):
        specs = architecture.specs()
        assert set(specs) <= entries
        assert all(count >= 0 for _, _, count in architecture.filled_slots())
        assert len(architecture.specs("core")) < len(specs)


@pytest.mark.parametrize("scope", SCOPES)
def test_cost_sums_over_the_operators(space, every_choice, scope):
    cost = sum_slots(space, random_cost, unit="ms", source="test", scope=scope, constant=0.25)
    rows = every_choice[:: max(len(every_choice) // 200, 1)]
    expected = [0.25 + sum(map(random_cost, space.build(choices).specs(scope))) for choices in rows.tolist()]
    np.testing.assert_allclose(cost.evaluate(rows), expected, rtol=1e-12)
    assert len(set(np.round(expected, 9))) > 10
    assert (cost.unit, cost.source) == ("ms", "test")


@pytest.mark.parametrize("unit", COUNTS)
def test_counts_are_costs(space, unit):
    networks = list(space.spread(20, 1))
    counted = count_cost(space, unit).evaluate(np.array([network.choices for network in networks]))
    assert counted.tolist() == [getattr(network, unit) for network in networks]


@given(seed=seeds)
@settings(max_examples=10)
def test_swaps_match_explicit_changes(space, seed):
    cost = sum_slots(space, random_cost, unit="ms", source="test")
    choices = draw_choices(space, seed, 3)
    swaps = cost.evaluate_swaps(choices)
    for row, changed, single in iter_swaps(space, choices):
        assert swaps[row, changed[0], changed[1]] == pytest.approx(cost.evaluate(single)[0])
    np.testing.assert_array_equal(cost.evaluate_swaps(choices, 2), swaps[:, :2])


def iter_swaps(space: Space, choices: np.ndarray) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    for row in range(len(choices)):
        for number, decision in enumerate(space.decisions):
            for choice in range(len(decision.choices)):
                single = choices[row : row + 1].copy()
                single[0, number] = choice
                yield row, (number, choice), single


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_cheapest_matches_enumeration(space, every_choice, zero, sign):
    zeros = np.array([-1 if decision.zero is None else decision.zero for decision in space.decisions])
    rows = every_choice if zero else every_choice[(every_choice != zeros).all(axis=1)]
    requirements = [requirement.decisions for requirement in space.requirements]
    cost = sum_slots(space, random_cost, unit="ms", source="test").scale(sign)
    found = find_cheapest(cost, space.decisions, requirements, zero=zero)
    assert space.find_fault(found) is None
    assert cost.evaluate(np.array([found]))[0] == pytest.approx(cost.evaluate(rows).min(), rel=1e-12)
