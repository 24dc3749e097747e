"""Parameters and multiply-accumulates of an ONNX graph.

Multiply-accumulates are those of convolutions and matrix multiplications for one image, as usual in the literature;
biases, normalisations, activations, pooling and resizing are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FileFormatError
from .graphs import HARDWARE_DOMAINS, list_subgraphs, walk_graphs
from .ort_probe import OrtProbe
from .tensors import read_inputs

Shapes = Mapping[str, tuple[int, ...]]

_TRANSPARENT = ("Identity", "DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Reshape", "Unsqueeze")
"""Operators between a weight and the operator that uses it; they change its type or shape only."""


@dataclass(frozen=True)
class OnnxCosts:
    """Costs of a model.

    Attributes:
        parameters: Number of values in weights and biases, floating-point or quantised.
        macs: Multiply-accumulates.
        uncounted: Names of operators whose costs are missing: their shapes are unknown, they are recurrent,
            or they are in a branch or loop. Usually empty.
    """

    parameters: int
    macs: int
    uncounted: tuple[str, ...] = ()


def count_costs(data: bytes) -> OnnxCosts:
    """Count the costs of a serialised model with embedded weights and static shapes."""
    import onnx

    model = onnx.load_model_from_string(data)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = read_shapes(inferred)
    unknown = [node for node in inferred.node if node.op_type in _MACS and count_node_macs(node, shapes) is None]
    if unknown:
        shapes |= _measure_shapes(model, {name for node in unknown for name in (*node.input, *node.output)})
    macs, uncounted = 0, []
    for node in inferred.node:
        if _is_uncounted(node):
            uncounted.append(node.name or node.op_type)
        elif node.op_type in _MACS:
            count = count_node_macs(node, shapes)
            macs += count or 0
            if count is None:
                uncounted.append(node.name or node.op_type)
    return OnnxCosts(_count_parameters(inferred, shapes), macs, tuple(uncounted))


def _measure_shapes(model: Any, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by a run of ONNX Runtime, whose own operators ONNX cannot infer shapes through."""
    import onnx

    inputs = read_inputs(model.graph.input, "")
    computed = {name for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names & computed - outputs)
    try:
        shapes = OrtProbe(model.SerializeToString(), "").measure_outputs(inputs)
    except FileFormatError:
        return {}
    return {name: shape for name, (shape, _) in shapes.items()}


def count_node_macs(node: Any, shapes: Shapes) -> int | None:
    """Return the multiply-accumulates of a convolution or matrix product; None of other nodes and unknown shapes."""
    count = _MACS.get(node.op_type)
    return None if count is None else count(node, shapes)


def read_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Return the known static shapes of a graph's tensors."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            shapes.setdefault(value.name, tuple(size.dim_value for size in sizes))
    return shapes


def _is_uncounted(node: Any) -> bool:
    """Return True for recurrent and attention layers, for branches and loops that hold products, and for blocked ones.

    Blocked convolutions have padded weights.
    """
    if node.domain in HARDWARE_DOMAINS:
        return node.op_type in _MACS
    inner = (each for graph in list_subgraphs(node) for nested in walk_graphs(graph) for each in nested.node)
    return node.op_type in _UNCOUNTED or any(each.op_type in (*_UNCOUNTED, *_MACS) for each in inner)


_UNCOUNTED = (
    "LSTM",
    "GRU",
    "RNN",
    "Attention",
    "MultiHeadAttention",
    "QAttention",
    "DynamicQuantizeLSTM",
    "DeformConv",
)


def _count_parameters(graph: Any, shapes: Shapes) -> int:
    """Count the values of the constant inputs listed in `_WEIGHTS` and of biases added later, each tensor once."""
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in shapes:
            weights[node.output[0]] = math.prod(shapes[node.output[0]])
    producers = {name: node for node in graph.node for name in node.output}
    counted: dict[str, int] = {}
    for node in graph.node:
        if node.domain in HARDWARE_DOMAINS:
            continue
        names = [name for place in _WEIGHTS.get(node.op_type, ()) for name in node.input[place]]
        if node.op_type == "Add" and any(_is_product(name, producers) for name in node.input):
            names += node.input
        for name in names:
            source = _source_tensor(name, producers)
            if source in weights:
                counted[source] = weights[source]
    return sum(counted.values())


