"""Shapes, checks and costs need no values of large weights."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lgc.errors import FileFormatError
from lgc.models.onnx import skeleton
from lgc.models.onnx.counting.costs import count_costs
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.skeleton import convert_weights, infer_known_shapes, strip_weights

from ... import onnx_files as files

LARGE = {"w1": np.ones((64, 3, 3, 3), "f4"), "b1": np.zeros(64, "f4"), "w2": np.ones((64, 64, 1, 1), "f4")}


def large(nodes=None, **more):
    out = [files.value("y", (1, 64, 8, 12))]
    return files.make(nodes, outputs=out, weights=LARGE | more)


def test_large_weights_keep_shape_and_type():
    model = large()
    before = model.SerializeToString()
    stripped = strip_weights(model)
    assert model.SerializeToString() == before
    assert len(stripped.SerializeToString()) < 1200 < len(before)
    for own, tensor in zip(stripped.graph.initializer, model.graph.initializer, strict=True):
        assert (own.name, own.dims, own.data_type) == (tensor.name, tensor.dims, tensor.data_type)
    assert [tensor.data_location for tensor in stripped.graph.initializer] == [1, 0, 1]
    assert stripped.graph.initializer[1] == model.graph.initializer[1]
    assert (stripped.graph.node, stripped.opset_import) == (model.graph.node, model.opset_import)


@pytest.mark.parametrize("make", [large, files.branch, files.reshaped, files.stale_shape, files.weights_as_inputs])
def test_shapes_are_those_of_the_whole_model(make, monkeypatch):
    monkeypatch.setattr(skeleton, "MAX_VALUES", 16)
    model = OnnxModel.parse(make().SerializeToString(), "m")
    whole = onnx.load_model_from_string(model.data)
    expected = onnx.shape_inference.infer_shapes(whole, data_prop=True).graph
    inferred = infer_known_shapes(strip_weights(whole)).graph
    for values in ("input", "output", "value_info"):
        assert sorted(map(repr, getattr(inferred, values))) == sorted(map(repr, getattr(expected, values)))
    assert [tensor.name for tensor in inferred.initializer] == [tensor.name for tensor in expected.initializer]
    assert len(convert_weights(strip_weights(whole)).graph.input) > len(whole.graph.input)


def test_values_that_decide_are_kept():
    """An Identity of equal values is a parameter, of others a shared weight; integers may be sizes."""
    nodes = [
        helper.make_node("Identity", ["even"], ["first"]),
        helper.make_node("Identity", ["uneven"], ["second"]),
        helper.make_node("Conv", ["x", "even"], ["a"]),
        helper.make_node("Conv", ["x", "first"], ["b"]),
        helper.make_node("Conv", ["x", "uneven"], ["c"]),
        helper.make_node("Conv", ["x", "second"], ["d"]),
        helper.make_node("Sum", ["a", "b", "c", "d"], ["e"]),
        helper.make_node("Gather", ["sizes", "i"], ["size"]),
        helper.make_node("Expand", ["e", "size"], ["y"]),
    ]
    weights = {
        "even": np.ones((128, 3, 1, 1), "f4"),
        "uneven": np.arange(384, dtype="f4").reshape(128, 3, 1, 1),
        "sizes": np.tile(np.int64([2, 128, 16, 24]), (100, 1)),
        "i": np.array(7),
    }
    model = OnnxModel.parse(
        files.make(nodes, outputs=[files.value("y", (2, 128, 16, 24))], weights=weights).SerializeToString(), "m"
    )
    assert model.costs.parameters == 3 * 384
    assert model.costs == count_costs(model.data)


def test_damaged_large_weight_is_reported():
    model = large()
    model.graph.initializer[2].raw_data = model.graph.initializer[2].raw_data[:-4]
    with pytest.raises(FileFormatError, match=r"invalid ONNX model: .*w2"):
        OnnxModel.parse(model.SerializeToString(), "m")


def test_shape_beside_a_large_weight_is_accepted():
    """Some exporters list the shapes of weights too."""
    model = large()
    model.graph.value_info.append(helper.make_tensor_value_info("w2", TensorProto.FLOAT, (64, 64, 1, 1)))
    assert OnnxModel.parse(model.SerializeToString(), "m").remarks == ()
