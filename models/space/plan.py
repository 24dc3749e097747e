"""The plan of a network: what is computed where, as OpSpecs, before anybody chooses operators or imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .operators import ZERO
from .opspec import OpSpec, strided_length

if TYPE_CHECKING:
    from .space import SearchSpace

CORE, DENSE = "core", "dense"
SCOPES = (CORE, DENSE)
"""core: image tensor to native-stride logits. dense: core, upsampling to the input's size and argmax."""
END_TO_END = "end-to-end"
EXPORT_SCOPES = (*SCOPES, END_TO_END)
"""end-to-end: from the image on the host, bytes, to the classes on the host; no table covers what it has over dense."""


@dataclass(frozen=True)
class EdgePlan:
    """A searched edge from state `source` of a cell (inputs first, then nodes) to its intermediate node `node`."""

    source: int
    node: int
    candidates: tuple[OpSpec, ...]


@dataclass(frozen=True)
class InputPlan:
    """An input of a cell: which feature of the network (0 is the stem's), how it is projected and resized."""

    feature: int
    project: OpSpec
    resize: OpSpec | None = None


@dataclass(frozen=True)
class CellPlan:
    """A cell: inputs, densely connected intermediate nodes, a concatenation of the nodes as output."""

    name: str
    inputs: tuple[InputPlan, ...]
    nodes: int
    edges: tuple[EdgePlan, ...]
    add: OpSpec
    concat: OpSpec

    def edges_into(self, node: int) -> list[int]:
        """Indices, within the cell, of the edges that end in `node`."""
        return [index for index, edge in enumerate(self.edges) if edge.node == node]

    def find_fault(self, choices: Sequence[str]) -> str | None:
        """Why these operators, one for each edge, leave something dead; None if they do not.

        Every intermediate node needs an edge that is not `zero`, and every input must feed one: else projections, or
        whole cells, would be counted in a latency and computed for nothing.
        """
        live = [edge for edge, name in zip(self.edges, choices, strict=True) if name != ZERO]
        for node in sorted(set(range(self.nodes)) - {edge.node for edge in live}):
            return f"{self.name}: node {node} has no input, all its edges are {ZERO}"
        for source in sorted(set(range(len(self.inputs))) - {edge.source for edge in live}):
            return f"{self.name}: input {source} is not used, all its edges are {ZERO}"
        return None


@dataclass(frozen=True)
class Slot:
    """A place in the network and what may stand there.

    Attributes:
        name: where it is, say `cell3/n1<in0`.
        candidates: the OpSpecs of a searched edge, of the head at each width, or the only one.
        edge: index of the searched edge in the network, None for what is not searched.
        sums: edges of the network that an addition slot sums up; it is computed once for each live one but the first.
        scope: `dense` if it is outside the core, else `core`.
        head: whether it belongs to the head; its candidates are those of `SearchSpace.heads`, in that order.
    """

    name: str
    candidates: tuple[OpSpec, ...]
    edge: int | None = None
    sums: tuple[int, ...] = ()
    scope: str = CORE
    head: bool = False


