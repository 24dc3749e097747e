"""Slots from the nodes of really exported graphs."""

from __future__ import annotations

import onnx
import pytest

from lgc.models import SearchSpace
from lgc.models.opspec import OpSpec
from lgc.models.plan import CORE, DENSE, END_TO_END
from lgc.models.slot_names import FRAME, SlotNames, places
from lgc.profiler.network import Network

SPACES = {"tiny": (64, 96), "lgcnet-camvid": (64, 96), "lgcnet-cityscapes": (65, 97)}


@pytest.mark.parametrize("scope", [CORE, DENSE, END_TO_END])
@pytest.mark.parametrize("preset", SPACES)
def test_every_node_has_its_slot_and_every_slot_its_nodes(preset, scope):
    space = SearchSpace.load(preset).with_input(*SPACES[preset])
    for seed, architecture in enumerate(space.spread(3, 7)):
        graph = onnx.load_from_string(Network(architecture, None, scope).model()).graph
        names, there = SlotNames(architecture), places(architecture, scope)
        found = {node.name: names.of(node.name) for node in graph.node}
        assert None not in found.values(), [name for name, slot in found.items() if slot is None]
        missing = set(there) - set(found.values())
        assert set(found.values()) - {FRAME} <= set(there), seed
        assert all("max_pool" in there[slot][0] for slot in missing), "only equal poolings are traced once"
        assert (FRAME in found.values()) == (scope == END_TO_END)
        weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Conv" and len(weights[node.input[1]]) == 4:
                spec = OpSpec.parse(there[found[node.name]][0])
                c_out, _, *_ = weights[node.input[1]]
                assert c_out in (spec.c_out, spec.c_in)
        adds = [slot for node in graph.node if node.op_type == "Add" and (slot := found[node.name]) != FRAME]
        for slot, (_, count) in there.items():
            if slot.endswith("/add"):
                assert adds.count(slot) == count


def test_names_of_others_are_of_no_slot(mini_space):
    names = SlotNames(mini_space.sample(0))
    for node in ("", "Conv_7", "/backbone/conv1/Conv", "cast_output_0", "/cells.0/weird/Conv"):
        assert names.of(node) is None
