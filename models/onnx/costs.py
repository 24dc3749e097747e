"""Parameters and multiply-accumulates of an ONNX graph, as it is deployed: batch normalisation folded where it was.

Counted are the products of convolutions and of matrix multiplications, on one image, as the field does; additions of
biases, normalisations, activations, pooling and resizing are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PASS_ON = ("Identity", "DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape")
"""Operators behind which a weight may lie."""


@dataclass(frozen=True)
class OnnxCosts:
    """Costs of a model.

    Attributes:
        parameters: numbers in its floating-point (or quantised) weights and biases; constants of shapes are not.
        macs: multiply-accumulates.
        uncounted: operators that multiply matrices and of which the shapes are not known; empty as a rule.
    """

    parameters: int
    macs: int
    uncounted: tuple[str, ...] = ()


def count_costs(data: bytes) -> OnnxCosts:
    """Count in a serialised model with its weights inside."""
    import onnx

    model = onnx.load_model_from_string(data)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type") and all(size.HasField("dim_value") for size in sizes):
            shapes.setdefault(value.name, tuple(size.dim_value for size in sizes))
    made_by = {name: node for node in inferred.node for name in node.output}
    macs, uncounted = 0, []
    for node in inferred.node:
        if node.op_type in _MACS:
            found = _MACS[node.op_type](node, shapes)
            macs += found or 0
            if found is None:
                uncounted.append(node.name or node.op_type)
    return OnnxCosts(_parameters(inferred, made_by, shapes), macs, tuple(uncounted))


def _parameters(graph: Any, made_by: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers in what convolutions, matrix products, normalisations and elementwise operators take as weights."""
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            weights[node.output[0]] = math.prod(shapes[node.output[0]])
    counted: dict[str, int] = {}
    for node in graph.node:
        for name in node.input[slice(*_WEIGHTS.get(node.op_type, (0, 0)))]:
            source = _behind(name, made_by)
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
"""Operator -> which of its inputs may be weights."""


def _behind(name: str, made_by: Mapping[str, Any]) -> str:
    """The tensor that `name` is made of, past quantisation and changes of shape."""
    while name in made_by and made_by[name].op_type in _PASS_ON:
        name = made_by[name].input[0]
    return name


def _convolution(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Every output value takes a product for each value of a filter."""
    weight, out = shapes.get(node.input[1]), shapes.get(node.output[0])
    return None if weight is None or out is None else math.prod(out) * math.prod(weight[1:])


def _transposed(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Every input value is multiplied with each value of its filters."""
    given, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
    return None if given is None or weight is None else math.prod(given) * math.prod(weight[1:])


def _product(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Every output value takes a product for each value of a row."""
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    if left is None or out is None:
        return None
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(out) * _row(left, transposed)


def _row(left: Sequence[int], transposed: bool) -> int:
    return left[-2] if transposed else left[-1]


_MACS = {"Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _product, "MatMul": _product}
