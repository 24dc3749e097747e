"""Source nodes of each node in the graph that ONNX Runtime optimised.

The runtime optimises a graph before it runs it: convolutions absorb the operators after them, and tensors are converted
to another layout and back. It keeps the tensors' names, in the outputs or, in another layout, in the name of the node,
perhaps with a suffix (`conv_token_7`). So the source nodes of an optimised node are traced from its tensors back to
the tensors of other optimised nodes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ....models.onnx.counting.node_costs import VIEWS
from ..int8 import DEQUANTISE

_CAST_PREFIX = "InsertedPrecisionFreeCast_"
"""Prefix of a tensor in float16 that the runtime computes in float32, for want of a kernel."""
_LAYOUT_SUFFIX = "_nchwc"
_NORM_SUFFIX = "_bn"
"""Suffix, before the layout's, of a batch normalisation that the runtime turned into a convolution."""
_ADDEND_INDEX = 3
"""Input of a convolution in that layout that is added to its result."""
_PRODUCT_SUFFIX = "/MatMulAddFusion"
"""Suffix of a matrix product that the runtime turned into a Gemm with the addition after it, between two reshapes."""
_ACTIVATIONS = ("Relu", "Clip")
"""Activations that are part of the range of a quantised tensor."""
_NUMBER = re.compile(r"(/duplicated)?(_token_\d+)?$")
"""Suffix that makes a name unique, perhaps of a second instance of a node."""
REORDER_OPS = ("ReorderInput", "ReorderOutput")
"""Operators that copy a tensor to another layout."""


@dataclass(frozen=True)
class TracedNode:
    """Source of an optimised node.

    Attributes:
        names: names of its source nodes, in the order of the source graph; of a copy, those that compute the tensor, or
            consume it if it is the network's input.
        is_copy: True if it copies a tensor to another layout, which the source does not.
        is_widened: True if it computes float16 tensors of the source in float32.
    """

    names: tuple[str, ...]
    is_copy: bool
    is_widened: bool = False


def trace_nodes(model: Any, optimised: Any) -> dict[str, TracedNode]:
    """Return optimised node -> its source nodes.

    Equal nodes, e.g. two poolings of one tensor, are computed once and all belong to that node. Nodes without a name
    are numbered by `name_unnamed`.

    Args:
        model: ModelProto of the source graph, with all nodes named.
        optimised: ModelProto of the optimised graph.
    """
    source = _SourceGraph(model.graph)
    tensors, boundaries = _trace_tensors(optimised, source)
    dequantised = {tensor for tensor in boundaries if source.is_dequantised(tensor)}
    nodes: dict[str, TracedNode] = {}
    unnamed: Counter[str] = Counter()
    for node in optimised.graph.node:
        name = node.name or name_unnamed(node.op_type, unnamed)
        traced = [tensors[name] for name in node.output if name in tensors]
        if source.is_copy(node):
            related = [each for tensor in traced for each in source.producers.get(tensor) or source.consumers[tensor]]
            nodes[name] = TracedNode(tuple(neighbour.name for neighbour in related), True)
            continue
        read = {tensors.get(tensor, source.get_canonical(tensor)) for tensor in node.input}
        names = source.trace_back(traced, boundaries - (dequantised - read))  # a fused node dequantises its own copy
        if source.is_own_view(node):
            names = tuple(each for each in names if source.nodes[each].op_type in VIEWS)
        is_widened = any(each.startswith(_CAST_PREFIX) for each in (node.name, *node.input, *node.output))
        nodes[name] = TracedNode(names, False, is_widened)
    return nodes


