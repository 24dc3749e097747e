"""Costs of groups of nodes: MACs and bytes, exact on small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lgc.models.onnx.counting.costs import count_costs
from lgc.models.onnx.counting.node_costs import GraphCosts, with_node_names

X, Y = 2 * 8 * 8 * 4, 4 * 8 * 8 * 4
"""Bytes of the input and of each convolution's output."""
FIRST, SECOND = (4 * 2 * 9 + 4) * 4, 4 * 9 * 4
"""Bytes of the weights."""


def make_model(nodes, output="out", shape=(1, 4, 8, 8), weights=None):
    values = {"x": (1, 2, 8, 8)}
    weights = weights or {"w": (4, 2, 3, 3), "b": (4,), "d": (4, 1, 3, 3)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in values.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture
def residual():
    """Return conv, relu, depthwise conv, addition of the relu's output, relu."""
    return make_model(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "d"], ["e"], "depthwise", pads=[1] * 4, group=4),
            helper.make_node("Add", ["e", "r"], ["s"], "add"),
            helper.make_node("Relu", ["s"], ["out"], "last"),
        ]
    )


def test_fused_convolution_counts_border_only(residual):
    costs = GraphCosts(residual).count(["conv", "relu"])
    assert (costs.node, costs.operator, costs.kernel) == ("conv", "Conv+Relu", "3x3")
    assert costs.shape == (1, 4, 8, 8)
    assert costs.macs == 4 * 8 * 8 * 2 * 9
    assert costs.bytes == X + FIRST + Y


def test_shared_input_is_read_once(residual):
    costs = GraphCosts(residual).count(["last", "depthwise", "add"])
    assert (costs.operator, costs.kernel) == ("Conv+Add+Relu", "depthwise 3x3")
    assert costs.macs == 4 * 8 * 8 * 9
    assert costs.bytes == Y + SECOND + Y


def test_groups_add_up_to_model(residual):
    graph = GraphCosts(residual)
    groups = (["conv"], ["relu"], ["depthwise", "add", "last"])
    assert sum(graph.count(names).macs for names in groups) == count_costs(residual).macs


def test_elementwise_node_has_no_macs(residual):
    costs = GraphCosts(residual).count(["add"])
    assert (costs.node, costs.macs, costs.bytes, costs.kernel) == ("add", 0, 3 * Y, "")


def test_half_precision_halves_bytes(residual):
    full, half = (GraphCosts(residual, precision) for precision in ("fp32", "fp16"))
    assert half.count(["conv"]).bytes * 2 == full.count(["conv"]).bytes
    assert half.count_copy((1, 4, 8, 8)) * 2 == full.count_copy((1, 4, 8, 8)) == 2 * Y


def test_widened_group_moves_float32():
    model = onnx.load_model_from_string(
        make_model([helper.make_node("Relu", ["x"], ["out"], "relu")], shape=(1, 2, 8, 8))
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    graph = GraphCosts(model.SerializeToString())
    assert (graph.count(["relu"]).bytes, graph.count(["relu"], is_widened=True).bytes) == (X, 2 * X)


def test_constant_is_an_input():
    """A runtime shares equal constants, so a constant of another part of the graph may be in a group."""
    value = numpy_helper.from_array(np.ones(1, np.float32), "k")
    nodes = [
        helper.make_node("Constant", [], ["one"], "constant", value=value),
        helper.make_node("Add", ["x", "one"], ["out"], "add"),
    ]
    costs = GraphCosts(make_model(nodes, shape=(1, 2, 8, 8))).count(["add", "constant"])
    assert (costs.node, costs.operator, costs.bytes) == ("add", "Add", 2 * X + 4)


def test_view_moves_nothing():
    nodes = [helper.make_node("Flatten", ["x"], ["out"], "flatten")]
    assert GraphCosts(make_model(nodes, shape=(1, 128))).count(["flatten"]).bytes == 0


def test_part_of_input_is_counted():
    nodes = [helper.make_node("Gather", ["x", "w"], ["out"], "gather", axis=1)]
    model = make_model(nodes, shape=(1, 1, 8, 8), weights={"b": (1,)})
    graph = onnx.load_model_from_string(model)
    graph.graph.node[0].input[1] = "index"
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "index"))
    assert GraphCosts(graph.SerializeToString()).count(["gather"]).bytes == 2 * 8 * 8 * 4 + 8


def test_parts_of_input_add_up():
    nodes = [
        *(helper.make_node("Gather", ["x", name], [f"g{name}"], name, axis=1) for name in ("i", "j")),
        helper.make_node("Add", ["gi", "gj"], ["out"], "add"),
    ]
    model = onnx.load_model_from_string(make_model(nodes, shape=(1, 1, 8, 8), weights={"b": (1,)}))
    indices = (numpy_helper.from_array(np.array([index]), name) for index, name in enumerate("ij"))
    model.graph.initializer.extend(indices)
    assert GraphCosts(model.SerializeToString()).count(["i", "j"]).bytes == 2 * (X + 8)


