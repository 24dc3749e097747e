"""Parameters and multiply-accumulates of graphs that other programs write."""

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType
from torch import nn
from torch.nn import functional as F

from lgc.models.onnx.counting.costs import count_costs, measure_tensors
from lgc.models.onnx.counting.macs import count_node_macs
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.ort_probe import OrtProbe

from ... import onnx_files as files

PIXELS = 16 * 24


def count(model, folder):
    return OnnxModel.load(files.save(model, folder / "m.onnx")).costs


def single(op, out, weights, **attributes):
    node = helper.make_node(op, ["x", *weights], ["y"], name="only", **attributes)
    return files.make([node], outputs=[files.value("y", out)], weights=weights)


@pytest.mark.parametrize(
    ("model", "parameters", "macs"),
    [
        (single("ConvTranspose", (1, 5, 32, 48), {"w": np.ones((3, 5, 2, 2), "f4")}, strides=[2, 2]), 60, PIXELS * 60),
        (single("Einsum", (1, 5, 16, 24), {"w": np.ones((5, 3), "f4")}, equation="bchw,oc->bohw"), 15, PIXELS * 15),
        (single("MatMul", (1, 3, 16, 7), {"w": np.ones((24, 7), "f4")}), 168, 3 * 16 * 7 * 24),
    ],
)
def test_products_are_counted(model, parameters, macs, tmp_path):
    costs = count(model, tmp_path)
    assert (costs.parameters, costs.macs, costs.uncounted) == (parameters, macs, ())


def test_bias_of_a_matrix_product_is_counted(tmp_path):
    model = single("MatMul", (1, 3, 16, 7), {"w": np.ones((24, 7), "f4")})
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node("Add", ["z", "b"], ["y"]))
    model.graph.initializer.append(files.tensor("b", np.ones(7, "f4")))
    assert count(model, tmp_path).parameters == 168 + 7


def test_costs_pass_through_operators_of_onnx_runtime(tmp_path):
    """ONNX cannot infer shapes through QLinearAdd, so that everything behind it needs a run."""
    expected = count(files.residual(), tmp_path)
    quantised = OnnxModel.load(files.quantise(tmp_path, "QOperator", files.residual()))
    assert {"QLinearAdd", "QLinearSigmoid"} <= set(quantised.operators)
    assert quantised.costs == expected
    assert expected.macs == PIXELS * (2 * 8 * 27 + 4 * 8)


def test_probing_never_holds_all_tensors(monkeypatch):
    """Shapes are inferred or computed, so that a run returns no tensor of the image's size."""
    nodes = [
        *files.net_nodes(),
        helper.make_node("Cast", ["side"], ["size"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["y", "size"], ["reshaped"]),
        helper.make_node("ReduceSum", ["reshaped"], ["total"], keepdims=0),
        helper.make_node("NonZero", ["r"], ["places"]),
        helper.make_node("SequenceConstruct", ["r"], ["sequence"]),
    ]
    model = files.make(nodes, weights=files.WEIGHTS | {"side": np.float32([4, 96])})
    sizes, run = [], OrtProbe.run

    def record(*arguments):
        arrays = run(*arguments)
        sizes.extend(getattr(array, "nbytes", 0) for array in arrays)
        return arrays

    monkeypatch.setattr(OrtProbe, "run", record)
    names = {name for node in nodes for name in node.output} - {"y"}
    assert measure_tensors(model, names) == {
        "a": ((1, 8, 8, 12), TensorProto.FLOAT),
        "r": ((1, 8, 8, 12), TensorProto.FLOAT),
        "y": ((1, 4, 8, 12), TensorProto.FLOAT),
        "size": ((2,), TensorProto.INT64),
        "reshaped": ((4, 96), TensorProto.FLOAT),
        "total": ((), TensorProto.FLOAT),
    }
    assert 0 < sum(sizes) < 200


@pytest.mark.parametrize(("level", "is_counted"), [("ORT_ENABLE_EXTENDED", True), ("ORT_ENABLE_ALL", False)])
def test_optimised_graph_is_counted_or_named(level, is_counted, tmp_path):
    """All optimisations pad the weights of convolutions for one kind of processor."""
    source, options = files.save(files.make(), tmp_path / "plain.onnx"), onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "m.onnx"), 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    model, expected = OnnxModel.load(tmp_path / "m.onnx"), OnnxModel.load(source).costs
    blocked = "optimised by ONNX Runtime for one kind of processor: use the original file elsewhere"
    if is_counted:
        assert "FusedConv" in model.operators
        assert model.costs == expected
        assert blocked not in model.remarks
    elif model.remarks == ():
        pytest.skip("no blocked convolutions on this processor")
    else:
        assert len(model.costs.uncounted) > 0
        assert blocked in model.remarks


