"""Multiply-accumulates of single ONNX nodes, ONNX Runtime's own operators included."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..graphs import HARDWARE_DOMAINS, STANDARD_DOMAINS, list_subgraphs

Shapes = Mapping[str, tuple[int, ...]]
_Counter = Callable[[Any, Shapes], int | None]

_ORT = "com.microsoft"


def count_node_macs(node: Any, shapes: Shapes) -> int | None:
    """Return the multiply-accumulates of a node: 0 of an operator without products, None where they are unknown.

    Unknown are products of unknown shapes, branches and loops with products, operators of other domains that are not
    listed here, and the operators of `HARDWARE_DOMAINS`, whose weights are padded.
    """
    if is_product(node):
        return _MACS[node.op_type](node, shapes)
    inner = (each for graph in list_subgraphs(node) for each in graph.node)
    return None if _is_unknown(node) or any(count_node_macs(each, {}) != 0 for each in inner) else 0


def count_operator_macs(operator: str) -> int | None:
    """Return 0 for an operator of ONNX or ONNX Runtime that never multiplies; None for others."""
    from onnx import defs, helper

    attributes = defs.get_schema(operator).attributes.values() if defs.has(operator) else ()
    if operator in _MACS or any(entry.type == defs.OpSchema.AttrType.GRAPH for entry in attributes):
        return None
    return None if _is_unknown(helper.make_node(operator, [], [], domain="" if defs.has(operator) else _ORT)) else 0


def count_group_macs(nodes: Iterable[Any], shapes: Shapes) -> int | None:
    """Return the multiply-accumulates of several nodes; None if those of one are unknown."""
    total = 0
    for node in nodes:
        count = count_node_macs(node, shapes)
        if count is None:
            return None
        total += count
    return total


def is_product(node: Any) -> bool:
    """Return True for an operator that multiplies matrices or convolves, and that can be counted."""
    return node.op_type in _MACS and node.domain in (*STANDARD_DOMAINS, _ORT)


def _is_unknown(node: Any) -> bool:
    """Return True for an operator that may multiply in a way that is not known."""
    if node.domain in STANDARD_DOMAINS:
        return node.op_type in _UNCOUNTED
    if node.domain in HARDWARE_DOMAINS:
        return node.op_type in _MACS
    return node.domain != _ORT or not (node.op_type in _WITHOUT_MACS or node.op_type.startswith("QLinear"))


def get_shape(node: Any, index: int, shapes: Shapes) -> tuple[int, ...] | None:
    """Return the shape of an input; None where it is unknown or the input is left out."""
    return shapes.get(node.input[index]) if index < len(node.input) and node.input[index] else None


def get_attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of an attribute."""
    from onnx import helper

    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def _conv(weight: int) -> _Counter:
    """Return the counter of a convolution with filters as input `weight`: output values times values per filter."""

    def count(node: Any, shapes: Shapes) -> int | None:
        filters, out = get_shape(node, weight, shapes), shapes.get(node.output[0])
        return None if filters is None or out is None else math.prod(out) * math.prod(filters[1:])

    return count


def _conv_transpose(weight: int) -> _Counter:
    """Return the counter of a transposed convolution: input values times values per filter."""

    def count(node: Any, shapes: Shapes) -> int | None:
        source, filters = get_shape(node, 0, shapes), get_shape(node, weight, shapes)
        return None if source is None or filters is None else math.prod(source) * math.prod(filters[1:])

    return count


