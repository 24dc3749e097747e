"""Parameters and multiply-accumulates of graphs that other programs write."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from lgc.models.onnx.model import OnnxModel

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
    assert count(files.loop(), tmp_path).uncounted == ("repeat",)
    weights = {"W": np.ones((1, 16, 3), "f4"), "R": np.ones((1, 16, 4), "f4")}
    nodes = [helper.make_node("LSTM", ["x", *weights], ["y"], hidden_size=4)]
    model = files.make(nodes, [files.value("x", (5, 1, 3))], [files.value("y", (5, 1, 1, 4))], weights)
    costs = count(model, tmp_path)
    assert (costs.uncounted, costs.parameters) == (("LSTM",), 16 * 7)
