"""Meaning of values by the operators of the graph: logits, probabilities or labels, and their scale as integers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LOGITS, PROBABILITIES, LABELS = "logits", "probabilities", "labels"
OUTPUT_VALUES = (LOGITS, PROBABILITIES, LABELS)
MASK, RANKING = "mask", "ranking"
"""Further meanings that a graph shows: true or false, and values sorted along the channels."""

_NEUTRAL = {
    "Cast", "DequantizeLinear", "Flatten", "Gather", "Identity", "Reshape", "Resize", "Round", "Slice", "Squeeze",
    "Transpose", "Unsqueeze", "Upsample",
}  # fmt: skip
"""Operators that keep the meaning of their first input."""
_SHAPING = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that keep the values of their first input."""
_MEANINGS = {
    LOGITS: ("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv"),
    PROBABILITIES: ("HardSigmoid", "QLinearSigmoid", "Sigmoid"),
    LABELS: ("ArgMax", "ArgMin"),
    MASK: ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"),
}
_OPERATORS = {operator: meaning for meaning, operators in _MEANINGS.items() for operator in operators}
_OUTPUT_SCALES = {"QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearSigmoid": (3, 4)}
"""Operator that quantises its output -> positions of scale and zero point among its inputs."""


@dataclass(frozen=True)
class StoredValues:
    """Values of a tensor: `scale` * (stored value - `zero_point`).

    Attributes:
        meaning: one of `OUTPUT_VALUES`, `MASK` or `RANKING`; None where the operators do not determine it.
        scale: factor; 1 for values that are stored as they are.
        zero_point: stored value of 0.
    """

    meaning: str | None = None
    scale: float = 1.0
    zero_point: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """True if the stored values differ from the values."""
        return (self.scale, self.zero_point) != (1, 0)


def infer_values(model: ModelProto, output: str) -> StoredValues:
    """Return the meaning of an output's values.

    Args:
        model: ONNX model; large weights need no values.
        output: name of the output.
    """
    return _Graph(model).trace(output)


def infer_input_scale(model: ModelProto, name: str) -> StoredValues | None:
    """Return the quantisation of an input, if all its consumers dequantise it; None for others, e.g. plain pixels."""
    return _Graph(model).trace_input(name)


@dataclass(frozen=True)
class _Graph:
    """Graph of a model, with its constants."""

    model: ModelProto

    @cached_property
    def _producers(self) -> dict[str, NodeProto]:
        return {name: node for node in self.model.graph.node for name in node.output}

    def _constant(self, node: NodeProto, position: int) -> float | None:
        """Return an input of a node that is a constant with one value; None for others."""
        from onnx import numpy_helper

        name = node.input[position] if position < len(node.input) else ""
        tensors = [tensor for tensor in self.model.graph.initializer if tensor.name == name]
        producer = self._producers.get(name)
        if producer is not None and producer.op_type == "Constant":
            tensors = [entry.t for entry in producer.attribute if entry.name == "value"]
        if producer is not None and producer.op_type == "Cast" and not tensors:
            return self._constant(producer, 0)
        if not tensors or math.prod(tensors[0].dims) != 1:
            return None
        return float(numpy_helper.to_array(tensors[0]).reshape(-1)[0])

    def trace(self, tensor: str) -> StoredValues:
        """Return the meaning of a tensor by the nodes that produce it and its inputs."""
        node = self._producers.get(tensor)
        if node is None:
            return StoredValues()
        kind = node.op_type
        if kind == "DequantizeLinear":
            return replace(self.trace(node.input[0]), scale=1.0, zero_point=0.0)
        if kind in _NEUTRAL:
            return self.trace(node.input[0])
        if kind in ("Mul", "Div"):
            return self._trace_product(node)
        if kind == "Add":  # logits of several branches, or a bias
            meanings = {self.trace(name).meaning for name in node.input if name in self._producers}
            return StoredValues(LOGITS if meanings == {LOGITS} else None)
        if kind == "TopK":
            return StoredValues(LABELS if tensor == node.output[1] else RANKING)
        meaning = self.trace(node.input[0]).meaning if kind == "QuantizeLinear" else _OPERATORS.get(kind)
        if kind not in _OUTPUT_SCALES:
            return StoredValues(meaning)
        scale, zero_point = (self._constant(node, position) for position in _OUTPUT_SCALES[kind])
        return StoredValues(None) if scale is None else StoredValues(meaning, scale, zero_point or 0.0)

    def _trace_product(self, node: NodeProto) -> StoredValues:
        """Return the meaning of values multiplied by a constant, e.g. probabilities in 0..255."""
        constants = [self._constant(node, position) for position in (0, 1)]
        if constants[0] is not None and node.op_type == "Mul":
            constants.reverse()
            values = self.trace(node.input[1])
        else:
            values = self.trace(node.input[0])
        factor = constants[1]
        if not factor or values.meaning not in (PROBABILITIES, LABELS, MASK):
            return StoredValues()  # scaled logits are logits of another temperature
        factor = factor if node.op_type == "Mul" else 1 / factor
        return replace(values, scale=values.scale / factor, zero_point=values.zero_point * factor)

    def trace_input(self, name: str) -> StoredValues | None:
        """Return `infer_input_scale`."""
        scales: set[StoredValues | None] = set()
        for node in self.model.graph.node:
            if name not in node.input[:1]:
                continue
            if node.op_type in _SHAPING:
                scales.add(self.trace_input(node.output[0]))
            elif node.op_type in ("DequantizeLinear", "QLinearConv"):
                scale, zero_point = self._constant(node, 1), self._constant(node, 2)
                scales.add(None if scale is None else StoredValues(None, scale, zero_point or 0.0))
            else:
                scales.add(None)
        return scales.pop() if len(scales) == 1 else None
