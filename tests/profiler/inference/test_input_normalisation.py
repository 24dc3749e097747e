"""Normalisation of the image by the graph itself."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lgc.errors import UsageError
from lgc.models.images import IMAGENET
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.inference.input_normalisation import infer_input_normalisation
from lgc.profiler.inference.preprocessing import InputOptions, Preprocessing

from .graphs import SIZE, make_value, write_graph

MEANS, STDS = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
COLUMN = (1, 3, 1, 1)


def write_normalising(path, nodes, weights, kind=TensorProto.FLOAT):
    """Write a network that computes `nodes` of its input, the last of which has the output `n`, then a convolution."""
    nodes = [node if hasattr(node, "op_type") else helper.make_node(*node) for node in nodes]
    conv = helper.make_node("Conv", ["n", "weight"], ["scores"])
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    arrays = {name: np.asarray(values, np.int64 if name == "indices" else dtype) for name, values in weights.items()}
    arrays["weight"] = np.ones((4, 3, 1, 1), dtype)
    values = [[make_value(name, (1, count, *SIZE), kind)] for name, count in (("x", 3), ("scores", 4))]
    return write_graph(path, [*nodes, conv], *values, arrays)


def load(path, nodes, weights=None, kind=TensorProto.FLOAT):
    return OnnxModel.load(write_normalising(path / "m.onnx", nodes, weights or {}, kind))


def measure(model):
    return infer_input_normalisation(model, model.image_input())


def batch_norm(means, stds, scale=1.0, shift=0.0):
    node = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"], epsilon=1e-5)
    columns = {"g": scale, "b": shift, "m": means, "v": np.square(stds)}
    return [node], {name: np.broadcast_to(values, 3) for name, values in columns.items()}


def per_channel(means, stds):
    """Return the normalisation of each channel alone."""
    nodes = [helper.make_node("Split", ["x"], ["x0", "x1", "x2"], axis=1)]
    weights = {}
    for index in range(3):
        nodes += [
            helper.make_node("Sub", [f"x{index}", f"m{index}"], [f"d{index}"]),
            helper.make_node("Div", [f"d{index}", f"s{index}"], [f"n{index}"]),
        ]
        weights |= {f"m{index}": means[index], f"s{index}": stds[index]}
    return [*nodes, helper.make_node("Concat", ["n0", "n1", "n2"], ["n"], axis=1)], weights


def scaling_convolution(means, stds, group):
    """Return a 1x1 convolution that scales each channel."""
    weight = np.diag(1 / stds) if group == 1 else (1 / stds).reshape(3, 1)
    node = helper.make_node("Conv", ["x", "w", "b"], ["n"], group=group)
    return [node], {"w": weight[..., None, None], "b": -means / stds}


def constant(name, values):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values), name))


def dequantised_convolution(stds):
    """Return a convolution whose weight is a constant in bytes."""
    stored = [constant("q", np.eye(3, dtype=np.int8)[..., None, None] * 100), constant("f", np.float32(1 / 100 / stds))]
    return [*stored, ("DequantizeLinear", ["q", "f"], ["w"]), ("Conv", ["x", "w"], ["n"])], {}


MEAN_IMAGE = 100 + 20 * np.random.default_rng(0).random((1, 3, *SIZE))
SUBTRACT, DIVIDE = ("Sub", ["x", "m"], ["d"]), ("Div", ["d", "s"], ["n"])
COLUMNS = {"m": MEANS.reshape(COLUMN), "s": STDS.reshape(COLUMN)}
AFTER = [("Sub", ["p", "m"], ["d"]), DIVIDE]
SMOOTHING = {"kernel_shape": [3, 3], "pads": [1] * 4}
SHIFT = [0, 0, 1, 0, 0, 0, -1, 0]
UNMIXED = np.diag(1 / STDS).astype(np.float32)[..., None, None]
BRANCHES = [
    helper.make_node("AveragePool", ["x"], ["low"], kernel_shape=[2, 2], strides=[2, 2]),
    helper.make_node("Conv", ["x", "edges"], ["e"]),
]
EXCHANGE = [
    helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
    ("MatMul", ["t", "flip"], ["p"]),
    helper.make_node("Transpose", ["p"], ["g"], perm=[0, 3, 1, 2]),
]
BYTES = {
    "column": ([SUBTRACT, DIVIDE], COLUMNS),
    "factor": ([("Mul", ["s", "x"], ["d"]), ("Sub", ["d", "m"], ["n"])], {"s": 1 / 127.5, "m": 1.0}),
    "mean": ([("Sub", ["x", "m"], ["n"])], {"m": MEANS.reshape(COLUMN)}),
    "range": ([("Div", ["x", "s"], ["n"])], {"s": 255.0}),
    "inverted": ([("Sub", ["m", "x"], ["d"]), DIVIDE], {"m": 127.0, "s": 50.0}),
    "clipped": (
        [("Clip", ["x", "low", "high"], ["c"]), ("Sub", ["c", "m"], ["d"]), DIVIDE],
        {"low": 0.0, "high": 255.0, "m": 127.0, "s": 50.0},
    ),
    "channels": per_channel(MEANS, STDS),
    "batch normalisation": batch_norm(MEANS, STDS, scale=[0.3, 1.7, -2.0], shift=0.4),
    "mean image": ([("Sub", ["x", "m"], ["n"])], {"m": MEAN_IMAGE}),
    "scaled mean image": ([SUBTRACT, DIVIDE], {"m": MEAN_IMAGE, "s": 100.0}),
    "small mean": ([("Sub", ["x", "m"], ["n"])], {"m": np.reshape([73.16, 82.9, 72.4], COLUMN)}),
    "sum": ([("Sum", ["x", "m"], ["d"]), DIVIDE], {"m": -MEANS.reshape(COLUMN), "s": 58.0}),
    "padded": ([("Pad", ["x", "indices"], ["p"]), *AFTER], {"indices": SHIFT, **COLUMNS}),
    "smoothed": ([helper.make_node("AveragePool", ["x"], ["p"], **SMOOTHING), *AFTER], COLUMNS),
    "rectified": ([("Relu", ["x"], ["p"]), *AFTER], COLUMNS),
    "behind branches": ([*BRANCHES, SUBTRACT, DIVIDE], {"edges": np.ones((1, 3, 1, 1)), **COLUMNS}),
    "exchanged": ([*EXCHANGE, ("Sub", ["g", "m"], ["d"]), DIVIDE], {"flip": np.eye(3)[::-1], **COLUMNS}),
    "constant convolution": ([constant("w", UNMIXED), ("Conv", ["x", "w"], ["n"])], {}),
    "dequantised convolution": dequantised_convolution(STDS),
    "convolution": scaling_convolution(MEANS, STDS, 1),
    "depthwise convolution": scaling_convolution(MEANS, STDS, 3),
}
UNIT = {
    "scalar": ([SUBTRACT, DIVIDE], {"m": 0.485, "s": 0.229}),
    "channels": per_channel(MEANS / 255, STDS / 255),
    "batch normalisation": batch_norm(MEANS / 255, STDS / 255),
    "dark images": batch_norm([0.287, 0.325, 0.284], 0.18),
    "factor": ([("Mul", ["x", "s"], ["n"])], {"s": 255.0}),
}
CASES = [
    pytest.param(*case, scale, id=f"{name}, {scale}")
    for scale, cases in ((255, BYTES), (1, UNIT))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("nodes", "weights", "scale"), CASES)
def test_range_is_asked_for(nodes, weights, scale, tmp_path):
    model = load(tmp_path, nodes, weights)
    name = "0..1" if scale == 1 else "0..255"
    with pytest.raises(UsageError, match=f"normalises its input itself, by .*: add --range {name}, as these numbers"):
        Preprocessing.for_network(model, InputOptions())
    known = Preprocessing.for_network(model, InputOptions(value_range="0..255"))
    np.testing.assert_allclose(known.apply(np.full((*SIZE, 3), 200, np.uint8)), 200, rtol=1e-5)


@pytest.mark.parametrize("name", ["column", "channels", "batch normalisation", "convolution", "depthwise convolution"])
def test_numbers_are_those_of_each_channel(name, tmp_path):
    normalisation = measure(load(tmp_path, *BYTES[name]))
    np.testing.assert_allclose(normalisation.means, MEANS, rtol=1e-3)
    np.testing.assert_allclose(normalisation.stds, STDS, rtol=1e-3)
    assert not normalisation.is_image


def test_mean_images_are_named(tmp_path):
    model = load(tmp_path, *BYTES["scaled mean image"])
    normalisation = measure(model)
    assert normalisation.is_image
    np.testing.assert_allclose(normalisation.means, MEAN_IMAGE.mean((0, 2, 3)), rtol=1e-4)
    with pytest.raises(UsageError, match=r"by a mean image of about 1.*,1.*,1.* and std 100,100,100"):
        Preprocessing.for_network(model, InputOptions())


def test_exchanged_channels_keep_their_numbers(tmp_path):
    """Means are in the order of the input, whatever the graph's."""
    nodes = [helper.make_node("Gather", ["x", "indices"], ["g"], axis=1), ("Sub", ["g", "m"], ["d"]), DIVIDE]
    path = write_normalising(tmp_path / "m.onnx", nodes, {"indices": [2, 1, 0], **BYTES["column"][1]})
    model = OnnxModel.load(path)
    np.testing.assert_allclose(measure(model).means, MEANS[::-1], rtol=1e-4)


