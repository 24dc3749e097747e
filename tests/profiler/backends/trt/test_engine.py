"""Real builds: TensorRT-RTX builds ahead of time, on a machine without a GPU."""

import ctypes
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from lgc.errors import BackendUnavailableError, MeasurementError, UsageError
from lgc.profiler.backends.trt.engine import DEFAULT_CAPABILITY, build_engine, get_device_capability
from lgc.profiler.backends.trt.engine_cache import load_or_build_engine
from lgc.profiler.backends.trt.engine_files import read_engine_files, write_engine_files
from lgc.profiler.backends.trt.loader import load_tensorrt


@pytest.fixture(autouse=True, scope="module")
def library():
    try:
        return load_tensorrt(without_gpu=True)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, x):
        return torch.cat([self.left(x)[..., ::2, ::2], self.right(x)], 1)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Resize(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.conv, self.factor = nn.Conv2d(4, 4, 1), factor

    def forward(self, x):
        return F.interpolate(self.conv(x), scale_factor=self.factor, mode="bilinear", align_corners=False)


class Labels(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 19, 1)

    def forward(self, x):
        return self.head(x).argmax(1)


NETS = {
    "conv": lambda: nn.Conv2d(4, 8, 3, 2, 1),
    "depthwise": lambda: nn.Conv2d(4, 4, 5, 1, 2, groups=4),
    "dilated": lambda: nn.Conv2d(4, 4, 3, 1, 4, dilation=4),
    "depthwise dilated": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, 1, 2, dilation=2, groups=4), nn.Conv2d(4, 8, 1)),
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "resize": Resize,
    "resize by a third": lambda: Resize(4 / 3),
    "concat": Concat,
    "add": lambda: Residual(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()),
    "argmax": Labels,
}


def to_onnx(module, given=(1, 4, 24, 48), **options):
    image = given if isinstance(given, torch.Tensor) else torch.rand(given)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (image,),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["input_0"],
            **options,
        )
    return file.getvalue()


@pytest.fixture
def quantised_conv():
    """Return a function that makes a quantised convolution with a bias in int32, as in ONNX Runtime, or float32."""

    def make(bias):
        rng = np.random.default_rng(0)
        scales = rng.uniform(0.01, 0.02, 64).astype(np.float32)
        arrays = {
            "x_scale": np.float32(0.05),
            "zero": np.int8(0),
            "w": rng.integers(-127, 128, (64, 64, 3, 3)).astype(np.int8),
            "w_scale": scales,
            "w_zero": np.zeros(64, np.int8),
            "y_scale": np.float32(0.5),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["input_0", "x_scale", "zero"], ["x_q"], "quantise_x"),
            helper.make_node("DequantizeLinear", ["x_q", "x_scale", "zero"], ["x"], "dequantise_x"),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["weight"], "dequantise_w", axis=0),
            helper.make_node("Conv", ["x", "weight", "bias"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("QuantizeLinear", ["c", "y_scale", "zero"], ["c_q"], "quantise_y"),
            helper.make_node("DequantizeLinear", ["c_q", "y_scale", "zero"], ["output_0"], "dequantise_y"),
        ]
        if bias == "int32":
            arrays |= {"b": np.arange(64, dtype=np.int32), "b_scale": scales * 0.05, "b_zero": np.zeros(64, np.int32)}
            dequantise = helper.make_node(
                "DequantizeLinear", ["b", "b_scale", "b_zero"], ["bias"], "dequantise_b", axis=0
            )
            nodes.insert(3, dequantise)
        else:
            arrays["bias"] = np.arange(64, dtype=np.float32)
        sides = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 24, 48]) for name in ("input_0", "output_0")
        ]
        weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
        graph = helper.make_graph(nodes, "graph", sides[:1], sides[1:], weights)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    return make


