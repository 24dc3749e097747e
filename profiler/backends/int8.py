"""Quantised ONNX models: Q/DQ nodes mark what is computed in int8, or operators compute with integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...models.onnx.counting.arithmetic import find_quantisation

DEQUANTISE = "DequantizeLinear"


def is_quantised(model: Any) -> bool:
    """Return True if an ONNX model quantises values to integers, by Q/DQ nodes or integer operators."""
    return find_quantisation({node.op_type for node in model.graph.node}) is not None


def dequantise_biases(onnx_model: bytes) -> bytes:
    """Return the model with its int32 biases, which feed a DequantizeLinear, as the float32 values they stand for.

    Some runtimes, such as TensorRT, reject int32 biases and round a float32 bias to the scale of its sums. The values
    are the same.

    Args:
        onnx_model: serialised ONNX model with its weights inside.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load_model_from_string(onnx_model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    bias_nodes = [
        node
        for node in graph.node
        if node.op_type == DEQUANTISE
        and all(name in weights for name in node.input)
        and weights[node.input[0]].data_type == TensorProto.INT32
    ]
    if not bias_nodes:
        return onnx_model
    for node in bias_nodes:
        value, scale, *zero = (numpy_helper.to_array(weights[name]) for name in node.input)
        shifted = value.astype(np.float64) - (zero[0] if zero else 0)  # unscaled int32 sums do not fit float32
        graph.initializer.append(numpy_helper.from_array((shifted * scale).astype(np.float32), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for name in {name for node in bias_nodes for name in node.input} - used:
        graph.initializer.remove(weights[name])
    return bytes(model.SerializeToString())
