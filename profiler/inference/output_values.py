"""Meaning of values by the operators of the graph: logits, probabilities or labels, and their scale as integers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...models.onnx.counting.macs import get_attribute
from ...models.onnx.graphs import ORT_DOMAINS, list_subgraphs
from ...models.onnx.skeleton import is_large

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

LOGITS, PROBABILITIES, LABELS = "logits", "probabilities", "labels"
OUTPUT_VALUES = (LOGITS, PROBABILITIES, LABELS)
MASK, RANKING, COLOURS = "mask", "ranking", "colours"
"""Further meanings that a graph shows: true or false, values sorted along the channels, and colours of labels."""

MASK_VALUES = (1, 255)
"""Usual values of the foreground in a mask whose background is 0."""
NEUTRAL_OPERATORS = {
    "DequantizeLinear", "Flatten", "Gather", "Identity", "ReorderOutput", "Reshape", "Resize", "Slice", "Squeeze",
    "Transpose", "Unsqueeze", "Upsample",
}  # fmt: skip
"""Operators that keep the meaning of their first input."""
_SHAPING = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that keep the values of their first input."""
_MEANINGS = {
    LOGITS: (
        *("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv"),
        *("FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv"),  # of ONNX Runtime, perhaps with an activation
    ),
    PROBABILITIES: ("HardSigmoid", "QLinearSigmoid", "Sigmoid"),
    LABELS: ("ArgMax", "ArgMin"),
    MASK: ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"),
}
_OPERATORS = {operator: meaning for meaning, operators in _MEANINGS.items() for operator in operators}
_FUSED_CONVOLUTIONS, _ADDEND = ("Conv", "FusedConv", "NhwcFusedConv"), 3
"""Convolutions of ONNX Runtime, and the input that they add to their result."""
_OUTPUT_SCALES = {"QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearSigmoid": (3, 4)}
"""Operator that quantises its output -> positions of scale and zero point among its inputs."""


@dataclass(frozen=True)
class StoredValues:
    """Values of a tensor: `scale` * (stored value - `zero_point`).

    Attributes:
        meaning: one of `OUTPUT_VALUES`, `MASK`, `RANKING` or `COLOURS`; None where the operators do not determine it.
        scale: factor; 1 for values that are stored as they are.
        zero_point: stored value of 0.
        source: tensor of the labels whose colours the values are; else None.
    """

    meaning: str | None = None
    scale: float = 1.0
    zero_point: float = 0.0
    source: str | None = None

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
    return _Graph(model.graph).trace(output)


def infer_input_quantisation(model: ModelProto, name: str) -> StoredValues | None:
    """Return the quantisation of an input, if all its consumers dequantise it; None for others, e.g. plain pixels."""
    return _Graph(model.graph).trace_input(name)


