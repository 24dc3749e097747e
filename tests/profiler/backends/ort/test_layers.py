"""Nodes of graphs optimised by ONNX Runtime, traced back to the source nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from torch import nn
from torch.nn import functional as F

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.models.onnx.counting.node_costs import with_node_names
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.base import measure_layers
from lgc.profiler.backends.ort.layer_nodes import TracedNode, trace_nodes
from lgc.profiler.backends.ort.layers import NUM_LAYER_WARM_UP_RUNS, read_layer_runs
from lgc.profiler.backends.ort.loader import CPU_PROVIDER
from lgc.profiler.backends.ort.session import open_session

from .... import onnx_files as files


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = self.first(x).relu()
        return F.interpolate((x + self.second(x)).relu(), scale_factor=2.0)


def residual():
    return Workload("net", ((1, 16, 16, 16),), Residual).onnx


def pooled():
    """Return a graph with two equal poolings of one tensor, of which one is kept; torch's export might merge them."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "relu"),
        *(helper.make_node("MaxPool", ["y"], [at], at, kernel_shape=[3, 3], pads=[1] * 4) for at in ("left", "right")),
        helper.make_node("Sigmoid", ["right"], ["z"], "sigmoid"),
        helper.make_node("Add", ["left", "z"], ["sum"], "add"),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 16, 16, 16]) for name in ("x", "sum")]
    graph = helper.make_graph(nodes, "pooled", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def optimised(model, tmp_path):
    """Return the source graph, and the source nodes of each optimised node."""
    open_session("net", model, CPU_PROVIDER, {}, 1, profile=tmp_path).end_profiling()
    given = onnx.load_from_string(model)
    traced = trace_nodes(given, onnx.load(tmp_path / "optimised.onnx"))
    return given, {name: node.names for name, node in traced.items()}


@pytest.mark.parametrize("make", [residual, pooled])
def test_every_node_belongs_to_one_layer(tmp_path, make):
    given, behind = optimised(make(), tmp_path)
    assert all(behind.values())
    layers = [nodes for name, nodes in behind.items() if not name.startswith("Reorder")]
    named = [node for nodes in layers for node in nodes]
    assert sorted(named) == sorted(node.name for node in given.graph.node)


def test_fused_addition_belongs_to_convolution(tmp_path):
    _, behind = optimised(residual(), tmp_path)
    (nodes,) = (nodes for name, nodes in behind.items() if "/second/Conv" in nodes and not name.startswith("Reorder"))
    resize = next(nodes for nodes in behind.values() if "/Resize" in nodes)
    assert "/Add" in nodes or ("/Add",) in behind.values()
    assert "/Add" not in resize


def test_equal_nodes_share_a_layer(tmp_path):
    _, behind = optimised(pooled(), tmp_path)
    assert ("left", "right") in behind.values()
    assert ("add",) in behind.values()


def test_layer_times_sum_to_latency():
    workload = Workload("net", ((1, 16, 64, 64),), Residual)
    runner = get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
    runner.prepare()
    layers = measure_layers(runner, 20)
    run_ms = min(runner.run(20))
    runner.close()
    assert all(layer.nodes and layer.ms > 0 for layer in layers)
    assert run_ms / 10 < sum(layer.ms for layer in layers) < run_ms * 20


def make_event(name, start, duration, index=0):
    arguments = {"op_name": name, "node_index": str(index), "output_type_shape": [{"float": [1, 4]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": arguments}


def test_runs_are_split_after_warm_up():
    runs = range(NUM_LAYER_WARM_UP_RUNS + 2)
    events = [
        event for n in runs for event in (make_event("a", 100 * n, n), make_event("ReorderInput", 100 * n + 50, 7))
    ]
    result = read_layer_runs(
        [{"cat": "Session", "name": "model_run"}, *events], len(runs), {"a": TracedNode(("x", "y"), False)}
    )
    assert result.durations_ms.tolist() == [[0.0035, 0.0075], [0.0045, 0.0075]]
    first, second = result.layers
    assert (first.name, first.nodes, first.shape, first.is_copy) == ("a", ("x", "y"), (1, 4), False)
    assert (second.nodes, second.is_copy) == ((), True)


def test_nodes_inside_a_loop_count_once():
    events = [
        event
        for n in range(NUM_LAYER_WARM_UP_RUNS + 1)
        for event in (
            make_event("body", 100 * n + 1, 5),
            make_event("body", 100 * n + 9, 5),
            make_event("Loop", 100 * n, 20),
        )
    ]
    result = read_layer_runs(events, NUM_LAYER_WARM_UP_RUNS + 1, {})
    assert [layer.name for layer in result.layers] == ["Loop"]


def test_incomplete_profile_is_an_error():
    events = [make_event("a", 0, 1), make_event("b", 10, 1), make_event("a", 20, 1)]
    with pytest.raises(MeasurementError, match="lacks layers of some runs"):
        read_layer_runs(events, 2, {})


def test_normalisation_of_its_own_is_a_layer(tmp_path):
    """The runtime turns it into a convolution with another name, and fuses the activation after it."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.first(x).relu()
            return self.second(x + self.norm(x).relu())

    _, behind = optimised(Workload("net", ((1, 16, 16, 16),), lambda: Normalised().eval()).onnx, tmp_path)
    assert any(nodes[-2:] == ("/norm/BatchNormalization", "/Relu_1") for nodes in behind.values())


def test_product_with_bias_belongs_to_gemm(tmp_path):
    """The runtime turns a product of three dimensions and its bias into a Gemm between two reshapes."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x):
            return self.linear(x.sigmoid()).tanh()

    _, behind = optimised(Workload("net", ((1, 6, 8),), Linear).onnx, tmp_path)
    (gemm,) = (nodes for name, nodes in behind.items() if name.endswith("MatMulAddFusion"))
    assert gemm == ("/linear/MatMul", "/linear/Add")


def test_activation_belongs_to_its_convolution(tmp_path):
    class Activated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

        def forward(self, x):
            return self.second(F.hardswish(self.first(x)))

    _, behind = optimised(Workload("net", ((1, 16, 8, 8),), Activated).onnx, tmp_path)
    activated = [nodes for nodes in behind.values() if any("HardSwish" in node for node in nodes)]
    assert all("/second/Conv" not in nodes for nodes in activated)


def split():
    """Return a graph whose nodes consume the second output of another one, past a transposition of a sum."""
    value, floats = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "transpose", perm=[0, 2, 1]),
        helper.make_node("Add", ["t", "t"], ["s"], "add"),
        helper.make_node("Split", ["s", "sizes"], ["a", "b"], "split", axis=2),
        helper.make_node("MatMul", ["a", "w"], ["u"], "first"),
        helper.make_node("MatMul", ["b", "w"], ["v"], "second"),
        helper.make_node("Add", ["u", "v"], ["y"], "sum"),
    ]
    weights = {"sizes": np.array([4, 4]), "w": np.ones((4, 5), np.float32)}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [value("x", floats, [1, 8, 6])], [value("y", floats, [1, 6, 5])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_second_output_is_a_boundary(tmp_path):
    _, behind = optimised(split(), tmp_path)
    layers = [nodes for nodes in behind.values() if {"first", "second"} & set(nodes)]
    assert sorted(layers) == [("first",), ("second",)]
    assert sum("split" in nodes for nodes in behind.values()) == 1


def test_float16_layers_are_traced(tmp_path):
    """The CPU provider computes them in float32, in tensors with names of its own."""
    model = with_node_names(files.half(True).SerializeToString())
    _, behind = optimised(model, tmp_path)
    layers = [nodes for name, nodes in behind.items() if not name.startswith("Reorder")]
    assert sorted(layers) == [("Cast_0", "first", "relu"), ("Cast_4",), ("last",)]
    traced = trace_nodes(onnx.load_from_string(model), onnx.load(tmp_path / "optimised.onnx"))
    assert all(node.is_widened for node in traced.values() if not node.is_copy)


def test_parts_belong_to_their_split(tmp_path):
    """The runtime turns selections of one tensor, as of queries, keys and values, into a split and views."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], "sigmoid"),
        *(helper.make_node("Gather", ["s", f"i{part}"], [f"g{part}"], f"gather{part}", axis=1) for part in range(3)),
        helper.make_node("Mul", ["g0", "g1"], ["m"], "mul"),
        helper.make_node("Add", ["m", "g2"], ["y"], "add"),
    ]
    indices = {f"i{part}": np.array(part) for part in range(3)}
    model = files.make(nodes, outputs=[files.value("y", (1, *files.SIZE))], weights=indices)
    _, behind = optimised(model.SerializeToString(), tmp_path)
    split = next(nodes for name, nodes in behind.items() if "Split" in name)
    assert split == ("gather0", "gather1", "gather2")
    assert [nodes for name, nodes in behind.items() if name.startswith("Squeeze")] == [()] * 3


def test_fused_layer_dequantises_its_own_copy(tmp_path):
    """Another reader of the tensor needs it in float32, which the runtime computes in a layer of its own."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantise"),
        helper.make_node("Sin", ["d"], ["s"], "sin"),
        helper.make_node("Add", ["d", "d"], ["a"], "add"),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["p"], "again"),
        helper.make_node("DequantizeLinear", ["p", "scale", "zero"], ["e"], "last"),
        helper.make_node("Mul", ["s", "e"], ["y"], "mul"),
    ]
    weights = {"scale": np.float32(0.1), "zero": np.uint8(9)}
    model = files.make(nodes, outputs=[files.value("y", files.IMAGE)], weights=weights)
    _, behind = optimised(model.SerializeToString(), tmp_path)
    assert ("dequantise", "add", "again") in behind.values()
    assert ("dequantise",) in behind.values()
    assert ("sin",) in behind.values()