def test_half_and_quantised_pixels_are_measured(tmp_path):
    nodes, weights = BYTES["column"]
    assert measure(load(tmp_path, nodes, weights, TensorProto.FLOAT16)).scale == 255
    quantised = [("QuantizeLinear", ["x", "q"], ["i"]), ("DequantizeLinear", ["i", "q"], ["f"])]
    nodes = [*quantised, ("Sub", ["f", "m"], ["d"]), DIVIDE]
    model = load(tmp_path, nodes, {**weights, "q": 2.0})
    np.testing.assert_allclose(measure(model).means, MEANS, rtol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([("Identity", ["x"], ["n"])], {}),
        ([("Mul", ["x", "unit"], ["n"])], {"unit": 1.0}),
        ([("Sigmoid", ["x"], ["r"]), ("Mul", ["r", "half"], ["n"])], {"half": 0.5}),
        ([*BRANCHES, ("Relu", ["x"], ["n"])], {"edges": np.ones((1, 3, 1, 1))}),
        ([helper.make_node("AveragePool", ["x"], ["n"], count_include_pad=1, **SMOOTHING)], {}),
        ([("Conv", ["x", "mix"], ["c"]), ("Div", ["c", "s"], ["n"])], {"mix": np.ones((3, 3, 1, 1)), "s": 58.0}),
        batch_norm([0.1, -0.05, 0.2], [1.1, 0.9, 1.0], scale=[0.02, 3.0, 1.0], shift=0.5),
        batch_norm(0.0, 1.0),
        ([("QuantizeLinear", ["x", "q"], ["i"]), ("DequantizeLinear", ["i", "q"], ["n"])], {"q": 0.02}),
    ],
)
def test_other_operators_are_no_normalisation(nodes, weights, tmp_path):
    model = load(tmp_path, nodes, weights)
    assert Preprocessing.for_network(model, InputOptions()).normalisation == IMAGENET


