"""Slots of nodes in exported graphs."""

from __future__ import annotations

from itertools import islice

import onnx
import onnxslim
import pytest

from lgc.models import PRESETS, SearchSpace
from lgc.models.onnx.slot_names import FRAME, SlotNames, computed_slots
from lgc.models.recipe import Conv, PoolPyramid, SqueezeExcite, iter_layers
from lgc.models.space.operators import get_recipe
from lgc.models.space.opspec import OpSpec
from lgc.models.space.protocol import CORE, DENSE, END_TO_END
from lgc.profiler.deployment.network import Network
from lgc.profiler.timing.workloads import network_workload

SIZES = dict.fromkeys(PRESETS, (64, 96)) | {"lgcnet-cityscapes": (65, 97)}


def conv_attributes(graph, nodes):
    """Return weight shape, stride and dilation of each convolution among the nodes."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    rows = []
    for node in nodes:
        if node.op_type == "Conv":
            attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
            rows.append((shapes[node.input[1]], attributes["strides"][0], attributes["dilations"][0]))
    return rows


@pytest.mark.parametrize("scope", [CORE, DENSE, END_TO_END])
@pytest.mark.parametrize("preset", PRESETS)
def test_nodes_and_slots_match(preset, scope):
    space = SearchSpace.load(preset).with_input(*SIZES[preset])
    count = 3 if scope == END_TO_END else 1  # its graph contains those of the other scopes
    for seed, architecture in enumerate(islice(space.spread(3, 7), count)):
        graph = onnx.load_from_string(Network(architecture, None, scope).model()).graph
        names, slots = SlotNames(architecture), computed_slots(architecture, scope)
        slot_of_node = {node.name: names.find_slot(node.name) for node in graph.node}
        assert None not in slot_of_node.values(), [name for name, slot in slot_of_node.items() if slot is None]
        missing = set(slots) - set(slot_of_node.values())
        assert set(slot_of_node.values()) - {FRAME} <= set(slots), seed
        assert all("max_pool" in slots[slot][0] for slot in missing), "only equal poolings may share a node"
        assert (FRAME in slot_of_node.values()) == (scope == END_TO_END)
        for slot, (entry, _) in slots.items():
            layers = [*iter_layers(get_recipe(OpSpec.parse(entry)))]
            if any(isinstance(layer, PoolPyramid | SqueezeExcite) for layer in layers):
                continue  # whose convolutions are no layers of their own
            convolutions = [layer for layer in layers if isinstance(layer, Conv)]
            assert conv_attributes(graph, [node for node in graph.node if slot_of_node[node.name] == slot]) == [
                ((conv.c_out, conv.c_in // conv.groups, conv.kernel, conv.kernel), conv.stride, conv.dilation)
                for conv in convolutions
            ]
        adds = [slot for node in graph.node if node.op_type == "Add" and (slot := slot_of_node[node.name]) != FRAME]
        for slot, (_, count) in slots.items():
            if slot.endswith("/add"):
                assert adds.count(slot) == count


@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("scope", [CORE, DENSE, END_TO_END])
def test_traced_and_slimmed_names_have_slots(mini_space, scope, slim):
    for architecture in mini_space.spread(4, 3):
        model = onnx.load_from_string(network_workload(architecture, scope).onnx)
        graph = (onnxslim.slim(model) if slim else model).graph
        names = SlotNames(architecture)
        slot_of_node = {names.find_slot(node.name) for node in graph.node}
        missing = set(computed_slots(architecture, scope)) - slot_of_node
        assert None not in slot_of_node
        assert all("/n" in slot for slot in missing) if slim else not missing, "slimming may merge equal nodes"


def test_foreign_names_have_no_slot(mini_space):
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
        assert names.find_slot(node) is None
