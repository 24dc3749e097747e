"""Slots from the nodes of really exported graphs."""

from __future__ import annotations

from itertools import islice

import onnx
import onnxslim
import pytest

from lgc.models import PRESETS, SearchSpace
from lgc.models.onnx.slot_names import FRAME, SlotNames, places
from lgc.models.space.operators import Conv, recipe_of
from lgc.models.space.opspec import OpSpec
from lgc.models.space.plan import CORE, DENSE, END_TO_END
from lgc.profiler.deployment.network import Network
from lgc.profiler.timing.workloads import network_workload

SIZES = dict.fromkeys(PRESETS, (64, 96)) | {"lgcnet-cityscapes": (65, 97)}


def convolved(graph, nodes):
    """Shape of the weights, stride and dilation of the convolutions among nodes."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = []
    for node in nodes:
        if node.op_type == "Conv":
            told = {one.name: list(one.ints) for one in node.attribute}
            found.append((shapes[node.input[1]], told["strides"][0], told["dilations"][0]))
    return found


@pytest.mark.parametrize("scope", [CORE, DENSE, END_TO_END])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_node_has_its_slot_and_every_slot_its_nodes(preset, scope):
    space = SearchSpace.load(preset).with_input(*SIZES[preset])
    count = 3 if scope == END_TO_END else 1  # its graph holds those of the other scopes
    for seed, architecture in enumerate(islice(space.spread(3, 7), count)):
        graph = onnx.load_from_string(Network(architecture, None, scope).model()).graph
        names, there = SlotNames(architecture), places(architecture, scope)
        found = {node.name: names.of(node.name) for node in graph.node}
        assert None not in found.values(), [name for name, slot in found.items() if slot is None]
        missing = set(there) - set(found.values())
        assert set(found.values()) - {FRAME} <= set(there), seed
        assert all("max_pool" in there[slot][0] for slot in missing), "only equal poolings are traced once"
        assert (FRAME in found.values()) == (scope == END_TO_END)
        for slot, (entry, _) in there.items():
            convolutions = [layer for layer in recipe_of(OpSpec.parse(entry)) if isinstance(layer, Conv)]
            assert convolved(graph, [node for node in graph.node if found[node.name] == slot]) == [
                ((conv.c_out, conv.c_in // conv.groups, conv.kernel, conv.kernel), conv.stride, conv.dilation)
                for conv in convolutions
            ]
        adds = [slot for node in graph.node if node.op_type == "Add" and (slot := found[node.name]) != FRAME]
        for slot, (_, count) in there.items():
            if slot.endswith("/add"):
                assert adds.count(slot) == count


@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("scope", [CORE, DENSE, END_TO_END])
def test_names_are_found_as_traced_and_as_slimmed(mini_space, scope, slim):
    for architecture in mini_space.spread(4, 3):
        model = onnx.load_from_string(network_workload(architecture, scope).onnx)
        graph = (onnxslim.slim(model) if slim else model).graph
        names = SlotNames(architecture)
        found = {names.of(node.name) for node in graph.node}
        missing = set(places(architecture, scope)) - found
        assert None not in found
        assert all("/n" in slot for slot in missing) if slim else not missing, "slimming may drop equal nodes"


def test_names_of_others_are_of_no_slot(mini_space):
    names = SlotNames(mini_space.sample(0))
    for node in (
        "",
        "Conv_7",
        "/backbone/conv1/Conv",
        "cast_output_0",
        "/cells.0/weird/Conv",
        "/cells.9/Add",
        "/cells.0/Add_99",
    ):
        assert names.of(node) is None
