"""Plan of a network: the OpSpecs that it computes, in order, before operators are chosen. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..operators import ZERO
from ..opspec import OpSpec
from ..protocol import DENSE, Decision, Requirement, Slot


@dataclass(frozen=True)
class EdgePlan:
    """Searched edge of a cell, from a state to an intermediate node.

    Attributes:
        source: Index of the source state: inputs first, then nodes.
        node: Index of the target node.
        candidates: One OpSpec per operator of the space.
    """

    source: int
    node: int
    candidates: tuple[OpSpec, ...]


@dataclass(frozen=True)
class InputPlan:
    """Input of a cell.

    Attributes:
        feature: Index of the feature in the network; 0 is the stem's output.
        project: Projection to the cell's width.
        resize: Interpolation to the cell's resolution after the projection; None where the sizes are equal.
    """

    feature: int
    project: OpSpec
    resize: OpSpec | None = None


@dataclass(frozen=True)
class CellPlan:
    """Cell: inputs, densely connected intermediate nodes, and the concatenation of the nodes as output."""

    name: str
    inputs: tuple[InputPlan, ...]
    nodes: int
    edges: tuple[EdgePlan, ...]
    add: OpSpec
    concat: OpSpec

    def edges_into(self, node: int) -> list[int]:
        """Return the indices of the edges that end in `node`, within the cell."""
        return [index for index, edge in enumerate(self.edges) if edge.node == node]

    def requirements(self, first: int = 0) -> Iterator[Requirement]:
        """Yield the conditions of a valid cell whose first edge has index `first` in the network.

        Each intermediate node needs an incoming edge other than `zero`, and each input an outgoing one. Otherwise
        projections, or whole cells, would be computed, and count towards the latency, without affecting the output.
        """
        for node in range(self.nodes):
            edges = tuple(first + edge for edge in self.edges_into(node))
            yield Requirement(edges, f"{self.name}: node {node} has no input, all its edges are {ZERO}")
        for source in range(len(self.inputs)):
            edges = tuple(first + index for index, edge in enumerate(self.edges) if edge.source == source)
            yield Requirement(edges, f"{self.name}: input {source} is not used, all its edges are {ZERO}")

    def find_fault(self, operators: Sequence[str]) -> str | None:
        """Return why these operators, one per edge, make an invalid cell; None if the cell is valid."""
        dead = (each.fault for each in self.requirements() if all(operators[edge] == ZERO for edge in each.decisions))
        return next(dead, None)


@dataclass(frozen=True)
class NetworkPlan:
    """Whole network, from image to labels, with one head per width of the space's `heads`."""

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
        """Ratio of the input size to the coarsest feature's size; sides of training crops must be multiples of it."""
        coarsest = max(-(-self.stem[0].height // cell.concat.height) for cell in self.cells)
        return 1 << (coarsest - 1).bit_length()

    def decisions(self) -> Iterator[Decision]:
        """Yield an operator for each searched edge, without the head's width, which is the last decision."""
        for cell in self.searched_cells:
            for edge in cell.edges:
                operators = tuple(spec.operator for spec in edge.candidates)
                yield Decision(f"{cell.name}/{edge_name(cell, edge)}", operators)

    def requirements(self) -> Iterator[Requirement]:
        """Yield the conditions of a valid network, cell by cell."""
        first = 0
        for cell in self.searched_cells:
            yield from cell.requirements(first)
            first += len(cell.edges)

    def slots(self) -> Iterator[Slot]:
        """Yield every slot of the network in the order of computation."""
        for index, spec in enumerate(self.stem):
            yield Slot(f"stem/{index}", (spec,))
        first = 0
        for cell in self.searched_cells:
            yield from _cell_slots(cell, first)
            first += len(cell.edges)
        for index, specs in enumerate(zip(*self.heads, strict=True)):
            yield Slot(f"head/{index}", specs, decisions=(first,))
        for spec in self.dense:
            yield Slot(f"{DENSE}/{spec.operator}", (spec,), scope=DENSE)


def _cell_slots(cell: CellPlan, first: int) -> Iterator[Slot]:
    """Yield the slots of a cell whose first edge has index `first` in the network."""
    for index, source in enumerate(cell.inputs):
        yield Slot(f"{cell.name}/in{index}/project", (source.project,))
        if source.resize is not None:
            yield Slot(f"{cell.name}/in{index}/resize", (source.resize,))
    for index, edge in enumerate(cell.edges):
        yield Slot(f"{cell.name}/{edge_name(cell, edge)}", edge.candidates, decisions=(first + index,))
    for node in range(cell.nodes):
        yield Slot(f"{cell.name}/n{node}/add", (cell.add,), sums=tuple(first + e for e in cell.edges_into(node)))
    yield Slot(f"{cell.name}/concat", (cell.concat,))


def edge_name(cell: CellPlan, edge: EdgePlan) -> str:
    """Return an edge's name within its cell, target first: `n1<in0`, `n1<n0`."""
    inputs = len(cell.inputs)
    source = f"in{edge.source}" if edge.source < inputs else f"n{edge.source - inputs}"
    return f"n{edge.node}<{source}"
