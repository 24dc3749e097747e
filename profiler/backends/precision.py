"""A float32 ONNX model rewritten to compute in half precision, as strongly typed TensorRT networks want it.

TensorRT-RTX, and TensorRT from 11 on, have no precision flags: a layer computes in the type of its tensors. So the
model itself is converted: weights, constants and casts become float16 or bfloat16, while inputs and outputs stay
float32 behind one Cast each, so that a network is fed and compared alike in every precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError, UsageError
from .int8 import is_quantised

CAST_PRECISIONS = ("fp32", "fp16", "bf16", "int8")

_CONSTANTS = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""How a Constant node may hold its value -> the type, where it is not a tensor with its own."""

SIZE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Operator -> its inputs that hold sizes, not data: ONNX wants them float32, and rounding would change shapes."""


def cast_model(onnx_model: bytes, precision: str) -> bytes:
    """Return the float32 model `onnx_model` computing in `precision`; its inputs and outputs keep their types.

    One that holds weights of that type already is returned as it is, with whatever it keeps in float32.

    Args:
        onnx_model: a serialised ONNX model with its weights inside.
        precision: `fp32` (returned as it is), `fp16`, `bf16`, or `int8`: returned as it is if it is quantised (Q/DQ).

    Raises:
        UsageError: another precision, or int8 of a model that is not quantised.
        MeasurementError: no ONNX model, a weight beyond the range of float16, or a model with sub-graphs.
    """
    if precision not in CAST_PRECISIONS:
        raise UsageError(f"no precision {precision!r}; there are {', '.join(CAST_PRECISIONS)}")
    if precision == "fp32":
        return onnx_model
    import onnx

    try:
        model = onnx.load_model_from_string(onnx_model)
    except Exception as error:  # protobuf's DecodeError, which carries no type stubs
        raise MeasurementError(f"these {len(onnx_model)} bytes are no ONNX model ({error})") from error
    if precision == "int8":
        if not is_quantised(model):
            raise UsageError(
                "int8 needs a model that was quantised with calibration images: lgc-export --precision int8 --data DIR"
            )
        return onnx_model
    caster = _Caster(model.graph, precision)
    if any(tensor.data_type == caster.low for tensor in model.graph.initializer):
        return onnx_model
    caster.cast()
    return bytes(model.SerializeToString())


class _Caster:
    """Rewrites one graph in place from float32 to `precision`."""

    def __init__(self, graph: Any, precision: str) -> None:
        from onnx import TensorProto

        self.graph, self.precision, self.float = graph, precision, TensorProto.FLOAT
        self.low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
        self.names = {name for node in graph.node for name in (*node.input, *node.output)}

    def cast(self) -> None:
        """Rewrite weights, constants, inputs and outputs."""
        del self.graph.value_info[:]  # the old types; whoever reads the model infers them anew
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
        """Turn a float32 tensor into `low`; leave any other as it is."""
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
                where = f"{node.op_type} {node.name!r}"
                raise MeasurementError(
                    f"{where} holds a sub-graph, which is not converted to {self.precision}; use fp32"
                )
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.float:
                attribute.i = self.low
            elif attribute.type == AttributeProto.TENSOR and node.op_type != "Constant":
                self._lower(attribute.t)

    def _copy_sizes(self) -> list[Any]:
        """Make the constants initializers, and give each size input a float32 copy of its own: those are returned."""
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
        """Casts from the float32 inputs to what the nodes now take."""
        weights = {tensor.name for tensor in self.graph.initializer}
        names = [v.name for v in self.graph.input if self._is_float(v) and v.name not in weights]
        return [self._cast_node(name, self._rename(name, self.graph.node), self.low) for name in names]

    def _cast_outputs(self) -> list[Any]:
        """Casts from what the nodes now give to the float32 outputs."""
        made = {name for node in self.graph.node for name in node.output}
        names = [v.name for v in self.graph.output if self._is_float(v) and v.name in made]
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
        """A name near `name` that the graph does not hold yet."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def _constant(node: Any) -> Any:
    """The tensor of a Constant node, under the name of its output."""
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(node.attribute[0])
    if node.attribute[0].name == "value":
        value.name = node.output[0]
        return value
    return numpy_helper.from_array(np.asarray(value, _CONSTANTS[node.attribute[0].name]), node.output[0])


def _to_float16(values: NDArray[np.float32], name: str) -> NDArray[np.uint16]:
    """The bits of `values` rounded to float16."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.any(np.isinf(half) & np.isfinite(values)):
        peak = float(np.max(np.abs(values[np.isfinite(values)])))
        raise MeasurementError(f"weight {name!r} reaches {peak:.3g}, beyond float16's 65504; use bf16 or fp32")
    return half.view(np.uint16)


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of `values` rounded to bfloat16: the upper half of a float32, to the nearest and then the even one."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
