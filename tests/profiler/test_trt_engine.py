"""Engines really built: TensorRT-RTX builds ahead of time, on a machine without a GPU."""

import io
import warnings

import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

from lgc.errors import BackendUnavailableError, MeasurementError, UnknownNameError, UsageError
from lgc.profiler.backends.trt_engine import DEFAULT_CAPABILITY, build_engine, device_capability
from lgc.profiler.backends.trt_loader import load_tensorrt


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


def to_onnx(module, shape=(1, 4, 24, 48), **options):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.rand(shape),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["input_0"],
            **options,
        )
    return file.getvalue()


def one_node(operator, domain="", **attributes):
    node = helper.make_node(operator, ["input_0"], ["output_0"], name="/net/odd_one", domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info("input_0", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("output_0", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "graph", inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain or "unused", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("net", NETS)
def test_builds_every_kind_of_layer(net, precision, library):
    engine = build_engine(to_onnx(NETS[net]()), precision=precision, compute_capability="8.9")
    assert len(engine.data) > 1000
    assert (engine.flavour, engine.version) == ("TensorRT-RTX", library.version)
    assert (engine.precision, engine.compute_capability, engine.assumed) == (precision, "8.9", False)
    assert engine.layers
    assert 0 < engine.seconds < 60


def test_layers_are_those_after_fusion():
    module = nn.Sequential(nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
    layers = build_engine(to_onnx(module), compute_capability="8.9").layers
    assert sum("Conv" in name for name in layers) == 2
    assert not any("Relu" in name for name in layers)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_halves_the_weights(precision):
    model = to_onnx(nn.Sequential(*[nn.Conv2d(256, 256, 3, 1, 1) for _ in range(3)]), (1, 256, 8, 8))
    full = build_engine(model, compute_capability="8.9")
    half = build_engine(model, precision=precision, compute_capability="8.9")
    weights = 4 * 3 * 256 * 256 * 9
    assert len(full.data) - len(half.data) == pytest.approx(weights / 2, rel=0.1)


def test_default_device_is_this_one_or_is_said_to_be_assumed():
    if device_capability() is not None:
        pytest.skip("there is a GPU here: see tests/gpu")
    engine = build_engine(to_onnx(nn.Conv2d(4, 4, 1)))
    assert (engine.compute_capability, engine.assumed) == (DEFAULT_CAPABILITY, True)


def test_unknown_compute_capability_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"compute capability '8\.8' .*; known: 12\.0, .*8\.9"):
        build_engine(to_onnx(nn.Conv2d(4, 4, 1)), compute_capability="8.8")


def test_unknown_precision():
    with pytest.raises(UsageError, match="no precision 'int8'; there are fp32, fp16, bf16"):
        build_engine(to_onnx(nn.Conv2d(4, 4, 1)), precision="int8", compute_capability="8.9")


def test_dynamic_shape_is_refused():
    model = to_onnx(nn.Conv2d(4, 4, 1), dynamic_axes={"input_0": {2: "height", 3: "width"}})
    with pytest.raises(
        MeasurementError, match=r"dynamic input shapes: input_0 \(1, 4, -1, -1\).*every dimension fixed"
    ):
        build_engine(model, compute_capability="8.9")


def test_unsupported_operator_names_the_node():
    with pytest.raises(MeasurementError, match=r"refuses operator Unique, node '/net/odd_one': UNSUPPORTED_NODE"):
        build_engine(one_node("Unique"), compute_capability="8.9")


def test_foreign_operator_names_the_node_and_quotes_the_parser():
    with pytest.raises(
        MeasurementError, match=r"operator Sparkle, node '/net/odd_one': INVALID_NODE, .*Plugin not found"
    ):
        build_engine(one_node("Sparkle", domain="my.operators"), compute_capability="8.9")


def test_impossible_node_is_one_line_without_the_missing_driver():
    with pytest.raises(MeasurementError, match=r"operator MaxPool, node '/net/odd_one'.*negative length") as caught:
        build_engine(one_node("MaxPool", kernel_shape=[99, 99]), compute_capability="8.9")
    assert "\n" not in str(caught.value)
    assert "cudaError" not in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("data", [b"garbage", to_onnx(nn.Conv2d(4, 4, 1))[:200]], ids=["garbage", "truncated"])
def test_no_onnx_at_all(data, precision):
    with pytest.raises(MeasurementError, match="ONNX model"):
        build_engine(data, precision=precision, compute_capability="8.9")


def test_empty_model():
    with pytest.raises(MeasurementError, match="no outputs"):
        build_engine(b"", compute_capability="8.9")


def test_nothing_on_stderr(capfd):
    build_engine(to_onnx(Labels()), compute_capability="8.9")
    with pytest.raises(MeasurementError):
        build_engine(b"garbage", compute_capability="8.9")
    assert capfd.readouterr() == ("", "")
