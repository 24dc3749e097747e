"""Graphs, tensors and names of an ONNX model, sub-graphs included."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
"""Domains of ONNX's own operators; the first two are the same."""
HARDWARE_DOMAINS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains of the operators that ONNX Runtime optimises a model to, for one kind of hardware."""
ORT_DOMAINS = ("com.microsoft", *HARDWARE_DOMAINS)
"""Domains of ONNX Runtime's own operators."""


@dataclass
class RawModel:
    """Model while it is read.

    Attributes:
        model: Decoded model, changed in place.
        where: Path of the file, or another name for messages.
        remarks: What was bound, chosen or assumed.
        changed: True if the model differs from the file.
        bound: Shapes of the inputs whose dynamic axes were bound, for messages.
    """

    model: Any
    where: str
    remarks: list[str] = field(default_factory=list)
    changed: bool = False
    bound: str = ""

    def change(self, remark: str | None = None) -> None:
        """Record that the model was changed, with a remark for the user."""
        self.changed = True
        if remark is not None:
            self.remarks.append(remark)


def list_subgraphs(node: Any) -> list[Any]:
    """Return the graphs in the attributes of a node, such as the branches of `If`."""
    attributes = node.attribute
    return [graph for entry in attributes for graph in (*([entry.g] if entry.HasField("g") else ()), *entry.graphs)]


def walk_graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and all graphs inside."""
    yield graph
    for node in graph.node:
        for inner in list_subgraphs(node):
            yield from walk_graphs(inner)


def walk_nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes of a model, of its sub-graphs and of its functions."""
    for graph in (model.graph, *model.functions):
        for inner in walk_graphs(graph):
            yield from inner.node


def walk_tensors(model: Any) -> Iterator[Any]:
    """Yield the weights and constants of a model, of its sub-graphs and of its functions."""
    for root in (model.graph, *model.functions):
        for graph in walk_graphs(root):
            if graph is not root or root is model.graph:  # functions have no weights
                yield from graph.initializer
                for sparse in graph.sparse_initializer:
                    yield from (sparse.values, sparse.indices)
            for node in graph.node:
                for attribute in node.attribute:
                    yield from (tensor for tensor in (attribute.t, *attribute.tensors) if tensor.data_type)


def list_names(node: Any) -> set[str]:
    """Return the names of the tensors that a node reads, in its sub-graphs too."""
    names = set(node.input)
    for graph in list_subgraphs(node):
        names |= {output.name for output in graph.output}
        names |= {name for inner in graph.node for name in list_names(inner)}
    return names - {""}


def name_nodes(graph: Any) -> bool:
    """Give the nodes of a graph different names, and return True if some got one; unique names are unchanged."""
    taken, seen = {node.name for node in graph.node}, {""}
    is_changed = False
    for index, node in enumerate(graph.node):
        if node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name, is_changed = name, True
            taken.add(name)
        seen.add(node.name)
    return is_changed


def list_custom_operators(model: Any) -> list[str]:
    """Return the operators that neither ONNX nor ONNX Runtime defines, as `domain::name`."""
    own = {(function.domain, function.name) for function in model.functions}
    known = {*STANDARD_DOMAINS, *ORT_DOMAINS}
    custom = (node for node in walk_nodes(model) if node.domain not in known)
    return list(dict.fromkeys(f"{n.domain}::{n.op_type}" for n in custom if (n.domain, n.op_type) not in own))


def keep_outputs(graph: Any, names: Collection[str]) -> None:
    """Remove the nodes, weights and inputs that the tensors `names` do not depend on."""
    producers = {name: node for node in graph.node for name in node.output}
    needed, pending = set(names), list(names)
    while pending:
        node = producers.get(pending.pop())
        fresh = set() if node is None else list_names(node) - needed
        needed |= fresh
        pending += fresh
    for entries, kept in (
        (graph.node, [node for node in graph.node if needed & set(node.output)]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.sparse_initializer, [each for each in graph.sparse_initializer if each.values.name in needed]),
        (graph.input, [value for value in graph.input if value.name in needed]),
    ):
        del entries[:]
        entries.extend(kept)
