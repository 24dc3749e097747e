"""Half-precision conversion, checked by ONNX and against the float32 model in ONNX Runtime."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from lgc.errors import MeasurementError, UsageError
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.backends.int8 import dequantise_biases
from lgc.profiler.backends.precision import cast_model

from ... import onnx_files


class Net(nn.Module):
    """Network with an output that is also used inside, a resize by a factor inexact in float16, and constants."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x, y):
        a = torch.relu(self.stem(x) * 1.5 + F.avg_pool2d(y, 2))
        b = F.interpolate(a, scale_factor=20.9 / 16, mode="bilinear", align_corners=False)
        logits = self.head(b) + torch.tensor([0.25], dtype=torch.float32)
        return a, logits, logits.argmax(1)


@pytest.fixture(scope="module")
def model():
    file, inputs = io.BytesIO(), (torch.rand(1, 3, 32, 32), torch.rand(1, 8, 32, 32))
    names = {"input_names": ["x", "y"], "output_names": ["a", "logits", "labels"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net().eval(), inputs, file, dynamo=False, opset_version=17, **names)
    return file.getvalue()


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def test_fp32_returns_model_unchanged(model):
    assert cast_model(model, "fp32") is model


def test_fp16_is_valid_and_close_to_fp32(model):
    half = cast_model(model, "fp16")
    onnx.checker.check_model(onnx.load_from_string(half), full_check=True)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.random((1, 3, 32, 32), np.float32), "y": rng.random((1, 8, 32, 32), np.float32)}
    for ours, reference in zip(run(half, feeds)[:2], run(model, feeds)[:2], strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, atol=5e-3)
        assert not np.array_equal(ours, reference)


@pytest.mark.parametrize(("precision", "low"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_only_inputs_outputs_and_sizes_stay_float32(model, precision, low):
    before, graph = onnx.load_from_string(model).graph, onnx.load_from_string(cast_model(model, precision)).graph
    for side in ("input", "output"):
        assert [(v.name, v.type) for v in getattr(graph, side)] == [(v.name, v.type) for v in getattr(before, side)]
    wide = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    assert wide == {resize.input[2] for resize in resizes}
    casts = [node.attribute[0].i for node in graph.node if node.op_type == "Cast"]
    assert casts == [low, low, TensorProto.FLOAT, TensorProto.FLOAT]
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_bf16_rounds_like_torch(model):
    before, after = onnx.load_from_string(model).graph, onnx.load_from_string(cast_model(model, "bf16")).graph
    weight = numpy_helper.to_array(next(t for t in before.initializer if t.name == "stem.weight"))
    bits = np.frombuffer(next(t for t in after.initializer if t.name == "stem.weight").raw_data, np.int16)
    np.testing.assert_array_equal(bits, torch.from_numpy(weight.copy()).bfloat16().view(torch.int16).numpy().ravel())


def single(nodes, weights=()):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], [numpy_helper.from_array(w, n) for n, w in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_weight_beyond_float16_is_named():
    model = single([helper.make_node("Mul", ["x", "big"], ["y"])], [("big", np.float32([1e6]))])
    with pytest.raises(MeasurementError, match=r"weight 'big' reaches 1e\+06, beyond float16's 65504; use bf16"):
        cast_model(model, "fp16")
    assert cast_model(model, "bf16")


def test_infinite_weight_stays_infinite():
    model = single([helper.make_node("Max", ["x", "floor"], ["y"])], [("floor", np.float32([-np.inf]))])
    assert run(cast_model(model, "fp16"), {"x": np.float32([[1, 2]])})[0].tolist() == [[1, 2]]


def test_constants_and_casts_are_converted():
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 2]),
        helper.make_node("ConstantOfShape", ["shape"], ["three"], value=numpy_helper.from_array(np.float32([3]))),
        helper.make_node("Cast", ["shape"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["x", "half", "three", "numbers"], ["y"]),
    ]
    half = cast_model(single(nodes), "fp16")
    onnx.checker.check_model(onnx.load_from_string(half), full_check=True)
    assert run(half, {"x": np.float32([[1, 2]])})[0].tolist() == [[5.5, 7.5]]


def test_subgraphs_are_rejected():
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])])
    node = helper.make_node("If", ["yes"], ["y"], name="fork", then_branch=branch, else_branch=branch)
    with pytest.raises(MeasurementError, match="If 'fork' holds a sub-graph"):
        cast_model(single([node], [("yes", np.array(True))]), "fp16")


def quantised():
    """Return a model that quantises and dequantises x [1, 2] and adds an int32 bias of two values."""
    arrays = {
        "scale": np.float32(0.5),
        "none": np.int8(0),
        "bias": np.array([3, -7], np.int32),
        "bias_scale": np.array([0.25, 0.125], np.float32),
        "bias_zero": np.zeros(2, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "none"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "none"], ["d"]),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale", "bias_zero"], ["b"], axis=0),
        helper.make_node("Add", ["d", "b"], ["y"]),
    ]
    return single(nodes, [(name, np.asarray(array)) for name, array in arrays.items()])


def test_weights_stored_in_half_compute_in_half():
    """A file whose float16 weights are cast to float32 computes in float32 and has to be converted."""
    stored = onnx_files.stored_as_half().SerializeToString()
    assert OnnxModel.parse(stored, "m").precision == "fp32"
    assert OnnxModel.parse(cast_model(stored, "fp16"), "m").precision == "fp16"
    computed = onnx_files.half(keep_io=True).SerializeToString()
    assert cast_model(computed, "fp16") is computed


def test_int8_requires_quantised_model(model):
    whole = quantised()
    assert cast_model(whole, "int8") is whole
    with pytest.raises(UsageError, match=r"int8 needs a model quantised with calibration images: run `lgc-export"):
        cast_model(model, "int8")


def test_int32_biases_become_equal_float32():
    rewritten = dequantise_biases(quantised())
    onnx.checker.check_model(onnx.load_from_string(rewritten), full_check=True)
    graph = onnx.load_from_string(rewritten).graph
    assert TensorProto.INT32 not in {tensor.data_type for tensor in graph.initializer}
    assert [node.op_type for node in graph.node] == ["QuantizeLinear", "DequantizeLinear", "Add"]
    assert "bias_scale" not in {tensor.name for tensor in graph.initializer}
    feeds = {"x": np.float32([[1.2, -3.4]])}
    np.testing.assert_array_equal(run(rewritten, feeds)[0], run(quantised(), feeds)[0])
    assert dequantise_biases(rewritten) is rewritten


def test_bad_arguments_are_rejected(model):
    with pytest.raises(UsageError, match="unknown precision 'tf32'"):
        cast_model(model, "tf32")
    with pytest.raises(MeasurementError, match="invalid ONNX model of 7 bytes"):
        cast_model(b"garbage", "fp16")
