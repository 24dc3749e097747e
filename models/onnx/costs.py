"""Parameters and multiply-accumulates of an ONNX graph.

Multiply-accumulates are those of convolutions and matrix multiplications for one image, as usual in the literature;
biases, normalisations, activations, pooling and resizing are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TRANSPARENT = ("Identity", "DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape")
"""Operators between a weight and the operator that uses it; they change its type or shape only."""


@dataclass(frozen=True)
class OnnxCosts:
    """Costs of a model.

    Attributes:
        parameters: Number of values in weights and biases, floating-point or quantised.
        macs: Multiply-accumulates.
        uncounted: Names of convolutions and matrix multiplications of unknown shape, whose costs are missing in `macs`;
            usually empty.
    """

    parameters: int
    macs: int
    uncounted: tuple[str, ...] = ()


def count_costs(data: bytes) -> OnnxCosts:
    """Count the costs of a serialised model with embedded weights."""
    import onnx

    model = onnx.load_model_from_string(data)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type") and all(size.HasField("dim_value") for size in sizes):
            shapes.setdefault(value.name, tuple(size.dim_value for size in sizes))
    producers = {name: node for node in inferred.node for name in node.output}
    macs, uncounted = 0, []
    for node in inferred.node:
        if node.op_type in _MACS:
            node_macs = _MACS[node.op_type](node, shapes)
            macs += node_macs or 0
            if node_macs is None:
                uncounted.append(node.name or node.op_type)
    return OnnxCosts(_parameters(inferred, producers, shapes), macs, tuple(uncounted))


def _parameters(graph: Any, producers: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the values of the constant inputs listed in `_WEIGHTS`, each tensor once."""
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            weights[node.output[0]] = math.prod(shapes[node.output[0]])
    counted: dict[str, int] = {}
    for node in graph.node:
        for name in node.input[slice(*_WEIGHTS.get(node.op_type, (0, 0)))]:
            source = _source_tensor(name, producers)
            if source in weights:
                counted[source] = weights[source]
    return sum(counted.values())


_WEIGHTS = {
    "Conv": (1, None),
    "ConvTranspose": (1, None),
    "Gemm": (0, None),
    "MatMul": (0, None),
    "BatchNormalization": (1, 3),  # scale and bias; mean and variance are statistics
    "PRelu": (1, None),
    "InstanceNormalization": (1, None),
    "LayerNormalization": (1, None),
}
"""Slice of each operator's inputs that may be weights, as (start, stop)."""


def _source_tensor(name: str, producers: Mapping[str, Any]) -> str:
    """Return the tensor that `name` is computed from by quantisation, casts and changes of shape only."""
    while name in producers and producers[name].op_type in _TRANSPARENT:
        name = producers[name].input[0]
    return name


def _conv_macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the MACs of a convolution: output values times values per filter; None if a shape is unknown."""
    weight, out = shapes.get(node.input[1]), shapes.get(node.output[0])
    return None if weight is None or out is None else math.prod(out) * math.prod(weight[1:])


def _conv_transpose_macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the MACs of a transposed convolution: input values times values per filter."""
    source, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
    return None if source is None or weight is None else math.prod(source) * math.prod(weight[1:])


def _matmul_macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the MACs of a matrix product: output values times the length of a row."""
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    if left is None or out is None:
        return None
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(out) * left[-2 if transposed else -1]


_MACS = {"Conv": _conv_macs, "ConvTranspose": _conv_transpose_macs, "Gemm": _matmul_macs, "MatMul": _matmul_macs}


def count_group_macs(nodes: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the multiply-accumulates of nodes; None if a convolution or matrix product has an unknown shape."""
    counts = [_MACS[node.op_type](node, shapes) for node in nodes if node.op_type in _MACS]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