@pytest.mark.parametrize(
    ("nodes", "weights", "numbers"),
    [
        ([("Mul", ["x", "s"], ["d"]), ("Add", ["d", "m"], ["n"])], {"s": 0.45, "m": -0.1}, ", by mean 0.22.*"),
        ([("Sub", ["x", "m"], ["n"])], {"m": 0.5}, ", by mean 0.5.*"),
        ([("Sub", ["x", "m"], ["n"])], {"m": np.reshape([0.28, 0.29, 0.27], COLUMN)}, ", by mean 0.28,0.29,0.27.*"),
        (
            [("Add", ["x", "noise"], ["n"])],
            {"noise": np.random.default_rng(0).normal(0, 1, (1, 3, *SIZE))},
            ", by a mean image.*",
        ),
        (*per_channel([120.0, 0.5, 0.5], [58.0, 0.25, 0.25]), ", by mean 120,0.5,0.5 and std 58,0.25,0.25 per channel"),
        ([("Mul", ["x", "ramp"], ["n"])], {"ramp": np.linspace(0.1, 1, SIZE[1])}, ""),
        ([("Clip", ["x", "low", "high"], ["n"])], {"low": 0.0, "high": 1.0}, ""),
    ],
    ids=["renormalisation", "half", "dark", "noise", "mixed", "ramp", "clipped"],
)
def test_undecidable_normalisation_is_asked_for(nodes, weights, numbers, tmp_path):
    with pytest.raises(UsageError, match=f"normalises its input itself{numbers}: add --range 0..1 or 0..255, or"):
        Preprocessing.for_network(load(tmp_path, nodes, weights), InputOptions())