def test_value_dependent_shape_has_unknown_costs():
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], "relu"),
        helper.make_node("NonZero", ["positive"], ["indices"], "nonzero"),
        helper.make_node("Cast", ["indices"], ["out"], "cast", to=TensorProto.FLOAT),
    ]
    costs = GraphCosts(make_model(nodes, shape=(4, "n"))).count(["cast"])
    assert (costs.macs, costs.bytes) == (0, None)


def test_shapes_that_onnx_cannot_infer_are_measured():
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], "gelu", domain="com.microsoft"),
        helper.make_node("Relu", ["g"], ["out"], "relu"),
    ]
    model = onnx.load_model_from_string(make_model(nodes, shape=("a", "b", "c", "d")))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert GraphCosts(model.SerializeToString()).count(["relu"]).bytes == 2 * X


def test_reshape_between_quantised_tensors_moves_nothing():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], "dequantise"),
        helper.make_node("Flatten", ["d"], ["f"], "flatten"),
        helper.make_node("QuantizeLinear", ["f", "s"], ["p"], "again"),
        helper.make_node("DequantizeLinear", ["p", "s"], ["out"], "last"),
    ]
    graph = GraphCosts(make_model(nodes, shape=(1, 128), weights={"s": ()}))
    assert graph.count(["dequantise", "flatten", "again"]).bytes == 0
    assert graph.count(["quantise"]).bytes == X + 4 + X // 4


def test_shared_dequantisation_is_not_written():
    """Each reader of a quantised tensor dequantises its own copy."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], "dequantise"),
        helper.make_node("Relu", ["d"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s"], ["p"], "again"),
        helper.make_node("DequantizeLinear", ["p", "s"], ["e"], "second"),
        helper.make_node("Add", ["d", "e"], ["out"], "add"),
    ]
    graph = GraphCosts(make_model(nodes, shape=(1, 2, 8, 8), weights={"s": ()}))
    assert graph.count(["dequantise", "relu", "again"]).bytes == X // 4 + X // 4 + 4
    assert graph.count(["dequantise", "second", "add"]).bytes == 2 * X // 4 + 4 + X
    assert graph.count(["dequantise"]).bytes == X // 4 + 4 + X, "a layer of its own writes floats"


def test_shape_of_a_tensor_reads_nothing():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], "dequantise"),
        helper.make_node("Shape", ["d"], ["n"], "shape"),
        helper.make_node("Expand", ["s", "n"], ["out"], "expand"),
    ]
    graph = GraphCosts(make_model(nodes, shape=(1, 2, 8, 8), weights={"s": ()}))
    assert graph.count(["dequantise", "shape", "expand"]).bytes == 4 + X


def test_body_of_a_branch_reads_tensors(residual):
    model = onnx.load_model_from_string(residual)
    value = helper.make_tensor_value_info("copy", TensorProto.FLOAT, (1, 4, 8, 8))
    body = helper.make_graph([helper.make_node("Identity", ["r"], ["copy"], "inner")], "body", [], [value])
    branch = helper.make_node("If", ["condition"], ["branched"], "branch", then_branch=body, else_branch=body)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(branch)
    costs = GraphCosts(model.SerializeToString()).count(["conv", "relu", "depthwise", "add", "last"])
    assert costs.bytes == X + FIRST + Y + SECOND + Y, "the branch reads the relu's output"


def test_stride_and_groups_are_described():
    nodes = [helper.make_node("Conv", ["x", "w"], ["out"], "conv", pads=[3] * 4, strides=[2, 2], group=1)]
    model = make_model(nodes, shape=(1, 4, 4, 4), weights={"w": (4, 2, 7, 7)})
    assert GraphCosts(model).count(["conv"]).kernel == "7x7/2"


@pytest.mark.parametrize(("groups", "kernel"), [(1, "transposed 3x3/2"), (2, "depthwise transposed 3x3/2")])
def test_transposed_convolution_is_described(groups, kernel):
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["out"], "up", strides=[2, 2], group=groups)]
    model = make_model(nodes, shape=(1, groups, 17, 17), weights={"w": (2, 1, 3, 3)})
    assert GraphCosts(model).count(["up"]).kernel == kernel


def test_nodes_get_different_names(residual):
    assert with_node_names(residual) is residual
    model = onnx.load_model_from_string(residual)
    for node, name in zip(model.graph.node, ("", "Relu_3", "", "add", "add"), strict=True):
        node.name = name
    named = with_node_names(model.SerializeToString())
    names = [node.name for node in onnx.load_model_from_string(named).graph.node]
    assert names == ["Conv_0", "Relu_3", "Conv_2", "add", "add_4"]
    assert with_node_names(named) is named