def test_uncounted_operators_are_named(tmp_path):
    costs = count(files.loop(), tmp_path)
    assert (costs.uncounted, costs.macs) == (("repeat",), PIXELS // 4 * (8 * 27 + 4 * 8))
    assert costs.parameters == 8 * 27 + 8 + 4 * 8 + 8 * 8, "with the weights of the body"


def test_weights_of_both_branches_are_counted(tmp_path):
    """The branches are graphs of their own, in which other tensors may have the same name."""
    branches = []
    for name in ("then", "else"):
        node = helper.make_node("Conv", ["x", "w"], ["o"], name=name)
        weights = [files.tensor("w", np.ones((4, 3, 1, 1), "f4"))]
        branches.append(helper.make_graph([node], name, [], [files.value("o", (1, 4, *files.SIZE))], weights))
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1])
    model = files.make([node], outputs=[files.value("y", (1, 4, *files.SIZE))], weights={"c": np.array(True)})
    costs = count(model, tmp_path)
    assert (costs.parameters, costs.macs, costs.uncounted) == (24, 0, ("if",))


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_are_counted(operator, gates, tmp_path):
    """Each of 5 steps multiplies 3 inputs and 4 states; the initial state is no parameter."""
    weights = {
        "W": np.ones((1, gates * 4, 3), "f4"),
        "R": np.ones((1, gates * 4, 4), "f4"),
        "h": np.zeros((1, 1, 4), "f4"),
    }
    nodes = [helper.make_node(operator, ["x", "W", "R", "", "", "h"], ["y"], hidden_size=4)]
    model = files.make(nodes, [files.value("x", (5, 1, 3))], [files.value("y", (5, 1, 1, 4))], weights)
    costs = count(model, tmp_path)
    assert (costs.parameters, costs.macs, costs.uncounted) == (gates * 4 * 7, 5 * gates * 4 * 7, ())


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bcij,bcjk->bcik", ((1, 3, 8, 5), (1, 1, 5, 7)), 3 * 8 * 5 * 7),
        ("bcij,bcjk->bcik", ((1, 1, 8, 5), (1, 3, 5, 7)), 3 * 8 * 5 * 7),
        ("...ij,jk->...ik", ((2, 3, 8, 5), (5, 7)), 6 * 8 * 5 * 7),
        ("...ij,...jk", ((1, 3, 8, 5), (2, 1, 5, 7)), 6 * 8 * 5 * 7),
        ("bchw->bhwc", ((1, 3, 8, 5),), 0),
        ("bchw->bc", ((1, 3, 8, 5),), 0),
    ],
)
def test_einsum_counts_its_products(equation, shapes, macs, tmp_path):
    names = [f"x{index}" for index in range(len(shapes))]
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    out = np.einsum(equation, *map(np.ones, shapes)).shape
    model = files.make([node], list(map(files.value, names, shapes)), [files.value("y", out)], {})
    costs = count(model, tmp_path)
    assert (costs.macs, costs.uncounted) == (macs, ())


ORT = "com.microsoft"


def ort_model(operator, inputs, shapes, weights, **attributes):
    """Return a model of one operator of ONNX Runtime with outputs of unknown shape."""
    node = helper.make_node(operator, inputs, ["y"], name="only", domain=ORT, **attributes)
    values = [files.value(name, shape) for name, shape in shapes.items()]
    return files.make([node], values, [files.value("y", None)], weights, domains=[ORT])