def one_node(operator, domain="", **attributes):
    node = helper.make_node(operator, ["input_0"], ["output_0"], name="/net/odd_one", domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info("input_0", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("output_0", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "graph", inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain or "unused", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("net", NETS)
def test_every_kind_of_layer_builds(net, precision, library):
    engine = build_engine(to_onnx(NETS[net]()), precision=precision, compute_capability="8.9")
    assert len(engine.data) > 1000
    assert (engine.flavour, engine.version) == ("TensorRT-RTX", library.version)
    assert (engine.precision, engine.compute_capability, engine.assumed) == (precision, "8.9", False)
    assert engine.layers
    assert 0 < engine.seconds < 60


def test_layers_are_reported_after_fusion():
    module = nn.Sequential(nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
    engine = build_engine(to_onnx(module), compute_capability="8.9")
    assert [layer.nodes for layer in engine.fusions] == [("/0/Conv", "/1/Relu"), ("/2/Conv", "/3/Relu")]
    assert len(engine.layers) > len(engine.fusions)
    assert all(layer.kind and layer.tactic and layer.precision == "fp32" for layer in engine.fusions)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_halves_the_weights(precision):
    model = to_onnx(nn.Sequential(*[nn.Conv2d(256, 256, 3, 1, 1) for _ in range(3)]), (1, 256, 8, 8))
    full = build_engine(model, compute_capability="8.9")
    half = build_engine(model, precision=precision, compute_capability="8.9")
    weights = 4 * 3 * 256 * 256 * 9
    assert len(full.data) - len(half.data) == pytest.approx(weights / 2, rel=0.1)


def test_library_version_has_form_of_bindings(library):
    major, minor, patch, build = library.version.split(".")
    assert [major, minor] == str(library.module.__version__).split(".")[:2]
    assert patch.isdecimal()
    assert build.isdecimal()


def test_library_symbols_are_not_global():
    build_engine(to_onnx(nn.Conv2d(4, 4, 1)), compute_capability="8.9")
    with pytest.raises(AttributeError):
        ctypes.CDLL(None).createInferBuilder_INTERNAL  # noqa: B018 - looked up by being named


def test_context_memory_can_be_user_managed(library):
    trt = library.module
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    assert trt.BuilderFlag.REQUIRE_USER_ALLOCATION is not None
    assert isinstance(trt.ICudaEngine.device_memory_size_v2, property)
    assert "memory: typing.SupportsInt, size: typing.SupportsInt" in trt.IExecutionContext.set_device_memory.__doc__
    assert "strategy:" in trt.ICudaEngine.create_execution_context.__doc__


def test_default_capability_is_marked_as_assumed():
    if get_device_capability() is not None:
        pytest.skip("this machine has a GPU: see tests/gpu")
    engine = build_engine(to_onnx(nn.Conv2d(4, 4, 1)))
    assert (engine.compute_capability, engine.assumed) == (DEFAULT_CAPABILITY, True)


def test_unknown_compute_capability_lists_known():
    with pytest.raises(UsageError, match=r"for compute capabilities 7\.5, .*8\.9, .*12\.0.*, not for 8\.8"):
        build_engine(to_onnx(nn.Conv2d(4, 4, 1)), compute_capability="8.8")


def test_unknown_precision_is_rejected():
    with pytest.raises(UsageError, match="unknown precision 'fp8'; choose from fp32, fp16, bf16, int8"):
        build_engine(to_onnx(nn.Conv2d(4, 4, 1)), precision="fp8", compute_capability="8.9")


@pytest.mark.parametrize("bias", ["int32", "float32"])
def test_int8_convolutions_are_strongly_typed(bias, quantised_conv):
    engine = build_engine(quantised_conv(bias), precision="int8", compute_capability="8.9")
    (conv,) = (layer for layer in engine.layers if layer.kind == "correlation")
    full = build_engine(to_onnx(nn.Conv2d(64, 64, 3, 1, 1), (1, 64, 24, 48)), compute_capability="8.9")
    assert conv.nodes == ("conv", "dequantise_x", "dequantise_w")
    assert engine.precision == "int8"
    assert len(full.data) - len(engine.data) > 0.5 * 3 * 64 * 64 * 9  # one byte per weight instead of four


def test_int8_requires_quantised_model():
    with pytest.raises(UsageError, match=r"int8 needs a model quantised .*lgc-export --precision int8 --data"):
        build_engine(to_onnx(nn.Conv2d(4, 4, 1)), precision="int8", compute_capability="8.9")


class Frame(nn.Module):
    """Network from uint8 to uint8; the cast comes first, the only operator of TensorRT that takes uint8."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, 1, 1)

    def forward(self, x):
        return self.head(x.to(self.head.weight.dtype).permute(0, 3, 1, 2) / 255).argmax(1).to(torch.uint8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_uint8_images_build(precision):
    model = to_onnx(Frame(), torch.zeros(1, 24, 48, 3, dtype=torch.uint8))
    engine = build_engine(model, precision=precision, compute_capability="8.9")
    assert [str(tensor) for tensor in (*engine.inputs, *engine.outputs)] == [
        "input_0 uint8 1x24x48x3",
        f"{engine.outputs[0].name} uint8 1x24x48",
    ]


def test_engine_describes_itself(tmp_path):
    model = onnx.load_from_string(to_onnx(Labels()))
    helper.set_model_props(model, {"scope": "dense"})
    engine = build_engine(model.SerializeToString(), precision="fp16", compute_capability="8.9")
    assert [str(tensor) for tensor in engine.inputs] == ["input_0 float32 1x4x24x48"]
    assert [(tensor.shape, tensor.dtype) for tensor in engine.outputs] == [((1, 24, 48), "int64")]
    assert engine.metadata == {"scope": "dense"}
    assert engine.size_bytes == len(engine.data)
    assert engine.origin.endswith("for compute capability 8.9")
    write_engine_files(engine, tmp_path / "net.engine")
    assert read_engine_files(tmp_path / "net.engine") == engine


def test_cached_engine_equals_built_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    model = to_onnx(Labels())
    first, second = (load_or_build_engine(model, compute_capability="8.9") for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert (second.data, second.layers, second.inputs) == (first.data, first.layers, first.inputs)


def test_dynamic_shape_is_rejected():
    model = to_onnx(nn.Conv2d(4, 4, 1), dynamic_axes={"input_0": {2: "height", 3: "width"}})
    with pytest.raises(
        MeasurementError, match=r"dynamic input shapes: input_0 \(1, 4, -1, -1\).*every dimension fixed"
    ):
        build_engine(model, compute_capability="8.9")


def test_unsupported_operator_names_node():
    with pytest.raises(MeasurementError, match=r"rejects operator Unique, node '/net/odd_one': UNSUPPORTED_NODE"):
        build_engine(one_node("Unique"), compute_capability="8.9")


def test_custom_operator_error_quotes_parser():
    with pytest.raises(
        MeasurementError, match=r"operator Sparkle, node '/net/odd_one': INVALID_NODE, .*Plugin not found"
    ):
        build_engine(one_node("Sparkle", domain="my.operators"), compute_capability="8.9")


def test_invalid_node_error_is_one_line():
    with pytest.raises(MeasurementError, match=r"operator MaxPool, node '/net/odd_one'.*negative length") as caught:
        build_engine(one_node("MaxPool", kernel_shape=[99, 99]), compute_capability="8.9")
    assert "\n" not in str(caught.value)
    assert "cudaError" not in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("data", [b"garbage", to_onnx(nn.Conv2d(4, 4, 1))[:200]], ids=["garbage", "truncated"])
def test_invalid_onnx_is_rejected(data, precision):
    with pytest.raises(MeasurementError, match="ONNX model"):
        build_engine(data, precision=precision, compute_capability="8.9")


def test_empty_model_is_rejected():
    with pytest.raises(MeasurementError, match="no outputs"):
        build_engine(b"", compute_capability="8.9")


def test_build_prints_nothing(capfd):
    build_engine(to_onnx(Labels()), compute_capability="8.9")
    with pytest.raises(MeasurementError):
        build_engine(b"garbage", compute_capability="8.9")
    assert capfd.readouterr() == ("", "")
