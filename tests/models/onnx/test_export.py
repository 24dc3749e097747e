"""Simplified ONNX graphs compute the same as torch's exports, with fewer nodes."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lgc.errors import PluginError
from lgc.models import PRESETS, LGCNet, SearchSpace
from lgc.models.nets.layers import fold_norms
from lgc.models.nets.network import DenseOutput, FrameOutput, randomise_norms
from lgc.models.onnx.export import OPSET, replace_metadata, simplify, to_onnx

from ... import onnx_files as files

SIZE = (64, 96)
NETWORK = {"Conv", "Relu", "Add", "Concat", "MaxPool", "Resize"}
CONTEXT = {"GlobalAveragePool", "AveragePool", "HardSigmoid", "Mul", "Expand", "Slice"}
"""Operators of global context, which some presets have."""
EXPECTED = {
    "core": NETWORK,
    "dense": NETWORK | {"ArgMax"},
    "end-to-end": NETWORK | {"ArgMax", "Transpose", "Cast", "Mul"},
}


def export(preset, scope):
    space = SearchSpace.load(preset).with_input(*SIZE)
    torch.manual_seed(0)
    core = LGCNet(space, space.sample(1))
    randomise_norms(core, 0)
    dense = DenseOutput(core, space.plan.dense)
    if scope == "end-to-end":
        return to_onnx(fold_norms(FrameOutput(dense)), [(1, *SIZE, 3)], "uint8")
    return to_onnx(fold_norms(core if scope == "core" else dense), [(1, 3, *SIZE)])


def run(model, **inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, inputs)


def signature(model):
    return list(model.graph.input), list(model.graph.output)


@pytest.mark.parametrize("scope", EXPECTED)
@pytest.mark.parametrize("preset", PRESETS)
def test_simplified_graph_is_smaller_and_bit_identical(preset, scope):
    model = export(preset, scope)
    light = simplify(model)
    before, after = onnx.load_model_from_string(model), onnx.load_model_from_string(light)
    onnx.checker.check_model(after, full_check=True)
    assert "Constant" in {node.op_type for node in before.graph.node}
    assert {node.op_type for node in after.graph.node} <= EXPECTED[scope] | (CONTEXT if preset == "rapid" else set())
    left = [(node.name, node.op_type) for node in after.graph.node]
    assert left == [(n.name, n.op_type) for n in before.graph.node if (n.name, n.op_type) in set(left)], (
        "the order of nodes is unchanged"
    )
    assert len([n for n in before.graph.node if n.op_type == "Conv"]) == [kind for _, kind in left].count("Conv")
    assert signature(before) == signature(after)
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", OPSET)]
    assert after.ir_version == before.ir_version
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *SIZE, 3), np.uint8)
    if scope != "end-to-end":
        image = rng.standard_normal((1, 3, *SIZE), dtype=np.float32)
    (wanted,), (given,) = run(model, input_0=image), run(light, input_0=image)
    assert given.dtype == wanted.dtype
    np.testing.assert_array_equal(given, wanted)
    assert simplify(light) == light


def test_simplify_keeps_metadata():
    notes = {"architecture": "{}", "scope": "core"}
    after = onnx.load_model_from_string(simplify(replace_metadata(export("tiny", "core"), notes)))
    assert {entry.key: entry.value for entry in after.metadata_props} == notes


def test_simplify_keeps_unique_names():
    """A node without a name does not take that of another one."""
    nodes = [onnx.helper.make_node("Relu", ["x"], ["p"]), *files.net_nodes("p")]
    nodes[3].name = "Relu_0"
    slim = onnx.load_model_from_string(simplify(files.make(nodes).SerializeToString()))
    assert [node.name for node in slim.graph.node] == ["Relu_0_", "first", "relu", "Relu_0"]


def test_simplify_is_silent_and_imports_lazily():
    code = (
        "import sys, torch, lgc.models, lgc.profiler, lgc.profiler.deployment.export\n"
        "import lgc.models.onnx.export as export\n"
        "assert 'onnxslim' not in sys.modules\n"
        "export.simplify(export.to_onnx(torch.nn.Conv2d(1, 1, 1), [(1, 1, 4, 4)]))\n"
        "assert 'onnxslim' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Compute(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def bessel(x):
    return torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bessel, rf"opset {OPSET} has no aten::special_bessel_j0 \(.*test_export.py, line \d+\)"),
        (lambda x: x if x.sum() > 0 else -x, r"test_export.py, line \d+, `.*` reads values of the input"),
        (lambda x: x.view(3), r"cannot export to ONNX: RuntimeError: shape .*test_export.py, line \d+"),
    ],
)
def test_failed_export_names_the_line(function, message, capfd):
    with pytest.raises(PluginError, match=message):
        to_onnx(Compute(function), [(1, 4, 8, 8)])
    assert capfd.readouterr() == ("", "")


class Autocast(torch.nn.Conv2d):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


def test_types_that_onnx_lacks_are_named():
    with pytest.raises(
        PluginError, match=r"graph is invalid: .*bfloat16.*; compute in float32, without torch.autocast"
    ):
        to_onnx(Autocast(3, 4, 1), [(1, 3, 8, 8)])


def test_torchs_attention_layer_is_exported():
    """Its fast path in evaluation has no ONNX form."""

    class SelfAttention(torch.nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    layer = SelfAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 4, 8)
    session = onnxruntime.InferenceSession(to_onnx(layer, [(1, 4, 8)]))
    with torch.no_grad():
        expected = layer(x).numpy()
    assert torch.backends.mha.get_fastpath_enabled()
    np.testing.assert_allclose(session.run(None, {"input_0": x.numpy()})[0], expected, atol=1e-5)