@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "dynamic"])
def test_quantised_layers_are_traced(kind, tmp_path):
    """ONNX Runtime computes them in another layout, with names of its own and transpositions around."""
    model = with_node_names(files.quantise(tmp_path, kind, files.residual()).read_bytes())
    open_session("net", model, CPU_PROVIDER, {}, 1, profile=tmp_path).end_profiling()
    given, graph = onnx.load_from_string(model), onnx.load(tmp_path / "optimised.onnx")
    traced, operators = trace_nodes(given, graph), {node.name: node.op_type for node in graph.graph.node}
    convolutions = {node.name for node in given.graph.node if "Conv" in node.op_type}
    owners = {name: [layer for layer, node in traced.items() if name in node.names and not node.is_copy]
              for name in convolutions}  # fmt: skip
    assert all(len(layers) == 1 and "Conv" in operators[layers[0]] for layers in owners.values()), owners
    assert all(node.names for node in traced.values())
    copies = {name for name, node in traced.items() if node.is_copy}
    assert copies == {name for name, operator in operators.items() if operator == "Transpose"}


def test_unnamed_nodes_are_matched_by_order(tmp_path):
    """The runtime expands HardSwish to two nodes without names, which the profile names by their numbers."""

    class Twice(nn.Module):
        def forward(self, x):
            return F.hardswish(F.hardswish(x).exp())

    workload = Workload("net", ((1, 16, 8, 8),), Twice)
    runner = get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
    runner.prepare()
    layers = measure_layers(runner, 20)
    runner.close()
    assert [layer.nodes for layer in layers if "HardSwish" in "".join(layer.nodes)] == [
        ("/HardSwish",),
        ("/HardSwish_1",),
    ]
