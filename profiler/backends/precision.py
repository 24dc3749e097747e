"""Conversion of a float32 ONNX model to half precision, for runtimes that compute in the types of the tensors.

Weights, constants and casts become float16 or bfloat16. Inputs and outputs stay float32 behind one Cast each, so that a
network is fed and compared in the same way in every precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError, UsageError
from ...models.onnx.counting.arithmetic import find_arithmetic
from ...models.onnx.graphs import RawModel
from ...models.onnx.skeleton import infer_known_shapes, strip_weights
from ...precisions import EXPORT_PRECISIONS
from .int8 import is_quantised

_CONSTANTS = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""Attribute that holds the value of a Constant node -> type of the value; None for a tensor, which has its own."""

SIZE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Operator -> inputs that hold sizes, not data: ONNX requires float32 for them, and rounding would change shapes."""


def cast_model(onnx_model: bytes, precision: str) -> bytes:
    """Return the float32 model `onnx_model` converted to `precision`; its inputs and outputs keep their types.

    A model that already computes mostly in that type is returned unchanged, with its float32 parts.

    Args:
        onnx_model: serialised ONNX model with its weights inside.
        precision: `fp16` or `bf16`; or `fp32`, or `int8` of a quantised model (Q/DQ), which return the model unchanged.

    Raises:
        UsageError: unknown precision, or int8 of a model that is not quantised.
        MeasurementError: invalid ONNX model, a weight beyond the range of float16, or a model with sub-graphs.
    """
    if precision not in EXPORT_PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose from {', '.join(EXPORT_PRECISIONS)}")
    if precision == "fp32":
        return onnx_model
    import onnx

    try:
        model = onnx.load_model_from_string(onnx_model)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's DecodeError, which carries no type stubs
        raise MeasurementError(f"invalid ONNX model of {len(onnx_model)} bytes ({error})") from error
    if precision == "int8":
        if not is_quantised(model):
            raise UsageError(
                "int8 needs a model quantised with calibration images: run `lgc-export --precision int8 --data DIR`"
            )
        return onnx_model
    caster = _Caster(model.graph, precision)
    if any(tensor.data_type == caster.low for tensor in model.graph.initializer):  # perhaps for storage only
        inferred = infer_known_shapes(strip_weights(model))
        if find_arithmetic(RawModel(model, "the model"), inferred)[0] == precision:
            return onnx_model
    caster.cast()
    return bytes(model.SerializeToString())


class _Caster:
    """Converter of one graph in place, from float32 to `precision`."""

    def __init__(self, graph: Any, precision: str) -> None:
        from onnx import TensorProto

        self.graph, self.precision, self.float = graph, precision, TensorProto.FLOAT
        self.low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
        self.names = {name for node in graph.node for name in (*node.input, *node.output)}

    def cast(self) -> None:
        """Rewrite weights, constants, inputs and outputs."""
        del self.graph.value_info[:]  # the old types; readers of the model infer them again
        for node in self.graph.node:
            self._lower_attributes(node)
        sizes = self._copy_sizes()
        for tensor in self.graph.initializer:
            self._lower(tensor)
        self.graph.initializer.extend(sizes)
        nodes = [*self._cast_inputs(), *self.graph.node, *self._cast_outputs()]
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _lower(self, tensor: Any) -> None:
        """Convert a float32 tensor to `low`; leave others unchanged."""
        from onnx import numpy_helper

        if tensor.data_type != self.float:
            return
        values = numpy_helper.to_array(tensor)
        bits = _to_float16(values, tensor.name) if self.precision == "fp16" else _to_bfloat16(values)
        tensor.ClearField("float_data")
        tensor.data_type, tensor.raw_data = self.low, bits.astype("<u2").tobytes()

    def _lower_attributes(self, node: Any) -> None:
        from onnx import AttributeProto

        for attribute in node.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                node_name = f"{node.op_type} {node.name!r}"
                raise MeasurementError(
                    f"{node_name} holds a sub-graph, which cannot be converted to {self.precision}; use fp32"
                )
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.float:
                attribute.i = self.low
            elif attribute.type == AttributeProto.TENSOR and node.op_type != "Constant":
                self._lower(attribute.t)

    def _copy_sizes(self) -> list[Any]:
        """Turn constants into initializers; give each size input a float32 copy of its own and return the copies."""
        from onnx import TensorProto

        for node in [n for n in self.graph.node if n.op_type == "Constant" and n.attribute[0].name in _CONSTANTS]:
            self.graph.initializer.append(_constant(node))
            self.graph.node.remove(node)
        tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        copies = []
        for node in self.graph.node:
            for index in SIZE_INPUTS.get(node.op_type, ()):
                if index < len(node.input) and node.input[index] in tensors:
                    copy = TensorProto()
                    copy.CopyFrom(tensors[node.input[index]])
                    copy.name = node.input[index] = self._fresh(f"{copy.name}_size")
                    copies.append(copy)
        return copies

    def _cast_inputs(self) -> list[Any]:
        """Return casts from the float32 inputs to the converted nodes."""
        weights = {tensor.name for tensor in self.graph.initializer}
        names = [v.name for v in self.graph.input if self._is_float(v) and v.name not in weights]
        return [self._cast_node(name, self._rename(name, self.graph.node), self.low) for name in names]

    def _cast_outputs(self) -> list[Any]:
        """Return casts from the converted nodes to the float32 outputs."""
        computed = {name for node in self.graph.node for name in node.output}
        names = [v.name for v in self.graph.output if self._is_float(v) and v.name in computed]
        return [self._cast_node(self._rename(name, self.graph.node), name, self.float) for name in names]

    def _is_float(self, value: Any) -> bool:
        return bool(value.type.tensor_type.elem_type == self.float)

    def _rename(self, name: str, nodes: Any) -> str:
        """Rename `name` wherever a node reads or writes it, and return the new name."""
        new = self._fresh(f"{name}_{self.precision}")
        for node in nodes:
            for side in (node.input, node.output):
                side[:] = [new if entry == name else entry for entry in side]
        return new

    def _cast_node(self, source: str, result: str, to: int) -> Any:
        from onnx import helper

        return helper.make_node("Cast", [source], [result], name=self._fresh(f"cast_{result}"), to=to)

    def _fresh(self, name: str) -> str:
        """Return a name derived from `name` that is new to the graph."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def _constant(node: Any) -> Any:
    """Return the tensor of a Constant node, named as the node's output."""
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(node.attribute[0])
    if node.attribute[0].name == "value":
        value.name = node.output[0]
        return value
    return numpy_helper.from_array(np.asarray(value, _CONSTANTS[node.attribute[0].name]), node.output[0])


def _to_float16(values: NDArray[np.float32], name: str) -> NDArray[np.uint16]:
    """Return the bits of `values` rounded to float16."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.any(np.isinf(half) & np.isfinite(values)):
        peak = float(np.max(np.abs(values[np.isfinite(values)])))
        raise MeasurementError(f"weight {name!r} reaches {peak:.3g}, beyond float16's 65504; use bf16 or fp32")
    return half.view(np.uint16)


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of `values` rounded to bfloat16: the upper half of a float32, to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