@dataclass(frozen=True)
class _Graph:
    """Graph of a model, or of a branch within, with its constants.

    Attributes:
        graph: the graph.
        outer_producers: tensor -> node that computes it, of the graphs around a branch.
        outer_constants: tensor -> constant of the graphs around a branch.
    """

    graph: GraphProto
    outer_producers: Mapping[str, NodeProto] = field(default_factory=dict)
    outer_constants: Mapping[str, TensorProto] = field(default_factory=dict)

    @cached_property
    def _producers(self) -> dict[str, NodeProto]:
        return {**self.outer_producers, **{name: node for node in self.graph.node for name in node.output}}

    @cached_property
    def _constants(self) -> dict[str, TensorProto]:
        return {**self.outer_constants, **{tensor.name: tensor for tensor in self.graph.initializer}}

    def _constant(self, node: NodeProto, position: int) -> float | None:
        """Return an input of a node that is a constant with one value; None for others."""
        tensor = self._find_constant(node, position)
        if tensor is None or math.prod(tensor.dims) != 1:
            return None
        return float(_read_values(tensor).reshape(-1)[0])

    def _find_constant(self, node: NodeProto, position: int) -> TensorProto | None:
        """Return an input of a node that is a constant, perhaps cast; None for others."""
        name = node.input[position] if position < len(node.input) else ""
        producer = self._producers.get(name)
        if producer is not None and producer.op_type == "Constant":
            return next((entry.t for entry in producer.attribute if entry.name == "value"), None)
        if producer is not None and producer.op_type == "Cast":
            return self._find_constant(producer, 0)
        return self._constants.get(name)

    def trace(self, tensor: str) -> StoredValues:
        """Return the meaning of a tensor by the nodes that produce it and its inputs."""
        node = self._producers.get(tensor)
        if node is None:
            return StoredValues()
        kind = node.op_type
        if kind in ("Cast", "Round"):
            return self._trace_rounding(node)
        if kind == "Where":
            return self._trace_choice(node)
        if kind == "Gather" and self._find_constant(node, 0) is not None:
            return self._trace_lookup(node)
        if kind == "DequantizeLinear":
            return replace(self.trace(node.input[0]), scale=1.0, zero_point=0.0)
        if kind in NEUTRAL_OPERATORS:
            return self.trace(node.input[0])
        if kind == "If":
            return self._trace_branches(node, list(node.output).index(tensor))
        if kind in ("Mul", "Div"):
            return self._trace_product(node)
        if kind == "Add":  # logits of several branches, or a bias
            meanings = {self.trace(name).meaning for name in node.input if name in self._producers}
            return StoredValues(LOGITS if meanings == {LOGITS} else None)
        if kind == "TopK":
            return StoredValues(LABELS if tensor == node.output[1] else RANKING)
        meaning = self.trace(node.input[0]).meaning if kind == "QuantizeLinear" else self._find_meaning(node)
        if kind not in _OUTPUT_SCALES:
            return StoredValues(meaning)
        scale, zero_point = (self._constant(node, position) for position in _OUTPUT_SCALES[kind])
        return StoredValues(None) if scale is None else StoredValues(meaning, scale, zero_point or 0.0)

    def _find_meaning(self, node: NodeProto) -> str | None:
        """Return the meaning that an operator gives its output, with what ONNX Runtime fused into it."""
        if activation := get_attribute(node, "activation", b"").decode():
            return _OPERATORS.get(activation)
        meaning, addends = _OPERATORS.get(node.op_type), node.input[_ADDEND:]
        if node.domain in ORT_DOMAINS and node.op_type in _FUSED_CONVOLUTIONS and any(addends):
            return meaning if self.trace(addends[0]).meaning == meaning else None
        return meaning

    def _trace_branches(self, node: NodeProto, index: int) -> StoredValues:
        """Return the meaning of an output of a branch, the same in both: torch squeezes an axis only of length 1."""
        branches = [_Graph(graph, self._producers, self._constants) for graph in list_subgraphs(node)]
        values = {branch.trace(branch.graph.output[index].name) for branch in branches}
        return values.pop() if len(values) == 1 else StoredValues()

    def _trace_rounding(self, node: NodeProto) -> StoredValues:
        """Return the meaning of rounded or cast values: of probabilities in 0..1, only 0 and 1 remain as integers."""
        from onnx import TensorProto

        values = self.trace(node.input[0])
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        is_integral = node.op_type == "Round" or get_attribute(node, "to") not in floats
        return StoredValues(MASK) if is_integral and values == StoredValues(PROBABILITIES) else values

    def _trace_choice(self, node: NodeProto) -> StoredValues:
        """Return the meaning of a choice of two constants: a mask if they are 0, and 1 or 255."""
        constants = [self._constant(node, position) for position in (1, 2)]
        values = [value for value in constants if value]  # the other than 0
        is_mask = 0 in constants and len(values) == 1 and values[0] in MASK_VALUES
        return StoredValues(MASK, 1 / values[0]) if is_mask else StoredValues()

    def _trace_lookup(self, node: NodeProto) -> StoredValues:
        """Return the meaning of entries of a constant: the colours of labels, else unknown values."""
        import numpy as np

        table = self._find_constant(node, 0)
        if table is None or len(table.dims) != 2 or self.trace(node.input[1]).meaning != LABELS:
            return StoredValues()
        if is_large(table):
            return StoredValues(COLOURS, source=node.input[1])
        values = np.moveaxis(_read_values(table), get_attribute(node, "axis", 0), 0)
        is_one_hot = np.array_equal(values, np.eye(*values.shape))
        return StoredValues() if is_one_hot else StoredValues(COLOURS, source=node.input[1])

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
        """Return `infer_input_quantisation`."""
        scales: set[StoredValues | None] = set()
        for node in self.graph.node:
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


def _read_values(tensor: TensorProto) -> NDArray[Any]:
    """Return the values of a constant."""
    from onnx import numpy_helper

    values: NDArray[Any] = numpy_helper.to_array(tensor)
    return values
