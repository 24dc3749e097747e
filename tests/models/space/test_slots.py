"""Spaces from a list of slots; the suite of any space is in `test_conformance`."""

import re

import numpy as np
import pytest

from lgc.errors import FileFormatError, PluginError, UsageError
from lgc.models import Decision, OpSpec, Requirement, Slot, SlotSpace, Space

STEM = Slot("stem", (OpSpec("conv_3x3", 3, 8, 32, 32, 2),))
BODY = Slot("body", (OpSpec("zero", 8, 8, 16, 16), OpSpec("conv_3x3", 8, 8, 16, 16)))
WIDTH = Slot("width", (OpSpec("conv_3x3", 8, 8, 16, 16), OpSpec("conv_3x3", 8, 16, 16, 16)))


def test_slots_with_candidates_become_decisions():
    space = SlotSpace.from_slots([STEM, BODY, WIDTH])
    assert space.decisions == (
        Decision("body", ("zero", "conv_3x3")),
        Decision("width", ("conv_3x3/c8-8/16x16/s1/b1", "conv_3x3/c8-16/16x16/s1/b1")),
    )
    assert [slot.decisions for slot in space.slots()] == [(), (0,), (1,)]
    assert space.build([0, 1]).specs() == [*STEM.candidates, WIDTH.candidates[1]]
    assert Space.check(space.to_dict(), "it") == space


def test_fixed_network_has_one_architecture():
    space = SlotSpace.from_slots([STEM])
    assert space.sample(0).choices == next(space.spread(1, 0)).choices == ()
    assert (space.num_choices, space.build([]).macs) == (0, 16 * 16 * 27 * 8)


def test_spread_covers_the_range_of_costs():
    chain = [
        Slot(str(index), tuple(OpSpec("conv_3x3", 8, 8, 32, 32 * width) for width in (1, 2, 3, 4)))
        for index in range(20)
    ]
    space = SlotSpace.from_slots(chain)
    macs = np.array([network.macs for network in space.spread(40, 0)])
    uniform = np.array([space.sample(seed).macs for seed in range(40)])
    smallest, largest = space.build([0] * 20).macs, space.build([3] * 20).macs
    assert np.ptp(macs) > 0.8 * (largest - smallest) > 1.5 * np.ptp(uniform)


def test_requirements_hold_for_rare_choices():
    """Almost every draw is invalid."""
    slots = [Slot(str(index), BODY.candidates) for index in range(3)]
    requirements = [Requirement((index,), "dead") for index in range(3)]
    space = SlotSpace.from_slots(slots, requirements=requirements)
    for architecture in (*space.spread(20, 0), *map(space.sample, range(20))):
        assert space.find_fault(architecture.choices) is None


@pytest.mark.parametrize(
    ("slots", "decisions", "message"),
    [
        ([], [], "at least one slot"),
        ([Slot("empty", ())], [], "slot empty has 0 candidates, its decisions have 1"),
        ([STEM, STEM], [], "2 slots are called 'stem'"),
        ([Slot("body", BODY.candidates, (1,))], [Decision("a", ("x", "y"))], "refers to decision 1, but there are 1"),
        ([Slot("body", BODY.candidates, (0,))], [Decision("a", ("x",))], "has 2 candidates, its decisions have 1"),
        ([Slot("body", BODY.candidates, (0, 0))], [Decision("a", ("x", "y"))], "at most two different decisions"),
        ([Slot("a", STEM.candidates, (), (5,))], [Decision("a", ("x", "y"))], "refers to decision 5"),
        ([STEM], [Decision("a", ("x", "x"))], "decision a must have different choices, got x, x"),
        ([STEM], [Decision("a", ("x",), default=1)], "decision a has no choice 1"),
        ([STEM], [Decision("a", ("x",), default=0), Decision("b", ("x",))], "with a default must be the last"),
        ([STEM], [Decision("a", ("x",)), Decision("a", ("y",))], "2 decisions are called 'a'"),
    ],
)
def test_invalid_slots(slots, decisions, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        SlotSpace.from_slots(slots, decisions)


def test_unsupported_candidates_are_refused():
    wrong = (OpSpec("conv_3x3", 8, 16, 8, 8), OpSpec("skip", 8, 16, 8, 8))
    with pytest.raises(PluginError, match=r"^slot body: skip/c8-16/8x8/s1/b1: .* expected 16 channels .*, got 8"):
        SlotSpace.from_slots([STEM, Slot("body", wrong)])
    with pytest.raises(UsageError, match=r"^slot pool: max_pool_3x3/.* needs c_in equal to c_out"):
        SlotSpace.from_slots([Slot("pool", (OpSpec("max_pool_3x3", 8, 16, 8, 8),))])


def test_invalid_files():
    content = SlotSpace.from_slots([STEM, BODY]).to_dict()
    for change, message in (
        ({"slots": []}, "a space needs at least one slot"),
        ({"slots": [{"name": "stem", "candidates": ["conv 3x3"]}]}, "invalid operator key 'conv 3x3'"),
        ({"requirements": [{"decisions": [7], "fault": "dead"}]}, "a requirement (dead) names decisions"),
        ({"slots": [{"name": "stem", "candidates": [], "colour": 1}]}, "slots.0.colour: is unknown"),
    ):
        with pytest.raises(FileFormatError, match=re.escape(f"it: invalid search space: {message}")):
            Space.check({**content, **change}, "it")


def test_invalid_architectures():
    space = SlotSpace.from_slots([STEM, BODY], requirements=[Requirement((0,), "body is dead")])
    with pytest.raises(ValueError, match="body is dead"):
        space.build([0])
    for choices in ([], [2], [1, 1], [-1]):
        with pytest.raises(UsageError, match="invalid choices in space slots"):
            space.build(choices)
