"""Times of the layers of an ONNX Runtime session, and the nodes of the given model behind each of them.

The runtime optimises a graph before it runs it: convolutions take up what follows them, tensors are brought into
another layout and back. Its own profiler speaks of the optimised nodes. Of these the runtime keeps the tensors' names,
in the outputs or, where the layout is another, in the node's own name; so the given nodes behind one are found by going
back from its tensor to the tensors that other optimised nodes make.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_grouped
from typing import Any

from numpy.typing import NDArray

from ..base import LayerTime
from .session import open_session

WARM_UP = 5
"""Runs that are not counted."""
_OTHER_LAYOUT = "_nchwc"
_KERNEL = "_kernel_time"
_ADDEND = 3
"""Which input of a convolution in that layout is added to what it gives."""
_REORDERS = ("ReorderInput", "ReorderOutput")


def layer_times(
    name: str,
    model: bytes,
    provider: str,
    settings: dict[str, str],
    threads: int,
    inputs: Sequence[NDArray[Any]],
    runs: int,
) -> list[LayerTime]:
    """Median times of the optimised graph's nodes, in the order of computation.

    Args:
        name: of the model, for messages.
        model: serialised, as the session of the runner got it.
        provider: of `ort_session`, with its settings.
        settings: of the provider.
        threads: CPU threads.
        inputs: one for each input.
        runs: how many are counted.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="lgc-layers-") as folder:
        session = open_session(name, model, provider, settings, threads, profile=Path(folder))
        feed = {argument.name: array for argument, array in zip(session.get_inputs(), inputs, strict=True)}
        for _ in range(WARM_UP + runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        optimised = onnx.load(str(Path(folder) / "optimised.onnx"), load_external_data=False)
    behind = nodes_behind(onnx.load_model_from_string(model), optimised)
    durations: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            durations[event["name"].removesuffix(_KERNEL)].append(event["dur"])
    return [LayerTime(layer, behind.get(layer, ()), _median_ms(times[WARM_UP:])) for layer, times in durations.items()]


def _median_ms(durations_us: Sequence[int]) -> float:
    """The median of whole microseconds, which the profiler rounds down to: the shortest layers take but a few."""
    return (median_grouped(durations_us) + 0.5) / 1000


def nodes_behind(model: Any, optimised: Any) -> dict[str, tuple[str, ...]]:
    """Optimised node -> names of the given nodes in it, in their order.

    Equal nodes, two poolings of one tensor say, are computed once, and all behind one. Behind a change of layout is
    what made the tensor; of the network's input, what takes it.

    Args:
        model: the given graph's ModelProto, every node named.
        optimised: the optimised graph's.
    """
    graph = _Given(model.graph)
    tensors, ends = _tensors(optimised, graph)
    found: dict[str, tuple[str, ...]] = {}
    for node in optimised.graph.node:
        tensor = tensors.get(node.output[0])
        if tensor is None:
            found[node.name] = ()
        elif node.op_type in _REORDERS:
            found[node.name] = tuple(one.name for one in graph.makers.get(tensor) or graph.users[tensor])
        else:
            found[node.name] = graph.back(tensor, ends)
    return found


class _Given:
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


def _tensors(optimised: Any, graph: _Given) -> tuple[dict[str, str], set[str]]:
    """The optimised graph's tensors as the given one's, and those of them that an optimised node computes."""
    found: dict[str, str] = {}
    ends = set()
    for node in optimised.graph.node:
        output, named = node.output[0], node.name.removesuffix(_OTHER_LAYOUT)
        if node.op_type in _REORDERS:
            found[output] = found.get(node.input[0], graph.first(node.input[0]))
            continue
        if graph.made(output):
            found[output] = graph.first(output)
        elif node.name.endswith(_OTHER_LAYOUT) and graph.made(named):
            found[output] = _with_addition(node, graph.first(named), found, graph)
        elif node.name in graph.nodes:
            found[output] = graph.first(graph.nodes[node.name].output[0])
        else:
            continue
        ends.add(found[output])
    return found, ends


def _with_addition(node: Any, tensor: str, found: Mapping[str, str], graph: _Given) -> str:
    """What a convolution gives that has an addition in it, and perhaps what follows: its name tells only its own."""
    if len(node.input) < _ADDEND + 1:
        return tensor
    addend = found.get(node.input[_ADDEND], graph.first(node.input[_ADDEND]))
    sums = [user for user in graph.users[tensor] if addend in map(graph.first, user.input)]
    if not sums:
        return tensor
    total = graph.first(sums[0].output[0])
    activation = {one.s.decode() for one in node.attribute if one.name == "activation"}
    after = [user for user in graph.users[total] if user.op_type in activation]
    return graph.first(after[0].output[0]) if after else total
