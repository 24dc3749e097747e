"""Meaning of an output's values by the operators that compute it: logits, probabilities or labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

LOGITS, PROBABILITIES, LABELS = "logits", "probabilities", "labels"
OUTPUT_VALUES = (LOGITS, PROBABILITIES, LABELS)

_NEUTRAL = {
    "Cast", "DequantizeLinear", "Flatten", "Gather", "Identity", "QuantizeLinear", "Reshape", "Resize", "Slice",
    "Squeeze", "Transpose", "Unsqueeze", "Upsample",
}  # fmt: skip
"""Operators that keep the meaning of their first input."""
_MEANINGS = {
    LOGITS: ("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv"),
    PROBABILITIES: ("HardSigmoid", "QLinearSigmoid", "Sigmoid"),
    LABELS: (
        "And",
        "ArgMax",
        "ArgMin",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "Xor",
    ),
}
_OPERATORS = {operator: meaning for meaning, operators in _MEANINGS.items() for operator in operators}


def infer_values(model: bytes, output: str) -> str | None:
    """Return the meaning of an output, one of `OUTPUT_VALUES`; None where the operators do not determine it.

    Args:
        model: serialised ONNX model.
        output: name of the output.
    """
    import onnx

    graph = onnx.load_model_from_string(model).graph
    producers = {name: node for node in graph.node for name in node.output}
    return _trace_values(producers, output)


def _trace_values(producers: dict[str, NodeProto], tensor: str) -> str | None:
    """Return the meaning of a tensor by the nodes that produce it and its inputs."""
    node = producers.get(tensor)
    while node is not None and node.op_type in _NEUTRAL:
        node = producers.get(node.input[0])
    if node is None:
        return None
    if node.op_type == "Add":  # logits of several branches, or a bias
        meanings = {_trace_values(producers, name) for name in node.input if name in producers}
        return LOGITS if meanings == {LOGITS} else None
    return _OPERATORS.get(node.op_type)
