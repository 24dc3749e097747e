"""One output is cut out of a graph, with what it is computed from."""

import pytest
from onnx import helper

from lgc.errors import UnknownNameError
from lgc.models.onnx.model import OnnxModel

from .... import onnx_files as files


@pytest.fixture
def path(tmp_path):
    return files.save(files.two_outputs(), tmp_path / "m.onnx")


def test_cut_model_computes_one_output(path):
    model = OnnxModel.load(path, output="main")
    assert model.output.name == "main"
    assert model.remarks == ("computes main only, not all 2 outputs",)
    assert model.costs.macs < OnnxModel.load(path).costs.macs


def test_inner_tensor_can_be_chosen(path):
    model = OnnxModel.load(path, output="r")
    assert (model.output.shape, model.operators) == ((1, 8, 8, 12), ("Conv", "Relu"))


def test_unknown_output_lists_the_outputs(path):
    with pytest.raises(UnknownNameError, match=r"'mian' \(did you mean 'main'\?\); known: aux, main"):
        OnnxModel.load(path, output="mian")


def test_unused_inputs_are_removed(path):
    model = files.two_outputs()
    model.graph.input.append(files.value("scale", (1,)))
    model.graph.node[3].input[0] = "rs"
    model.graph.node.insert(3, helper.make_node("Mul", ["r", "scale"], ["rs"]))
    files.save(model, path)
    assert [tensor.name for tensor in OnnxModel.load(path, output="main").inputs] == ["x"]
    assert [tensor.name for tensor in OnnxModel.load(path, output="aux").inputs] == ["x", "scale"]


def test_unsorted_graph_is_cut(path):
    model = files.two_outputs()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    files.save(model, path)
    assert sorted(OnnxModel.load(path, output="main").operators) == ["Conv", "Relu"]


def test_output_without_type_is_inferred(path):
    model = files.two_outputs()
    model.graph.output[1].ClearField("type")
    assert OnnxModel.load(files.save(model, path)).outputs[1].shape == (1, 4, 8, 12)