_WEIGHTS = {
    "Conv": [slice(1, 3)],
    "FusedConv": [slice(1, 3)],
    "ConvTranspose": [slice(1, 3)],
    "DeformConv": [slice(1, 2), slice(3, 4)],
    "ConvInteger": [slice(1, 2)],
    "QLinearConv": [slice(3, 4), slice(8, 9)],
    "Gemm": [slice(0, 3)],
    "QGemm": [slice(0, 1), slice(3, 4), slice(6, 7)],
    "MatMul": [slice(0, 2)],
    "FusedMatMul": [slice(0, 2)],
    "MatMulInteger": [slice(0, 2)],
    "MatMulIntegerToFloat": [slice(0, 2), slice(6, 7)],
    "DynamicQuantizeMatMul": [slice(0, 2), slice(4, 5)],
    "QLinearMatMul": [slice(0, 1), slice(3, 4)],
    "Einsum": [slice(0, None)],
    "LSTM": [slice(1, 4)],
    "GRU": [slice(1, 4)],
    "RNN": [slice(1, 4)],
    "BatchNormalization": [slice(1, 3)],  # scale and bias; mean and variance are statistics
    "PRelu": [slice(1, 2)],
    "InstanceNormalization": [slice(1, 3)],
    "LayerNormalization": [slice(1, 3)],
    "GroupNormalization": [slice(1, 3)],
}
"""Operator -> inputs that may be weights."""

_BIAS_PATH = ("Cast", "Mul", "Identity")
"""Operators between an integer product and its bias: the product is scaled first."""
_BIASED = ("MatMul", "FusedMatMul", "MatMulInteger", "ConvInteger")
"""Products without an input for a bias, which an addition adds."""


def _is_product(name: str, producers: Mapping[str, Any]) -> bool:
    """Return True if a tensor is a product of `_BIASED`, perhaps scaled."""
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type in _BIASED:
        return True
    return node.op_type in _BIAS_PATH and any(_is_product(each, producers) for each in node.input)


def _source_tensor(name: str, producers: Mapping[str, Any]) -> str:
    """Return the tensor that `name` is computed from by quantisation, casts and changes of shape only."""
    while name in producers and producers[name].op_type in _TRANSPARENT:
        name = producers[name].input[0]
    return name


def _conv_macs(weight: int) -> Callable[[Any, Shapes], int | None]:
    """Return the counter of a convolution with filters as input `weight`: output values times values per filter."""

    def count(node: Any, shapes: Shapes) -> int | None:
        filters, out = shapes.get(node.input[weight]), shapes.get(node.output[0])
        return None if filters is None or out is None else math.prod(out) * math.prod(filters[1:])

    return count


def _conv_transpose_macs(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of a transposed convolution: input values times values per filter."""
    source, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
    return None if source is None or weight is None else math.prod(source) * math.prod(weight[1:])


def _matmul_macs(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of a matrix product: output values times the length of a row."""
    left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
    if left is None or out is None:
        return None
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(out) * left[-2 if transposed else -1]


def _einsum_macs(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of an Einsum of two tensors: the product of the lengths of all its indices."""
    equation = next(entry.s.decode() for entry in node.attribute if entry.name == "equation").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        shape = shapes.get(name)
        if shape is None or len(shape) != len(term):  # unknown, or an ellipsis
            return None
        lengths.update(zip(term, shape, strict=True))
    return math.prod(lengths.values()) if len(terms) == 2 else None


_MACS: dict[str, Callable[[Any, Shapes], int | None]] = {
    "Conv": _conv_macs(1),
    "FusedConv": _conv_macs(1),
    "ConvInteger": _conv_macs(1),
    "QLinearConv": _conv_macs(3),
    "ConvTranspose": _conv_transpose_macs,
    "Einsum": _einsum_macs,
    **dict.fromkeys(("Gemm", "MatMul", "FusedMatMul", "QGemm", "MatMulInteger", "QLinearMatMul"), _matmul_macs),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _matmul_macs),
}
"""Operator -> counter of its MACs."""