@pytest.mark.parametrize(
    ("model", "parameters", "macs"),
    [
        (ort_model("FusedGemm", ["x", "w", "b"], {"x": (6, 8)}, {"w": np.ones((8, 5), "f4"), "b": np.ones(5, "f4")},
                   activation="Relu"), 45, 6 * 8 * 5),
        (ort_model("TransposeMatMul", ["x", "w"], {"x": (2, 8, 6)}, {"w": np.ones((5, 8), "f4")}, transA=1, transB=1),
         40, 2 * 6 * 8 * 5),
        (ort_model("FusedMatMul", ["x", "w"], {"x": (6, 2, 8)}, {"w": np.ones((2, 8, 5), "f4")}, transBatchA=1),
         80, 2 * 6 * 8 * 5),
        (ort_model("MatMulNBits", ["x", "w", "s"], {"x": (6, 32)},
                   {"w": np.ones((5, 1, 16), "u1"), "s": np.ones(5, "f4")}, K=32, N=5, bits=4, block_size=32),
         160, 6 * 32 * 5),
        (ort_model("MatMulBnb4", ["x", "w", "s"], {"x": (6, 32)},
                   {"w": np.ones(80, "u1"), "s": np.ones(10, "f4")}, K=32, N=5, block_size=16, quant_type=1),
         160, 6 * 32 * 5),
        (ort_model("MultiHeadAttention", ["q", "k", "v"], {"q": (1, 6, 8), "k": (1, 9, 8), "v": (1, 9, 8)}, {},
                   num_heads=2), 0, 6 * 9 * (8 + 8)),
        (ort_model("Attention", ["x", "w", "b"], {"x": (1, 6, 8)},
                   {"w": np.ones((8, 24), "f4"), "b": np.ones(24, "f4")}, num_heads=2),
         8 * 24 + 24, 6 * 8 * 24 + 6 * 6 * (8 + 8)),
        (ort_model("BiasGelu", ["x", "b"], {"x": (6, 8)}, {"b": np.ones(8, "f4")}), 8, 0),
    ],
    ids=lambda each: each.graph.node[0].op_type if hasattr(each, "graph") else None,
)  # fmt: skip
def test_operators_of_onnx_runtime_are_counted(model, parameters, macs, tmp_path):
    costs = count(model, tmp_path)
    assert (costs.parameters, costs.macs, costs.uncounted) == (parameters, macs, ())


def test_grouped_queries_are_counted(tmp_path):
    """Four heads of queries share two of keys and values."""
    names = ["q", "k", "v", "", "", "last", "total"]
    node = helper.make_node("GroupQueryAttention", names, ["y", "a", "b"], domain=ORT, num_heads=4, kv_num_heads=2)
    inputs = [files.value("q", (1, 6, 32)), *(files.value(name, (1, 6, 16)) for name in "kv")]
    outputs = [files.value("y", (1, 6, 32)), *(files.value(name, (1, 2, 6, 8)) for name in "ab")]
    weights = {"last": np.array([5], "i4"), "total": np.array(6, "i4")}
    costs = count(files.make([node], inputs, outputs, weights, domains=[ORT]), tmp_path)
    assert (costs.macs, costs.uncounted) == (6 * 6 * (32 + 32), ())


def test_packed_attention_is_counted():
    """Queries, keys and values of [N, length, heads, 3, size] are one tensor, which no kernel of the CPU takes."""
    node = helper.make_node("MultiHeadAttention", ["x"], ["y"], domain=ORT, num_heads=2)
    assert count_node_macs(node, {"x": (1, 6, 2, 3, 4), "y": (1, 6, 8)}) == 6 * 6 * (8 + 8)
    node.input.extend(["k", "", "", "", "", "past"])
    assert count_node_macs(node, {"x": (1, 6, 8), "k": (1, 9, 2, 2, 4), "y": (1, 6, 8)}) is None, "earlier keys"


@pytest.mark.parametrize(("domain", "operator"), [(ORT, "PackedMultiHeadAttention"), (ORT, "MoE"), ("vendor", "Magic")])
def test_unknown_operators_of_other_domains_are_named(domain, operator):
    """ONNX Runtime has no kernel of these on a CPU, so they are counted without a check of the file."""
    node = helper.make_node(operator, ["z"], ["y"], name="unknown", domain=domain)
    model = files.make([*files.net_nodes(y="z"), node], domains=[domain])
    assert count_costs(model.SerializeToString()).uncounted == ("unknown",)


class Tokens(nn.Module):
    """Positional embedding, class token, attention with decomposed layer normalisation, scale of a layer."""

    def __init__(self):
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 1)
        self.position, self.token = nn.Parameter(torch.randn(1, 25, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.scale = nn.Linear(8, 24), nn.Parameter(torch.full((8,), 0.1))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, x], dim=1) + self.position
        q, k, v = self.qkv(self.first(x)).chunk(3, dim=-1)
        return self.head(self.second(x + self.scale * F.scaled_dot_product_attention(q, k, v)))


