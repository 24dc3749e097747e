"""Number formats that an ONNX graph computes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ...errors import FileFormatError
from .costs import count_node_macs, read_shapes
from .graphs import RawModel, walk_nodes

QDQ, QOPERATOR, DYNAMIC = "QDQ", "QOperator", "dynamic"
"""Kinds of quantisation: Q/DQ nodes around float operators, integer operators, ranges computed for each image."""

_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_INTEGER = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QAttention")
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "float64"}


def find_arithmetic(raw: RawModel, inferred: Any) -> tuple[str, str | None]:
    """Return the precision of a model and its kind of quantisation.

    The precision is that of most multiply-accumulates, by the types of the tensors that they read, not of the stored
    weights, which may be cast first. Models with quantised operators are int8.

    Args:
        raw: Model; receives remarks on mixed precision.
        inferred: The same model with the types of all tensors.

    Returns:
        `fp32`, `fp16`, `bf16` or `int8`; `QDQ`, `QOperator`, `dynamic` or None.

    Raises:
        FileFormatError: The model computes in float64 or float8, which the backends do not.
    """
    operators = Counter(node.op_type for node in walk_nodes(raw.model))
    types = _read_types(inferred.graph)
    if quantisation := find_quantisation(operators):
        _require_int8(raw, types)
        return "int8", quantisation
    macs: Counter[str] = Counter()
    shapes = read_shapes(inferred.graph)
    for node in inferred.graph.node:
        count = count_node_macs(node, shapes)
        if count is not None or node.op_type in ("If", "Loop", "Scan"):
            macs[_FLOATS.get(types.get(node.input[0], ""), "fp32")] += count or 0
    used = dict(macs.most_common())
    if not used:  # no multiply-accumulates
        kinds = [types[tensor.name] for tensor in (*inferred.graph.input, *inferred.graph.initializer)]
        used = dict.fromkeys([_FLOATS[kind] for kind in kinds if kind in _FLOATS], 0)
    precision = next(iter(used), "fp32")
    if precision == "float64":
        raise FileFormatError(f"{raw.where} computes in float64, which no backend does: convert it to float32")
    if len(used) > 1 and (total := sum(used.values())):
        shares = ", ".join(f"{100 * count / total:.0f} % in {name}" for name, count in used.items())
        raw.remarks.append(f"mixed precision, multiply-accumulates {shares}: called {precision}")
    if "DequantizeLinear" in operators:
        raw.remarks.append(f"only weights are quantised, for storage: it computes in {precision}")
    return precision, None


def find_quantisation(operators: Collection[str]) -> str | None:
    """Return the kind of quantisation from the names of all operators."""
    if any(name in operators for name in _DYNAMIC):
        return DYNAMIC
    if any(name in operators for name in _INTEGER) or any(name.startswith("QLinear") for name in operators):
        return QOPERATOR
    return QDQ if "QuantizeLinear" in operators else None


def _require_int8(raw: RawModel, types: Mapping[str, str]) -> None:
    """Refuse quantisation to float8; remark other widths than 8 bits."""
    quantised = {types.get(n.output[0], "INT8") for n in walk_nodes(raw.model) if n.op_type == "QuantizeLinear"}
    if low := sorted(name for name in quantised if name.startswith("FLOAT8")):
        raise FileFormatError(f"{raw.where} is quantised to {low[0].lower()}, which no backend supports: use int8")
    if other := sorted(name.lower() for name in quantised - {"INT8", "UINT8"}):
        raw.remarks.append(f"quantised to {', '.join(other)}: called int8")


def _read_types(graph: Any) -> dict[str, str]:
    """Return tensor -> name of its element type."""
    from onnx import TensorProto

    name = TensorProto.DataType.Name
    types = {value.name: name(value.type.tensor_type.elem_type) for value in _values(graph)}
    return types | {tensor.name: name(tensor.data_type) for tensor in graph.initializer}


def _values(graph: Any) -> tuple[Any, ...]:
    return (*graph.input, *graph.value_info, *graph.output)