def name_unnamed(operator: str, counts: Counter[str]) -> str:
    """Return a name of the next unnamed node of an operator: the profile names it differently than the graph does."""
    counts[operator] += 1
    return f"unnamed {operator} {counts[operator]}"


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
                if not output:
                    continue
                key = (node.domain, node.op_type, attributes, inputs, index)
                self._canonical[output] = seen.setdefault(key, output)
                self.producers[self._canonical[output]].append(node)
            for tensor in inputs:
                self.consumers[tensor].append(node)

    def get_canonical(self, tensor: str) -> str:
        """Return the first tensor equal to this one, which may be itself."""
        return self._canonical.get(tensor) or self._canonical.get(tensor.removeprefix(_CAST_PREFIX), tensor)

    def is_computed(self, tensor: str) -> bool:
        """Return True if a node computes the tensor, False for inputs and weights."""
        return tensor in self._canonical or tensor.removeprefix(_CAST_PREFIX) in self._canonical

    def is_dequantised(self, tensor: str) -> bool:
        """Return True if a node dequantises the tensor."""
        return any(node.op_type == DEQUANTISE for node in self.producers[tensor])

    def find_node(self, name: str) -> Any:
        """Return the node that an optimised one is named after, perhaps with a suffix; None if there is none."""
        return self.nodes.get(name) or self.nodes.get(_NUMBER.sub("", name))

    def is_copy(self, node: Any) -> bool:
        """Return True for an optimised node that changes the layout: the runtime's own operators and transpositions."""
        return node.op_type in REORDER_OPS or (node.op_type == "Transpose" and self.find_node(node.name) is None)

    def is_own_view(self, node: Any) -> bool:
        """Return True for a view that the runtime added, e.g. before or after a product of two dimensions."""
        return node.op_type in VIEWS and self.find_node(node.name) is None

    def trace_back(self, tensors: Iterable[str], boundaries: set[str]) -> tuple[str, ...]:
        """Return the names of the nodes that compute the tensors from those in `boundaries`."""
        names, pending = set(), list(map(self.get_canonical, tensors))
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
    views = {node.input[0]: node.output[0] for node in optimised.graph.node if source.is_own_view(node)}
    kept = {each.name for node in optimised.graph.node if (each := source.find_node(node.name)) is not None}
    for node in optimised.graph.node:
        if source.is_copy(node):
            name = node.input[0]
            tensors[node.output[0]] = tensors.get(name, source.get_canonical(name))
            continue
        named = _trace_name(node, tensors, source, kept)
        for index, output in enumerate(node.output):
            if source.is_computed(output):
                tensors[output] = source.get_canonical(output)
            elif index < len(named) and named[index]:
                tensors[output] = named[index]
            elif source.is_computed(views.get(output, "")):
                tensors[output] = source.get_canonical(views[output])
            else:
                continue
            boundaries.add(tensors[output])
    return tensors, boundaries


def _trace_name(node: Any, tensors: Mapping[str, str], source: _SourceGraph, kept: set[str]) -> list[str]:
    """Return the source tensors of an optimised node's outputs, by its name; none if the name is the runtime's own.

    Args:
        node: optimised node.
        tensors: optimised tensor -> source tensor, of the nodes before.
        source: source graph.
        kept: names of the source nodes that optimised nodes are named after.
    """
    if node.name.endswith(_LAYOUT_SUFFIX):
        base_name = node.name.removesuffix(_LAYOUT_SUFFIX)
        norm_name = base_name.removesuffix(_NORM_SUFFIX)
        if source.is_computed(base_name):
            return [_get_fused_output(node, source.get_canonical(base_name), tensors, source)]
        return [_get_activated(node, source.get_canonical(norm_name), source)] if source.is_computed(norm_name) else []
    if (origin := source.find_node(node.name)) is not None:
        return [_get_quantised(source.get_canonical(output), source, kept) for output in origin.output]
    product = source.nodes.get(_NUMBER.sub("", node.name).removesuffix(_PRODUCT_SUFFIX))
    return [_get_biased(product, source)] if product is not None else []


def _get_quantised(tensor: str, source: _SourceGraph, kept: set[str]) -> str:
    """Return the source tensor after the quantisation, and the activation before it, that a node includes.

    Args:
        tensor: source tensor before them.
        source: source graph.
        kept: names of the nodes that the optimised graph has not fused.
    """
    users = source.consumers[tensor]
    if len(users) != 1 or users[0].name in kept:
        return tensor
    after = source.get_canonical(users[0].output[0])
    if users[0].op_type == "QuantizeLinear":
        return after
    if users[0].op_type not in _ACTIVATIONS:
        return tensor
    quantised = _get_quantised(after, source, kept)
    return tensor if quantised == after else quantised


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
    """Return the source tensor after the addition that a Gemm includes, for the source node of the product."""
    product = source.get_canonical(node.output[0])
    sums = [user for user in source.consumers[product] if user.op_type == "Add"]
    return source.get_canonical(sums[0].output[0]) if sums else product
