"""Source nodes of each node in the graph that ONNX Runtime optimised.

The runtime optimises a graph before it runs it: convolutions absorb the operators after them, and tensors are converted
to another layout and back. It keeps the tensors' names, in the outputs or, in another layout, in the name of the node.
So the source nodes of an optimised node are traced from its tensor back to the tensors of other optimised nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

_LAYOUT_SUFFIX = "_nchwc"
_NORM_SUFFIX = "_bn"
"""Suffix, before the layout's, of a batch normalisation that the runtime turned into a convolution."""
_ADDEND_INDEX = 3
"""Input of a convolution in that layout that is added to its result."""
_PRODUCT_SUFFIX = "/MatMulAddFusion"
"""Suffix of a matrix product that the runtime turned into a Gemm with the addition after it, between two reshapes."""
REORDER_OPS = ("ReorderInput", "ReorderOutput")
"""Operators that copy a tensor to another layout."""


def trace_nodes(model: Any, optimised: Any) -> dict[str, tuple[str, ...]]:
    """Return optimised node -> names of its source nodes, in the order of the source graph.

    Equal nodes, e.g. two poolings of one tensor, are computed once and all belong to that node. A change of layout
    belongs to the nodes that produce the tensor; for the network's input, to the nodes that consume it.

    Args:
        model: ModelProto of the source graph, with all nodes named.
        optimised: ModelProto of the optimised graph.
    """
    source = _SourceGraph(model.graph)
    tensors, boundaries = _trace_tensors(optimised, source)
    nodes: dict[str, tuple[str, ...]] = {}
    for node in optimised.graph.node:
        tensor = tensors.get(node.output[0])
        if tensor is None:
            nodes[node.name] = ()
        elif node.op_type in REORDER_OPS:
            related = source.producers.get(tensor) or source.consumers[tensor]
            nodes[node.name] = tuple(neighbour.name for neighbour in related)
        else:
            nodes[node.name] = source.trace_back(tensor, boundaries)
    return nodes


class _SourceGraph:
    """Source graph in which equal tensors are one: the first result of an operator with the same inputs.

    Attributes:
        nodes: nodes by name.
        producers: tensor -> nodes that compute it or an equal one.
        consumers: tensor -> nodes that take it or an equal one.
    """

    def __init__(self, graph: Any) -> None:
        self._canonical: dict[str, str] = {}
        self._positions = {node.name: position for position, node in enumerate(graph.node)}
        self.nodes = {node.name: node for node in graph.node}
        self.producers: dict[str, list[Any]] = defaultdict(list)
        self.consumers: dict[str, list[Any]] = defaultdict(list)
        seen: dict[tuple[Any, ...], str] = {}
        for node in graph.node:
            inputs = tuple(map(self.get_canonical, node.input))
            attributes = tuple(sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute))
            for index, output in enumerate(node.output):
                key = (node.domain, node.op_type, attributes, inputs, index)
                self._canonical[output] = seen.setdefault(key, output)
                self.producers[self._canonical[output]].append(node)
            for tensor in inputs:
                self.consumers[tensor].append(node)

    def get_canonical(self, tensor: str) -> str:
        """Return the first tensor equal to this one, which may be itself."""
        return self._canonical.get(tensor, tensor)

    def is_computed(self, tensor: str) -> bool:
        """Return True if a node computes the tensor, False for inputs and weights."""
        return tensor in self._canonical

    def trace_back(self, tensor: str, boundaries: set[str]) -> tuple[str, ...]:
        """Return the names of the nodes that compute the tensor from the tensors in `boundaries`."""
        names, pending = set(), [self.get_canonical(tensor)]
        while pending:
            for node in self.producers.get(pending.pop(), ()):
                if node.name not in names:
                    names.add(node.name)
                    inputs = map(self.get_canonical, node.input)
                    pending += [name for name in inputs if self.is_computed(name) and name not in boundaries]
        return tuple(sorted(names, key=self._positions.__getitem__))


def _trace_tensors(optimised: Any, source: _SourceGraph) -> tuple[dict[str, str], set[str]]:
    """Return optimised tensor -> source tensor, and the source tensors that optimised nodes compute."""
    tensors: dict[str, str] = {}
    boundaries = set()
    for node in optimised.graph.node:
        output, base_name = node.output[0], node.name.removesuffix(_LAYOUT_SUFFIX)
        if node.op_type in REORDER_OPS:
            tensors[output] = tensors.get(node.input[0], source.get_canonical(node.input[0]))
            continue
        if source.is_computed(output):
            tensors[output] = source.get_canonical(output)
        elif node.name.endswith(_LAYOUT_SUFFIX) and source.is_computed(base_name):
            tensors[output] = _get_fused_output(node, source.get_canonical(base_name), tensors, source)
        elif node.name.endswith(_LAYOUT_SUFFIX) and source.is_computed(base_name.removesuffix(_NORM_SUFFIX)):
            norm = source.get_canonical(base_name.removesuffix(_NORM_SUFFIX))
            tensors[output] = _get_activated(node, norm, source)
        elif node.name in source.nodes:
            tensors[output] = source.get_canonical(source.nodes[node.name].output[0])
        elif node.name.removesuffix(_PRODUCT_SUFFIX) in source.nodes:
            tensors[output] = _get_biased(node, source)
        else:
            continue
        boundaries.add(tensors[output])
    return tensors, boundaries


def _get_fused_output(node: Any, tensor: str, tensors: Mapping[str, str], source: _SourceGraph) -> str:
    """Return the source tensor after a convolution's fused addition and activation, which its name does not give.

    Args:
        node: optimised convolution.
        tensor: source tensor of the convolution alone.
        tensors: optimised tensor -> source tensor, of the nodes before.
        source: source graph.
    """
    if len(node.input) < _ADDEND_INDEX + 1:
        return _get_activated(node, tensor, source)
    addend = tensors.get(node.input[_ADDEND_INDEX], source.get_canonical(node.input[_ADDEND_INDEX]))
    sums = [user for user in source.consumers[tensor] if addend in map(source.get_canonical, user.input)]
    if not sums:
        return tensor
    return _get_activated(node, source.get_canonical(sums[0].output[0]), source)


def _get_activated(node: Any, tensor: str, source: _SourceGraph) -> str:
    """Return the source tensor after the activation that an optimised node applies to a source tensor."""
    activations = {entry.s.decode() for entry in node.attribute if entry.name == "activation"}
    if any(producer.op_type in activations for producer in source.producers[tensor]):  # the tensor is its output
        return tensor
    after = [user for user in source.consumers[tensor] if user.op_type in activations]
    return source.get_canonical(after[0].output[0]) if after else tensor


def _get_biased(node: Any, source: _SourceGraph) -> str:
    """Return the source tensor after the addition that a Gemm includes, by the name of the matrix product."""
    product = source.get_canonical(source.nodes[node.name.removesuffix(_PRODUCT_SUFFIX)].output[0])
    sums = [user for user in source.consumers[product] if user.op_type == "Add"]
    return source.get_canonical(sums[0].output[0]) if sums else product
