"""Buffers and errors of an ONNX Runtime runner on the CPU."""

import numpy as np
import onnx
import pytest
from torch import nn

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.base import measure_layers
from lgc.profiler.backends.error_translation import OutOfMemoryError

WORKLOAD = Workload("net", ((1, 4, 8, 8),), lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))


LARGE = 2**20


def expanding():
    """Return a model that expands its input to a tensor of 4 TiB."""
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1]), ("y", []))
    )
    nodes = [
        onnx.helper.make_node("Expand", ["x", "shape"], ["large"], "/large/Expand"),
        onnx.helper.make_node("ReduceSum", ["large"], ["y"], "sum", keepdims=0),
    ]
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [LARGE, LARGE])
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], [shape])
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_buffers_are_fixed_and_outputs_copied():
    runner = get_backend("onnxruntime").compile(WORKLOAD, Target("cpu", "onnxruntime"))
    places = [value.data_ptr() for value in (*runner._inputs, *runner._outputs)]
    (first,) = runner.infer([np.ones((1, 4, 8, 8), np.float32)])
    copy = first.copy()
    runner.infer([np.full((1, 4, 8, 8), -3, np.float32)])
    assert np.array_equal(first, copy)
    assert [value.data_ptr() for value in (*runner._inputs, *runner._outputs)] == places
    runner.prepare()
    assert runner._inputs[0].numpy().std() > 0.1


def test_out_of_memory_during_run():
    workload = Workload("large", ((1,),), None, file=expanding())
    runner = get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
    for work in (runner.prepare, lambda: runner.run(1), lambda: runner.infer(workload.inputs())):
        with pytest.raises(OutOfMemoryError, match=r"^not enough memory: ONNX Runtime: .*/large/Expand") as caught:
            work()
        assert "\n" not in str(caught.value)


def test_out_of_memory_for_output(monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr("onnxruntime.OrtValue.ortvalue_from_shape_and_type", full)
    with pytest.raises(OutOfMemoryError, match=r"^not enough memory: ONNX Runtime: CUDA failure 2: out of memory"):
        get_backend("onnxruntime").compile(WORKLOAD, Target("cpu", "onnxruntime"))


def test_wrong_input_size_is_an_error():
    runner = get_backend("onnxruntime").compile(WORKLOAD, Target("cpu", "onnxruntime"))
    with pytest.raises(MeasurementError, match=r"^ONNX Runtime: The input size of numpy arrays does not match"):
        runner.infer([np.zeros((1, 4, 8, 9), np.float32)])


def test_failing_layer_measurement_is_an_error():
    workload = Workload("large", ((1,),), None, file=expanding())
    runner = get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
    with pytest.raises(OutOfMemoryError, match=r"^not enough memory: ONNX Runtime: "):
        measure_layers(runner, 1)
