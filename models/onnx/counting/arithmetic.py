"""Number formats that an ONNX graph computes in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ....errors import FileFormatError
from ....precisions import INT8
from ..graphs import RawModel, walk_nodes, walk_tensors
from .costs import PACKED, TRANSPARENT, measure_tensors, read_known_shapes
from .macs import count_node_macs, is_product

QDQ, QOPERATOR, DYNAMIC = "QDQ", "QOperator", "dynamic"
"""Kinds of quantisation: Q/DQ nodes around float operators, integer operators, ranges computed for each image."""

_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_INTEGER = (*_DYNAMIC, "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QAttention")
_STEPWISE = (*TRANSPARENT, "MaxPool", "Relu", "Slice", "Split", "Concat")
"""Operators whose result has the quantisation steps of their input: a runtime computes them in int8 too."""
MIN_FLOAT_SHARE = 0.005
"""Share of multiply-accumulates in float that is reported for an int8 model."""
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "float64"}


def find_arithmetic(raw: RawModel, inferred: Any) -> tuple[str, str | None]:
    """Return the precision of a model and its kind of quantisation.

    The precision is that of most multiply-accumulates, by the types of the tensors that they read, not of the stored
    weights, which may be cast first. Products are int8 if they are integer operators, or if all their factors are
    quantised, weights and activations; without products, a model that quantises values is int8.

    Args:
        raw: Model; receives remarks on mixed precision.
        inferred: The same model with the types of all tensors.

    Returns:
        `fp32`, `fp16`, `bf16` or `int8`; `QDQ`, `QOperator`, `dynamic` or None.

    Raises:
        FileFormatError: The model computes in float64 or float8, which the backends do not.
    """
    quantisation = find_quantisation(Counter(node.op_type for node in walk_nodes(raw.model)))
    types = _read_types(inferred.graph)
    if quantisation:
        _require_int8(raw, types)
    macs = _count_by_precision(raw.model, inferred.graph, types)
    if not macs and quantisation:
        return INT8, quantisation
    used = dict((macs or _count_weights(raw.model)).most_common())
    precision, total = next(iter(used), "fp32"), sum(used.values())
    if precision == "float64":
        raise FileFormatError(f"{raw.where} computes in float64, which no backend does: convert it to float32")
    if precision == INT8:
        share = 1 - used[INT8] / total
        if share >= MIN_FLOAT_SHARE:
            raw.remarks.append(f"{100 * share:.0f} % of the multiply-accumulates are not quantised")
        return INT8, quantisation or QDQ
    if len(used) > 1:
        shares = ", ".join(f"{100 * count / total:.0f} % in {name}" for name, count in used.items())
        raw.remarks.append(f"mixed precision, multiply-accumulates {shares}: called {precision}")
    elif quantisation:
        raw.remarks.append(f"quantises values, but computes all products in {precision}")
    elif _stores_quantised_weights(inferred.graph):
        raw.remarks.append(f"only weights are quantised, for storage: it computes in {precision}")
    return precision, quantisation


def _count_by_precision(model: Any, graph: Any, types: Mapping[str, str]) -> Counter[str]:
    """Return precision -> multiply-accumulates, by the factors of the products."""
    producers = {name: node for node in graph.node for name in node.output}
    products = []
    for node in graph.node:
        if is_product(node):
            kinds = [_FLOATS[types[name]] for name in node.input if types.get(name) in _FLOATS]
            is_int8 = _is_integer(node.op_type) or has_quantised_factors(node, producers)
            products += [(node, kind) for kind in (INT8 if is_int8 else "", *kinds) if kind][:1]
    shapes = {name: shape for name, (shape, _) in read_known_shapes(graph).items()}
    counts = [count_node_macs(node, shapes) for node, _ in products]
    if None in counts and len({kind for _, kind in products}) > 1:  # their shares need the unknown shapes
        unknown = {name for node in graph.node for name in node.output if name} - shapes.keys()
        shapes |= {name: shape for name, (shape, _) in measure_tensors(model, unknown).items()}
        counts = [count_node_macs(node, shapes) for node, _ in products]
    macs: Counter[str] = Counter()
    for (_, kind), count in zip(products, counts, strict=True):
        macs[kind] += count or 1
    return macs


def _is_integer(operator: str) -> bool:
    return operator in _INTEGER or operator.startswith("QLinear")


def has_quantised_factors(node: Any, producers: Mapping[str, Any]) -> bool:
    """Return True if all factors of a product come from DequantizeLinear: activations and weights."""
    factors = node.input if node.op_type == "Einsum" else node.input[:2]

    def is_quantised(name: str) -> bool:
        made = producers.get(name)
        if made is None or made.op_type == "DequantizeLinear":
            return made is not None
        return made.op_type in _STEPWISE and all(
            map(is_quantised, made.input if made.op_type == "Concat" else made.input[:1])
        )

    return all(map(is_quantised, factors))


def _stores_quantised_weights(graph: Any) -> bool:
    """Return True if a constant is dequantised, by a node or inside a product."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return any(
        node.op_type in PACKED or (node.op_type == "DequantizeLinear" and node.input[0] in constants)
        for node in graph.node
    )


def _count_weights(model: Any) -> Counter[str]:
    """Return float type -> number of weights, of sub-graphs too, for a graph without multiply-accumulates."""
    from onnx import TensorProto

    weights: Counter[str] = Counter()
    for tensor in walk_tensors(model):
        kind = _FLOATS.get(TensorProto.DataType.Name(tensor.data_type))
        weights.update({kind: math.prod(tensor.dims)} if kind else {})
    return weights


def find_quantisation(operators: Collection[str]) -> str | None:
    """Return the kind of quantisation from the names of all operators."""
    if any(name in operators for name in _DYNAMIC):
        return DYNAMIC
    if any(map(_is_integer, operators)):
        return QOPERATOR
    return QDQ if "QuantizeLinear" in operators else None


def _require_int8(raw: RawModel, types: Mapping[str, str]) -> None:
    """Refuse quantisation to float8; remark other widths than 8 bits."""
    quantised = {types.get(n.output[0], "INT8") for n in walk_nodes(raw.model) if n.op_type == "QuantizeLinear"}
    if low := sorted(name for name in quantised if name.startswith("FLOAT8")):
        raise FileFormatError(f"{raw.where} is quantised to {low[0].lower()}, which no backend supports: use int8")
    if other := sorted(name.lower() for name in quantised - {"INT8", "UINT8"}):
        raw.remarks.append(f"quantised to {', '.join(other)}, which counts as int8")


def _read_types(graph: Any) -> dict[str, str]:
    """Return tensor -> name of its element type."""
    from onnx import TensorProto

    name = TensorProto.DataType.Name
    types = {value.name: name(value.type.tensor_type.elem_type) for value in _values(graph)}
    return types | {tensor.name: name(tensor.data_type) for tensor in graph.initializer}


def _values(graph: Any) -> tuple[Any, ...]:
    return (*graph.input, *graph.value_info, *graph.output)