class Groups(nn.Module):
    """Decomposed group normalisation, a recurrent layer, a slope shared by all channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.slope = nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8), nn.PReLU()
        self.steps = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x):
        x = self.slope(self.norm(self.conv(x)))
        return self.steps(x.flatten(2).transpose(1, 2))[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("build", [Tokens, Groups])
def test_parameters_match_torch(build, opset, tmp_path):
    """Layer normalisation is decomposed in opset 14, and group normalisation in both."""
    module, path = build().eval(), tmp_path / "m.onnx"
    torch.onnx.export(module, (torch.zeros(files.IMAGE),), path, opset_version=opset, dynamo=False)
    assert OnnxModel.load(path).costs.parameters == sum(weight.numel() for weight in module.parameters())


def test_tied_weights_count_once(tmp_path):
    weights = {"w": np.arange(64, dtype="f4").reshape(8, 8, 1, 1)}
    nodes = [
        helper.make_node("Identity", ["w"], ["copy"]),
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "copy"], ["y"]),
    ]
    model = files.make(nodes, [files.value("x", (1, 8, 4, 4))], [files.value("y", (1, 8, 4, 4))], weights)
    assert count(model, tmp_path).parameters == 64


def note(node, **texts):
    """Add the metadata that torch's newer exporter writes."""
    keys = {
        "scopes": "pkg.torch.onnx.name_scopes",
        "call": "pkg.torch.onnx.fx_node",
        "rule": "pkg.onnxscript.rewriter.rule_name",
    }
    for name, text in texts.items():
        node.metadata_props.add(key=keys[name], value=text)
    return node


def norms(*scopes, width=300):
    """Return a model of layer normalisations whose ones and zeros are one tensor each, as exporters merge them."""
    names = ["x", *(f"t{index}" for index in range(len(scopes)))]
    nodes = [
        helper.make_node("LayerNormalization", [source, "ones", "zeros"], [target])
        for source, target in pairwise(names)
    ]
    for node, scope in zip(nodes, scopes, strict=True):
        if scope:
            note(node, scopes=f"['', '{scope}', '{node.output[0]}']")
    shape = (1, 4, width)
    weights = {"ones": np.ones(width, "f4"), "zeros": np.zeros(width, "f4")}
    return files.make(nodes, [files.value("x", shape)], [files.value(names[-1], shape)], weights)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [(norms("", "", ""), 1800), (norms("a", "b", "b"), 1200), (norms("a", "a", width=8), 16)],
    ids=["layers", "called twice", "one layer"],
)
def test_merged_weights_count_per_layer(model, parameters, tmp_path):
    assert count(model, tmp_path).parameters == parameters


@pytest.mark.parametrize(
    ("names", "parameters"),
    [(("", ""), 8), (("/t/t.1/Mul", "/t_1/t.1/Mul"), 8), (("/t/t.1/Mul", "/t/t.2/Mul"), 16)],
    ids=["unnamed", "called twice", "two layers"],
)
def test_uniform_scales_count_per_shared_weight(names, parameters, tmp_path):
    """A convolution and a scale of ones that are called twice are one layer each, unless the names differ."""
    weights = {"w": np.random.default_rng(0).standard_normal((8, 8, 1, 1), "f4"), "scale": np.ones((8, 1, 1), "f4")}
    nodes = []
    for source, target, name in (("x", "a", names[0]), ("a", "y", names[1])):
        nodes += [
            helper.make_node("Conv", [source, "w"], [f"{target}/c"]),
            helper.make_node("Mul", [f"{target}/c", "scale"], [target], name=name),
        ]
    values = [[files.value(name, (1, 8, 4, 4))] for name in "xy"]
    assert count(files.make(nodes, *values, weights), tmp_path).parameters == 64 + parameters


@pytest.mark.parametrize(
    ("calls", "parameters"),
    [
        (("", ""), 16),
        (("args = (%x, %p_w, %p_b", "args = (%a, %q_w, %q_b"), 32),
        (("args = (%x, %p_w, %p_b", "args = (%a, None, None,"), 16),
        (("args = (%x, None, None,", "args = (%a, None, None,"), 0),
    ],
    ids=["unknown", "affine", "mixed", "plain"],
)
def test_plain_instance_normalisations_count_once(calls, parameters, tmp_path):
    """Their ones and zeros are merged with those of a layer with parameters."""
    nodes = [
        helper.make_node("InstanceNormalization", [source, "ones", "zeros"], [target])
        for source, target in (("x", "a"), ("a", "y"))
    ]
    for node, call in zip(nodes, calls, strict=True):
        if call:
            target = f"[target=torch.ops.aten.instance_norm.default]({call} None, None, True))"
            note(node, call=target, scopes=f"['', '{node.output[0]}', 'instance_norm']")
    weights = {"ones": np.ones(8, "f4"), "zeros": np.zeros(8, "f4")}
    values = [[files.value(name, (1, 8, 4, 4))] for name in "xy"]
    assert count(files.make(nodes, *values, weights), tmp_path).parameters == parameters


