"""Costs of groups of ONNX nodes, as a runtime fuses them: multiply-accumulates, and bytes read and written.

The bytes of a group are those of the tensors that cross its border, each once: weights and inputs that it reads, and
outputs that other nodes or the caller read. Tensors inside the group count nothing: a runtime that fuses the nodes
never writes them. Padding to a runtime's layout is not counted either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .costs import count_group_macs

FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Precision that a runtime casts float32 models to -> bytes of a value."""
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that give a tensor another shape, or another name: nothing is read or written."""
_PARTIAL_READERS = ("Slice", "Gather", "GatherND", "Split")
"""Operators that read no more of their first input than they write."""
_CONSTANT = "Constant"
_FILTERS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
"""Operator -> input that holds the filters."""


@dataclass(frozen=True)
class NodeCosts:
    """Costs of a group of nodes; None or empty where a shape is unknown.

    Attributes:
        node: name of the node that stands for the group: the one with the most multiply-accumulates, else the last.
        operator: types of the nodes in the order of computation, e.g. `Conv+Relu`.
        kernel: kernel of the convolution, e.g. `3x3`, `depthwise 3x3/2` with stride 2; empty without a convolution.
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


def name_nodes(data: bytes) -> bytes:
    """Return a serialised model in which all nodes have different names; the same bytes if they have."""
    import onnx

    model = onnx.load_model_from_string(data)
    names = [node.name for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return data
    taken = set(names) - {""}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)
    serialised: bytes = model.SerializeToString()
    return serialised


class GraphCosts:
    """Costs of the nodes of a graph.

    Args:
        data: serialised model with embedded weights, whose nodes have different names.
        precision: precision that the runtime computes in; `fp16` and `bf16` halve the bytes of a float32 model.
    """

    def __init__(self, data: bytes, precision: str = "fp32") -> None:
        import onnx

        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), data_prop=True)
        graph = model.graph
        self._nodes = {node.name: node for node in graph.node}
        self._order = {node.name: position for position, node in enumerate(graph.node)}
        self._shapes, self._types = _read_tensors(graph)
        self._float_bytes = FLOAT_BYTES.get(precision, 4)
        self._readers: dict[str, set[str]] = {value.name: {""} for value in graph.output}
        for node in graph.node:
            for tensor in _list_inputs(node):
                self._readers.setdefault(tensor, set()).add(node.name)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def count(self, names: Iterable[str]) -> NodeCosts:
        """Return the costs of the nodes as one group; unknown names are ignored, but one must be known."""
        group = [self._nodes[name] for name in sorted(set(names) & self._nodes.keys(), key=self._order.__getitem__)]
        nodes = [node for node in group if node.op_type != _CONSTANT] or group  # a constant is an input, as a weight is
        known = [count_group_macs([node], self._shapes) or 0 for node in nodes]
        main = nodes[known.index(max(known))] if any(known) else nodes[-1]
        outputs = self._list_outputs(nodes)
        return NodeCosts(
            node=main.name,
            operator="+".join(dict.fromkeys(self._list_operators(nodes))),
            kernel=self._describe_kernel(main),
            shape=self._shapes.get(outputs[0], ()) if outputs else (),
            macs=count_group_macs(nodes, self._shapes),
            bytes=self._count_bytes(nodes, outputs),
        )

    def count_copy(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of copying a floating-point tensor: read and written once."""
        return 2 * math.prod(shape) * self._float_bytes

    def _list_outputs(self, nodes: list[Any]) -> list[str]:
        """Return the outputs that nodes outside the group or the caller read, those of the last node first."""
        group = {node.name for node in nodes}
        outputs = [tensor for node in reversed(nodes) for tensor in node.output]
        return [tensor for tensor in outputs if tensor and self._readers.get(tensor, set()) - group]

    def _count_bytes(self, nodes: list[Any], outputs: list[str]) -> int | None:
        """Return the bytes that cross the border of the group; None if a size is unknown."""
        if all(node.op_type in VIEWS or self._is_shape_value(node) for node in nodes):
            return 0
        made = {tensor for node in nodes for tensor in node.output}
        sizes = {tensor: self._measure(tensor) for tensor in outputs}
        for node in nodes:
            for index, tensor in enumerate(node.input):
                if not tensor or tensor in made:
                    continue
                size = self._measure(tensor)
                if index == 0 and node.op_type in _PARTIAL_READERS:
                    size = _smaller(size, [self._measure(output) for output in node.output])
                sizes[tensor] = size
        known = [size for size in sizes.values() if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _measure(self, tensor: str) -> int | None:
        """Return the bytes of a tensor; None where shape or type are unknown."""
        from onnx import TensorProto, helper

        kind = self._types.get(tensor)
        if tensor not in self._shapes or not kind:
            return None
        width = self._float_bytes if kind == TensorProto.FLOAT else helper.tensor_dtype_to_np_dtype(kind).itemsize
        return math.prod(self._shapes[tensor]) * int(width)

    def _list_operators(self, nodes: list[Any]) -> list[str]:
        """Return the types of the nodes, without arithmetic on shapes if there are others."""
        shown = [node.op_type for node in nodes if node.op_type != "Identity" and not self._is_shape_value(node)]
        return shown or [nodes[-1].op_type]

    def _is_shape_value(self, node: Any) -> bool:
        from onnx import TensorProto

        tensor = node.output[0]
        return self._types.get(tensor) == TensorProto.INT64 and len(self._shapes.get(tensor, (0, 0))) < 2

    def _describe_kernel(self, node: Any) -> str:
        """Return the kernel of a convolution with its stride."""
        index = _FILTERS.get(node.op_type)
        weight = () if index is None else self._shapes.get(node.input[index], ())
        if len(weight) < 3:
            return ""
        attributes = {attribute.name: attribute for attribute in node.attribute}
        groups = attributes["group"].i if "group" in attributes else 1
        strides = set(attributes["strides"].ints) if "strides" in attributes else {1}
        # with one input channel for each group; a network may have one input channel alone
        prefix = ("depthwise " if weight[1] == 1 else "grouped ") if groups > 1 else ""
        stride = "" if strides == {1} else f"/{max(strides)}"
        return f"{prefix}{'x'.join(map(str, weight[2:]))}{stride}"


def _read_tensors(graph: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Return the static shapes and the element types of the tensors, by name."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if not value.type.HasField("tensor_type"):
            continue
        types.setdefault(value.name, value.type.tensor_type.elem_type)
        sizes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            shapes.setdefault(value.name, tuple(size.dim_value for size in sizes))
    return shapes, types


def _list_inputs(node: Any) -> Iterator[str]:
    """Yield the tensors that a node reads, also in the bodies of branches and loops."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _list_inputs(inner)


def _smaller(size: int | None, outputs: list[int | None]) -> int | None:
    """Return the size of the outputs together if it is below that of the input."""
    if size is None or None in outputs:
        return size
    return min(size, sum(output or 0 for output in outputs))
