"""Quantised ONNX models as TensorRT wants them: everything that Q/DQ nodes surround in int8, but biases in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


def is_quantised(model: Any) -> bool:
    """Whether an ONNX model holds both kinds of nodes that bring values into int8 and back."""
    return {QUANTISE, DEQUANTISE} <= {node.op_type for node in model.graph.node}


def dequantise_biases(onnx_model: bytes) -> bytes:
    """The model with each bias that is stored in int32, behind a DequantizeLinear, as the float32 that it stands for.

    ONNX Runtime stores biases so, and needs it to compute in int8; TensorRT's parser refuses int32 there, and rounds a
    bias to the scale of its sums by itself. The values are the same.

    Args:
        onnx_model: a serialised ONNX model with its weights inside.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load_model_from_string(onnx_model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found = [
        node
        for node in graph.node
        if node.op_type == DEQUANTISE
        and all(name in weights for name in node.input)
        and weights[node.input[0]].data_type == TensorProto.INT32
    ]
    if not found:
        return onnx_model
    for node in found:
        value, scale, *zero = (numpy_helper.to_array(weights[name]) for name in node.input)
        shifted = value.astype(np.float64) - (zero[0] if zero else 0)  # int32 sums do not fit float32 before scaling
        graph.initializer.append(numpy_helper.from_array((shifted * scale).astype(np.float32), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for name in {name for node in found for name in node.input} - used:
        graph.initializer.remove(weights[name])
    return bytes(model.SerializeToString())