@pytest.mark.parametrize(("second", "parameters"), [("w", 64 + 8), ("v", 2 * (64 + 8))])
def test_merged_biases_count_per_weight(second, parameters, tmp_path):
    """A layer that is called twice has one bias."""
    weights = {name: np.random.default_rng(0).standard_normal((8, 8, 1, 1), "f4") for name in {"w", second}}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["a"]), helper.make_node("Conv", ["a", second, "b"], ["y"])]
    values = [[files.value(name, (1, 8, 4, 4))] for name in "xy"]
    model = files.make(nodes, *values, weights | {"b": np.zeros(8, "f4")})
    assert count(model, tmp_path).parameters == parameters


def test_merged_scalars_and_masks_count_once(tmp_path):
    weights = {"slope": np.full(1, 0.25, "f4"), "mask": np.zeros((16, 24), "f4")}
    nodes = [
        helper.make_node("PRelu", ["x", "slope"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("PRelu", ["b", "slope"], ["c"]),
        helper.make_node("Add", ["c", "mask"], ["y"]),
    ]
    model = files.make(nodes, outputs=[files.value("y", files.IMAGE)], weights=weights)
    assert count(model, tmp_path).parameters == 1 + 16 * 24


@pytest.mark.parametrize(
    ("call", "rule", "lost"),
    [
        ("args = (%x, %p_w, %p_b, [1, 1])", "RemoveOptionalBiasFromConv", 8),
        ("args = (%conv2d, %p_bn_weight, %p_bn_bias, %b_mean)", "RemoveOptionalBiasFromConv, FuseBatchNormIntoConv", 8),
        ("args = (%x, %p_w, None, [1, 1])", "RemoveOptionalBiasFromConv", 0),
        ("args = (%x, %p_w), kwargs = {}", "RemoveOptionalBiasFromConv", 0),
        ("args = (%x, %p_w, %p_b, [1, 1])", "FusePadIntoConv", 0),
    ],
)
def test_removed_zero_biases_count(call, rule, lost, tmp_path):
    """The network is called twice, and the second weight has its bias."""
    nodes = [
        note(helper.make_node("Conv", ["x", "w1"], ["a"]), call=call, rule=rule),
        note(helper.make_node("Conv", ["x", "w1"], ["b"]), call=call, rule=rule),
        helper.make_node("Add", ["a", "b"], ["c"]),
        note(helper.make_node("Conv", ["c", "w2", "b2"], ["y"]), call=call, rule=rule),
    ]
    weights = {name: files.WEIGHTS[name] for name in ("w1", "w2")} | {"b2": np.arange(4, dtype="f4")}
    model = files.make(nodes, outputs=[files.value("y", (1, 4, 14, 22))], weights=weights)
    assert count(model, tmp_path).parameters == 8 * 27 + lost + 4 * 8 + 4


def test_sizes_and_scales_are_no_parameters(tmp_path):
    """Per-channel scales of weights, factors of a resize, and indices hold no trained values."""
    from onnxruntime.quantization import quantize_dynamic

    nodes = [*files.net_nodes(y="z"), helper.make_node("Resize", ["z", "", "f"], ["y"], mode="linear")]
    nodes[2:2] = [helper.make_node("Gather", ["r", "i"], ["g"], axis=1)]
    nodes[3].input[0] = "g"
    weights = files.WEIGHTS | {"f": np.array([1, 1, 2, 2], "f4"), "i": np.arange(8)}
    source = files.save(
        files.make(nodes, outputs=[files.value("y", (1, 4, *files.SIZE))], weights=weights), tmp_path / "s"
    )
    expected = OnnxModel.load(source).costs
    assert expected.parameters == 8 * 27 + 8 + 4 * 8
    quantize_dynamic(
        source, tmp_path / "q", per_channel=True, op_types_to_quantize=["Conv"], weight_type=QuantType.QUInt8
    )
    assert OnnxModel.load(tmp_path / "q").costs.parameters == expected.parameters