@dataclass(frozen=True)
class NetworkPlan:
    """A whole network, from image to labels; one head for each width of `SearchSpace.heads`."""

    stem: tuple[OpSpec, ...]
    cells: tuple[CellPlan, ...]
    fusion: CellPlan
    heads: tuple[tuple[OpSpec, ...], ...]
    dense: tuple[OpSpec, ...]

    @property
    def searched_cells(self) -> tuple[CellPlan, ...]:
        """Cells with searched edges, in the order of an architecture's choices: the backbone's, then the fusion."""
        return (*self.cells, self.fusion)

    @property
    def stride(self) -> int:
        """Factor between the input and the coarsest feature: crops must be multiples of it."""
        coarsest = max(-(-self.stem[0].height // cell.concat.height) for cell in self.cells)
        return 1 << (coarsest - 1).bit_length()

    def slots(self) -> Iterator[Slot]:
        """Every slot of the network, in the order of computation."""
        for index, spec in enumerate(self.stem):
            yield Slot(f"stem/{index}", (spec,))
        first = 0
        for cell in self.searched_cells:
            yield from _cell_slots(cell, first)
            first += len(cell.edges)
        for index, specs in enumerate(zip(*self.heads, strict=True)):
            yield Slot(f"head/{index}", specs, head=True)
        for spec in self.dense:
            yield Slot(f"{DENSE}/{spec.operator}", (spec,), scope=DENSE)


def _cell_slots(cell: CellPlan, first: int) -> Iterator[Slot]:
    """Slots of a cell whose edges are counted from `first` in the network."""
    for index, source in enumerate(cell.inputs):
        yield Slot(f"{cell.name}/in{index}/project", (source.project,))
        if source.resize is not None:
            yield Slot(f"{cell.name}/in{index}/resize", (source.resize,))
    for index, edge in enumerate(cell.edges):
        yield Slot(f"{cell.name}/{edge_name(cell, edge)}", edge.candidates, edge=first + index)
    for node in range(cell.nodes):
        yield Slot(f"{cell.name}/n{node}/add", (cell.add,), sums=tuple(first + e for e in cell.edges_into(node)))
    yield Slot(f"{cell.name}/concat", (cell.concat,))


def edge_name(cell: CellPlan, edge: EdgePlan) -> str:
    """Name of an edge inside its cell, target first: `n1<in0`, `n1<n0`."""
    inputs = len(cell.inputs)
    source = f"in{edge.source}" if edge.source < inputs else f"n{edge.source - inputs}"
    return f"n{edge.node}<{source}"


@dataclass(frozen=True)
class _Feature:
    """An output of the stem or of a cell, as later cells see it."""

    channels: int
    height: int
    width: int
    level: int

    @classmethod
    def at(cls, space: SearchSpace, level: int, channels: int) -> _Feature:
        """A feature at 1 / 2**level of the input's size."""
        height, width = (strided_length(length, 2**level) for length in space.input)
        return cls(channels, height, width, level)


def plan_network(space: SearchSpace) -> NetworkPlan:
    """Lay out the whole network of `space`."""
    stem, level, channels = [], 0, 3
    for stride in space.stem.strides:
        here = _Feature.at(space, level, channels)
        stem.append(OpSpec("conv_3x3", channels, space.stem.channels, here.height, here.width, stride))
        level, channels = level + stride - 1, space.stem.channels
    features = [_Feature.at(space, level, channels)]
    cells = []
    for index in range(space.cells):
        cell, output = _backbone_cell(space, index, features)
        cells.append(cell)
        features.append(output)
    fusion, fused = _fusion_cell(space, features)
    heads = tuple(
        (
            OpSpec("conv_3x3", fused.channels, width, fused.height, fused.width),
            OpSpec("classifier", width, space.classes, fused.height, fused.width),
        )
        for width in space.heads
    )
    dense = (
        OpSpec("upsample", space.classes, space.classes, *space.input, 2**fused.level),
        OpSpec("argmax", space.classes, 1, *space.input),
    )
    return NetworkPlan(tuple(stem), tuple(cells), fusion, heads, dense)


def _backbone_cell(space: SearchSpace, index: int, features: list[_Feature]) -> tuple[CellPlan, _Feature]:
    """Cell `index` and its output; its inputs are the last two features, brought to one width and resolution."""
    sources = [max(index - 1, 0), index]
    finest = features[index]
    reduces = index in space.reductions
    width = space.channels * 2 ** (finest.level + reduces - features[0].level)
    inputs = tuple(_project(source, features[source], width, finest.level) for source in sources)
    output = _Feature.at(space, finest.level + reduces, width * space.nodes)
    cell = _cell(f"cell{index}", space, inputs, space.nodes, width, finest, output)
    return cell, output


def _fusion_cell(space: SearchSpace, features: list[_Feature]) -> tuple[CellPlan, _Feature]:
    """The dense-connected fusion cell: inputs are the last feature of each level, at the fusion's resolution."""
    last_of_level = {feature.level: index for index, feature in enumerate(features)}
    level, width = space.fusion.level, space.fusion.channels
    inputs = []
    for index in sorted(last_of_level.values()):
        feature = features[index]
        resize = None
        if feature.level > level:
            at = _Feature.at(space, level, width)
            resize = OpSpec("upsample", width, width, at.height, at.width, 2 ** (feature.level - level))
        elif feature.level < level:
            factor = 2 ** (level - feature.level)
            resize = OpSpec("downsample", width, width, feature.height, feature.width, factor)
        inputs.append(InputPlan(index, _project(index, feature, width, feature.level).project, resize))
    here = _Feature.at(space, level, width * space.fusion.nodes)
    return _cell("fusion", space, tuple(inputs), space.fusion.nodes, width, here, here), here


def _project(index: int, feature: _Feature, width: int, level: int) -> InputPlan:
    """Bring feature `index` to `width` channels at `level` with a 1x1 convolution, strided where it is finer."""
    stride = 2 ** (level - feature.level)
    return InputPlan(index, OpSpec("conv_1x1", feature.channels, width, feature.height, feature.width, stride))


def _cell(
    name: str,
    space: SearchSpace,
    inputs: tuple[InputPlan, ...],
    nodes: int,
    width: int,
    source: _Feature,
    output: _Feature,
) -> CellPlan:
    """A densely connected cell; every operator that touches an input takes the whole stride of the cell."""
    stride = 2 ** (output.level - source.level)
    edges = []
    for node in range(nodes):
        for state in range(len(inputs) + node):
            at, step = (source, stride) if state < len(inputs) else (output, 1)
            specs = tuple(OpSpec(op, width, width, at.height, at.width, step) for op in space.operators)
            edges.append(EdgePlan(state, node, specs))
    add = OpSpec("add", width, width, output.height, output.width)
    concat = OpSpec("concat", width, width * nodes, output.height, output.width)
    return CellPlan(name, inputs, nodes, tuple(edges), add, concat)