def _matmul(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of a matrix product: output values times the length of a row."""
    left, out = get_shape(node, 0, shapes), shapes.get(node.output[0])
    if left is None or out is None:
        return None
    transposed = 0 if get_attribute(node, "transBatchA") else -2
    return math.prod(out) * left[transposed if get_attribute(node, "transA") else -1]


def _einsum(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of an Einsum of two tensors: the product of the lengths of all its indices.

    One tensor is only summed or transposed, without products. Those of three depend on their order, which is unknown.
    """
    terms = get_attribute(node, "equation").decode().replace(" ", "").partition("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        shape = shapes.get(name)
        if shape is None:
            return None
        for index, length in zip(_list_indices(term, len(shape)), shape, strict=False):
            lengths[index] = max(length, lengths.get(index, 1))  # an axis of length 1 is repeated
    return {1: 0, 2: math.prod(lengths.values())}.get(len(terms))


def _list_indices(term: str, rank: int) -> Iterator[str]:
    """Yield the index of each axis; those of an ellipsis are numbered from its end, where they are aligned."""
    for part in re.findall(r"\.\.\.|\w", term):
        hidden = rank - len(term) + len("...")
        yield from (part,) if part != "..." else (f"...{number}" for number in range(hidden, 0, -1))


def _recurrent(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of LSTM, GRU or RNN: each step of each sequence multiplies by all weights once."""
    steps, *weights = (get_shape(node, index, shapes) for index in range(3))
    if steps is None or None in weights:
        return None
    return math.prod(steps[:2]) * sum(math.prod(weight or ()) for weight in weights)


def _attention(past: int) -> _Counter:
    """Return the counter of attention of queries, keys and values, without earlier keys, which are input `past`.

    Each of the Lq queries is multiplied by Lk keys, and each of the Lk weights by a value: Lk * (values of the queries
    + values of the output). Masks are counted as computed.
    """

    def count(node: Any, shapes: Shapes) -> int | None:
        query, out = get_shape(node, 0, shapes), shapes.get(node.output[0])
        if query is None or out is None or (past < len(node.input) and node.input[past]):
            return None
        if len(node.input) < 2 or not node.input[1]:  # keys and values are in the first input: [N, L, ...]
            return query[1] * 2 * math.prod(out)
        keys = get_shape(node, 1, shapes)
        if keys is None:
            return None
        length = keys[1] if len(keys) == 5 else keys[-2]  # [N, L, heads, 2, size], else [..., L, size]
        return length * (math.prod(query) + math.prod(out))

    return count


def _projected_attention(past: int) -> _Counter:
    """Return the counter of attention after a product of the input [N, L, D] with weights [D, queries+keys+values]."""

    def count(node: Any, shapes: Shapes) -> int | None:
        source, weight, out = get_shape(node, 0, shapes), get_shape(node, 1, shapes), shapes.get(node.output[0])
        if source is None or weight is None or out is None or (past < len(node.input) and node.input[past]):
            return None
        tokens, queries = math.prod(source[:2]), (weight[1] - out[-1]) // 2
        return tokens * (math.prod(weight) + source[1] * (queries + out[-1]))

    return count


def _any_attention(node: Any, shapes: Shapes) -> int | None:
    """Return the MACs of ONNX's Attention of queries, keys and values, or of ONNX Runtime's, which projects them."""
    return (_projected_attention if node.domain == _ORT else _attention)(4)(node, shapes)


_MACS: dict[str, _Counter] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvInteger", "DeformConv"), _conv(1)),
    "QLinearConv": _conv(3),
    **dict.fromkeys(("ConvTranspose", "ConvTransposeWithDynamicPads"), _conv_transpose(1)),
    "QLinearConvTranspose": _conv_transpose(3),
    "Einsum": _einsum,
    **dict.fromkeys(("Gemm", "FusedGemm", "GemmFastGelu", "GemmFloat8", "QGemm"), _matmul),
    **dict.fromkeys(("MatMul", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul"), _matmul),
    **dict.fromkeys(("MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "QLinearMatMul"), _matmul),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4"), _matmul),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    "Attention": _any_attention,
    "QAttention": _projected_attention(8),
    "MultiHeadAttention": _attention(6),
    "GroupQueryAttention": _attention(3),
}
"""Operator -> counter of its MACs."""
PRODUCTS = frozenset(_MACS)
"""Operators that multiply matrices or convolve."""

_UNCOUNTED = (
    *("LinearAttention", "CausalConvWithState"),
    *("LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor"),
)
"""ONNX's own operators with products that are not counted."""

_WITHOUT_MACS = (
    *("BiasAdd", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "FastGelu", "Gelu", "QuickGelu", "ScaledSiLU"),
    *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization"),
    *("GroupNorm", "SkipGroupNorm", "RotaryEmbedding", "QuantizeLinear", "DequantizeLinear"),
    *("NhwcMaxPool", "MaxpoolWithMask", "Pad", "GatherND", "GridSample", "CropAndResize", "UnfoldTensor"),
    *("ExpandDims", "Range", "Trilu", "Unique", "ReduceSumInteger", "MulInteger", "ComplexMul", "ComplexMulConj"),
)
"""ONNX Runtime's operators without products, besides `QLinear...`: only those with a counter multiply."""
