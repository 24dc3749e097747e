"""Costs of groups of ONNX nodes, as a runtime fuses them: multiply-accumulates, and bytes read and written.

The bytes of a group are those of the tensors that cross its border, each once: weights and inputs that it reads, and
outputs that other nodes or the caller read. Tensors inside the group count nothing: a runtime that fuses the nodes
never writes them. Padding to a runtime's layout is not counted either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import graphs
from ..graphs import list_names, list_subgraphs
from .costs import infer_tensors
from .macs import count_group_macs, count_node_macs, get_attribute

FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Precision that a runtime casts float32 models to -> bytes of a value."""
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that give a tensor another shape, or another name: nothing is read or written."""
_PARTIAL_READERS = ("Slice", "Gather", "GatherND", "Split")
"""Operators that read no more of their first input than they write."""
_SIZES = ("Shape", "Size")
"""Operators that read the shape of a tensor only."""
_QUANTISATION = ("QuantizeLinear", "DequantizeLinear")
_CONSTANT = "Constant"
_FILTERS = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvInteger", "ConvTranspose"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearConvTranspose"), 3),
}
"""Operator -> input that holds the filters."""


@dataclass(frozen=True)
class NodeCosts:
    """Costs of a group of nodes; None or empty where a shape is unknown.

    Attributes:
        node: name of the node that stands for the group: the one with the most multiply-accumulates, else the last.
        operator: types of the nodes in the order of computation, e.g. `Conv+Relu`.
        kernel: kernel of the convolution, e.g. `3x3`, `depthwise 3x3/2` with stride 2, `transposed 4x4/2`; empty of
            other nodes.
        shape: shape of the first output.
        macs: multiply-accumulates.
        bytes: bytes of the weights, inputs and outputs.
    """

    node: str
    operator: str
    kernel: str
    shape: tuple[int, ...]
    macs: int | None
    bytes: int | None


def with_node_names(data: bytes) -> bytes:
    """Return a serialised model in which all nodes have different names; the same bytes if they have."""
    import onnx

    model = onnx.load_model_from_string(data)
    return bytes(model.SerializeToString()) if graphs.name_nodes(model.graph) else data


class GraphCosts:
    """Costs of the nodes of a graph.

    Args:
        data: serialised model with embedded weights, whose nodes have different names.
        precision: precision that the runtime computes in; `fp16` and `bf16` halve the bytes of a float32 model.
        skeleton: the same model from `load_skeleton`; None to make it.
    """

    def __init__(self, data: bytes, precision: str = "fp32", skeleton: Any = None) -> None:
        graph, tensors = infer_tensors(data, skeleton, all_known=True)
        self._nodes = {node.name: node for node in graph.node}
        self._order = {node.name: position for position, node in enumerate(graph.node)}
        self._shapes = {name: shape for name, (shape, _) in tensors.items()}
        self._types = {name: kind for name, (_, kind) in tensors.items()}
        self._float_bytes = FLOAT_BYTES.get(precision, 4)
        self._readers: dict[str, set[str]] = {value.name: {""} for value in graph.output}
        for node in graph.node:
            for tensor in list_names(node):
                self._readers.setdefault(tensor, set()).add(node.name)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def count(self, names: Iterable[str], *, is_widened: bool = False) -> NodeCosts:
        """Return the costs of the nodes as one group; unknown names are ignored, but one must be known.

        With `is_widened`, their float16 tensors are float32.
        """
        group = [self._nodes[name] for name in sorted(set(names) & self._nodes.keys(), key=self._order.__getitem__)]
        nodes = [node for node in group if node.op_type != _CONSTANT] or group  # a constant is an input, as a weight is
        known = [count_node_macs(node, self._shapes) or 0 for node in nodes]
        main = nodes[known.index(max(known))] if any(known) else nodes[-1]
        outputs = self._list_outputs(nodes)
        return NodeCosts(
            node=main.name,
            operator="+".join(dict.fromkeys(self._list_operators(nodes))),
            kernel=self._describe_kernel(main),
            shape=self._shapes.get(outputs[0], ()) if outputs else (),
            macs=count_group_macs(nodes, self._shapes),
            bytes=self._count_bytes(nodes, outputs, is_widened),
        )

    def count_copy(self, shape: tuple[int, ...], item_bytes: int | None = None) -> int:
        """Return the bytes of copying a tensor, by default of floats: read and written once."""
        return 2 * math.prod(shape) * (item_bytes or self._float_bytes)

    def is_shared(self, name: str) -> bool:
        """Return True for a node that several layers may compute, each inside: the input of quantised operators."""
        return name in self._nodes and self._nodes[name].op_type == "DequantizeLinear"

    def _list_outputs(self, nodes: list[Any]) -> list[str]:
        """Return the outputs that nodes outside the group or the caller read, those of the last node first.

        The other readers of a shared node compute it themselves, so its output is not written alongside other nodes.
        """
        group = {node.name for node in nodes}
        writers = [node for node in nodes if not self.is_shared(node.name)] or nodes
        outputs = [tensor for node in reversed(writers) for tensor in node.output]
        return [tensor for tensor in outputs if tensor and self._readers.get(tensor, set()) - group]

    def _count_bytes(self, nodes: list[Any], outputs: list[str], is_widened: bool) -> int | None:
        """Return the bytes that cross the border of the group; None if a size is unknown, or the runs of a body."""
        if any(map(list_subgraphs, nodes)):
            return None
        kinds = {node.op_type for node in nodes if not self._is_shape_value(node)}
        if not kinds - {*VIEWS, *_QUANTISATION} and (kinds & {*VIEWS} or not kinds):
            return 0
        measure = partial(self._measure, is_widened=is_widened)
        made = {tensor for node in nodes for tensor in node.output}
        sizes = {tensor: measure(tensor) for tensor in outputs}
        readers = [node for node in nodes if node.op_type not in _SIZES]
        read = {*outputs, *(tensor for node in readers for tensor in node.input)}
        for node in readers:
            if not read & set(node.output) and self.is_shared(node.name):  # only its shape is read
                continue
            for index, tensor in enumerate(node.input):
                if not tensor or tensor in made:
                    continue
                size = measure(tensor)
                if index == 0 and node.op_type in _PARTIAL_READERS:
                    parts = [*map(measure, node.output), sizes.get(tensor, 0)]
                    size = _smaller(size, parts)
                sizes[tensor] = size
        known = [size for size in sizes.values() if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _measure(self, tensor: str, *, is_widened: bool = False) -> int | None:
        """Return the bytes of a tensor; None where shape or type are unknown."""
        from onnx import TensorProto, helper

        kind = self._types.get(tensor)
        if tensor not in self._shapes or not kind:
            return None
        size = math.prod(self._shapes[tensor])
        if kind in (TensorProto.INT4, TensorProto.UINT4):
            return (size + 1) // 2
        if kind == TensorProto.FLOAT16 and is_widened:
            return size * FLOAT_BYTES["fp32"]
        width = self._float_bytes if kind == TensorProto.FLOAT else helper.tensor_dtype_to_np_dtype(kind).itemsize
        return size * int(width)

    def _list_operators(self, nodes: list[Any]) -> list[str]:
        """Return the types of the nodes, without quantisation and arithmetic on shapes if there are others."""
        shown = [node.op_type for node in nodes if node.op_type != "Identity" and not self._is_shape_value(node)]
        return [name for name in shown if name not in _QUANTISATION] or shown or [nodes[-1].op_type]

    def _is_shape_value(self, node: Any) -> bool:
        """Return True for arithmetic on sizes or on single values."""
        inputs = () if node.op_type in _SIZES else filter(None, node.input)
        return all(map(self._is_small, (node.output[0], *inputs)))

    def _is_small(self, tensor: str) -> bool:
        """Return True for a single value or a list of sizes."""
        from onnx import TensorProto

        shape = self._shapes.get(tensor, (0, 0))
        return math.prod(shape) == 1 or (self._types.get(tensor) == TensorProto.INT64 and len(shape) < 2)

    def _describe_kernel(self, node: Any) -> str:
        """Return the kernel of a convolution with its stride."""
        index = _FILTERS.get(node.op_type)
        weight = () if index is None else self._shapes.get(node.input[index], ())
        if len(weight) < 3:
            return ""
        groups, strides = get_attribute(node, "group", 1), set(get_attribute(node, "strides", [1]))
        # with one input channel for each group; a network may have one input channel alone
        prefix = ("depthwise " if weight[1] == 1 else "grouped ") if groups > 1 else ""
        prefix += "transposed " if "Transpose" in node.op_type else ""
        stride = "" if strides == {1} else f"/{max(strides)}"
        return f"{prefix}{'x'.join(map(str, weight[2:]))}{stride}"


def _smaller(size: int | None, parts: list[int | None]) -> int | None:
    """Return the size of the parts together if it is below that of the whole."""
    if size is None or None in parts:
        return size
    return min(size, sum(part or 0 for part in parts))
