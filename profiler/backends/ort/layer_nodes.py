"""Given ONNX nodes behind each node of the graph that ONNX Runtime optimised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

_LAYOUT_SUFFIX = "_nchwc"


_ADDEND_INDEX = 3
"""Which input of a convolution in that layout is added to what it gives."""


_REORDER_OPS = ("ReorderInput", "ReorderOutput")


def trace_nodes(model: Any, optimised: Any) -> dict[str, tuple[str, ...]]:
    """Optimised node -> names of the given nodes in it, in their order.

    Equal nodes, two poolings of one tensor say, are computed once, and all behind one. Behind a change of layout is
    what made the tensor; of the network's input, what takes it.

    Args:
        model: the given graph's ModelProto, every node named.
        optimised: the optimised graph's.
    """
    graph = _SourceGraph(model.graph)
    tensors, ends = _trace_tensors(optimised, graph)
    found: dict[str, tuple[str, ...]] = {}
    for node in optimised.graph.node:
        tensor = tensors.get(node.output[0])
        if tensor is None:
            found[node.name] = ()
        elif node.op_type in _REORDER_OPS:
            found[node.name] = tuple(one.name for one in graph.makers.get(tensor) or graph.users[tensor])
        else:
            found[node.name] = graph.back(tensor, ends)
    return found


class _SourceGraph:
    """The given graph, tensors of equal value taken for one: the first of those that one operator makes of the same."""

    def __init__(self, graph: Any) -> None:
        self._first: dict[str, str] = {}
        self._places = {node.name: place for place, node in enumerate(graph.node)}
        self.nodes = {node.name: node for node in graph.node}
        self.makers: dict[str, list[Any]] = defaultdict(list)
        self.users: dict[str, list[Any]] = defaultdict(list)
        seen: dict[tuple[Any, ...], str] = {}
        for node in graph.node:
            inputs = tuple(map(self.first, node.input))
            attributes = tuple(sorted(one.SerializeToString(deterministic=True) for one in node.attribute))
            for index, output in enumerate(node.output):
                key = (node.domain, node.op_type, attributes, inputs, index)
                self._first[output] = seen.setdefault(key, output)
                self.makers[self._first[output]].append(node)
            for tensor in inputs:
                self.users[tensor].append(node)

    def first(self, tensor: str) -> str:
        """The tensor that this one equals; itself where there is none before."""
        return self._first.get(tensor, tensor)

    def made(self, tensor: str) -> bool:
        """Whether a node makes the tensor: inputs and weights are made by none."""
        return tensor in self._first

    def back(self, tensor: str, ends: set[str]) -> tuple[str, ...]:
        """Names of the nodes that make the tensor, and of those before, up to tensors that are made elsewhere."""
        names, todo = set(), [self.first(tensor)]
        while todo:
            for node in self.makers.get(todo.pop(), ()):
                if node.name not in names:
                    names.add(node.name)
                    todo += [one for one in map(self.first, node.input) if self.made(one) and one not in ends]
        return tuple(sorted(names, key=self._places.__getitem__))


def _trace_tensors(optimised: Any, graph: _SourceGraph) -> tuple[dict[str, str], set[str]]:
    """The optimised graph's tensors as the given one's, and those of them that an optimised node computes."""
    found: dict[str, str] = {}
    ends = set()
    for node in optimised.graph.node:
        output, named = node.output[0], node.name.removesuffix(_LAYOUT_SUFFIX)
        if node.op_type in _REORDER_OPS:
            found[output] = found.get(node.input[0], graph.first(node.input[0]))
            continue
        if graph.made(output):
            found[output] = graph.first(output)
        elif node.name.endswith(_LAYOUT_SUFFIX) and graph.made(named):
            found[output] = _get_fused_output(node, graph.first(named), found, graph)
        elif node.name in graph.nodes:
            found[output] = graph.first(graph.nodes[node.name].output[0])
        else:
            continue
        ends.add(found[output])
    return found, ends


def _get_fused_output(node: Any, tensor: str, found: Mapping[str, str], graph: _SourceGraph) -> str:
    """What a convolution gives that has an addition in it, and perhaps what follows: its name tells only its own."""
    if len(node.input) < _ADDEND_INDEX + 1:
        return tensor
    addend = found.get(node.input[_ADDEND_INDEX], graph.first(node.input[_ADDEND_INDEX]))
    sums = [user for user in graph.users[tensor] if addend in map(graph.first, user.input)]
    if not sums:
        return tensor
    total = graph.first(sums[0].output[0])
    activation = {one.s.decode() for one in node.attribute if one.name == "activation"}
    after = [user for user in graph.users[total] if user.op_type in activation]
    return graph.first(after[0].output[0]) if after else total
