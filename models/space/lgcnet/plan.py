"""Plan of a network: the operators that it computes, in order, before any is chosen. Imports no torch.

A layout is a plan of any kind of operator: of `OpTemplate` while widths are open, of `OpSpec` once they are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..operators import ZERO
from ..opspec import OpSpec
from ..protocol import CORE, DENSE, Decision, Requirement, Slot
from .widths import OpTemplate

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class EdgeLayout(Generic[T]):
    """Searched edge of a cell, from a state to an intermediate node.

    Attributes:
        source: Index of the source state: inputs first, then nodes.
        node: Index of the target node.
        candidates: One operator per choice.
    """

    source: int
    node: int
    candidates: tuple[T, ...]


@dataclass(frozen=True)
class InputLayout(Generic[T]):
    """Input of a cell.

    Attributes:
        feature: Index of the feature in the network; 0 is the stem's output.
        project: Projection to the cell's width.
        resize: Interpolation to the cell's resolution after the projection; None where the sizes are equal.
    """

    feature: int
    project: T
    resize: T | None = None


@dataclass(frozen=True)
class CellLayout(Generic[T]):
    """Cell: inputs, densely connected intermediate nodes, and the concatenation of the nodes as output."""

    name: str
    inputs: tuple[InputLayout[T], ...]
    nodes: int
    edges: tuple[EdgeLayout[T], ...]
    add: T
    concat: T

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

    def map(self, function: Callable[[T], U]) -> CellLayout[U]:
        """Return the layout of the function of each operator."""
        return CellLayout(
            self.name,
            tuple(
                InputLayout(
                    source.feature,
                    function(source.project),
                    None if source.resize is None else function(source.resize),
                )
                for source in self.inputs
            ),
            self.nodes,
            tuple(EdgeLayout(edge.source, edge.node, tuple(map(function, edge.candidates))) for edge in self.edges),
            function(self.add),
            function(self.concat),
        )


@dataclass(frozen=True)
class NetworkLayout(Generic[T]):
    """Whole network, from image to labels."""

    stem: tuple[T, ...]
    cells: tuple[CellLayout[T], ...]
    fusion: CellLayout[T]
    head: tuple[T, ...]
    dense: tuple[T, ...]

    @property
    def searched_cells(self) -> tuple[CellLayout[T], ...]:
        """Cells with searched edges, in the order of an architecture's choices: the backbone's, then the fusion."""
        return (*self.cells, self.fusion)

    def map(self, function: Callable[[T], U]) -> NetworkLayout[U]:
        """Return the layout of the function of each operator."""
        return NetworkLayout(
            tuple(map(function, self.stem)),
            tuple(cell.map(function) for cell in self.cells),
            self.fusion.map(function),
            tuple(map(function, self.head)),
            tuple(map(function, self.dense)),
        )

    def requirements(self) -> Iterator[Requirement]:
        """Yield the conditions of a valid network, cell by cell."""
        first = 0
        for cell in self.searched_cells:
            yield from cell.requirements(first)
            first += len(cell.edges)


EdgePlan = EdgeLayout[OpSpec]
InputPlan = InputLayout[OpSpec]
CellPlan = CellLayout[OpSpec]
NetworkPlan = NetworkLayout[OpSpec]
NetworkTemplate = NetworkLayout[OpTemplate]


def list_edge_decisions(layout: NetworkTemplate) -> Iterator[Decision]:
    """Yield an operator for each searched edge, without the widths, which are the last decisions."""
    for cell in layout.searched_cells:
        for edge in cell.edges:
            yield Decision(f"{cell.name}/{edge_name(cell, edge)}", tuple(each.operator for each in edge.candidates))


def list_slots(layout: NetworkTemplate, widths: Sequence[Decision]) -> Iterator[Slot]:
    """Yield every slot of a network in the order of computation."""
    edges = sum(len(cell.edges) for cell in layout.searched_cells)

    def make_slot(name: str, template: OpTemplate, sums: tuple[int, ...] = (), scope: str = CORE) -> Slot:
        decisions = tuple(edges + index for index in template.decisions)
        return Slot(name, template.list_specs(widths), decisions, sums, scope)

    for index, template in enumerate(layout.stem):
        yield make_slot(f"stem/{index}", template)
    first = 0
    for cell in layout.searched_cells:
        for index, source in enumerate(cell.inputs):
            yield make_slot(f"{cell.name}/in{index}/project", source.project)
            if source.resize is not None:
                yield make_slot(f"{cell.name}/in{index}/resize", source.resize)
        for index, edge in enumerate(cell.edges):
            specs = tuple(spec for template in edge.candidates for spec in template.list_specs(widths))
            decisions = (first + index, *(edges + width for width in edge.candidates[0].decisions))
            yield Slot(f"{cell.name}/{edge_name(cell, edge)}", specs, decisions)
        for node in range(cell.nodes):
            yield make_slot(f"{cell.name}/n{node}/add", cell.add, tuple(first + e for e in cell.edges_into(node)))
        yield make_slot(f"{cell.name}/concat", cell.concat)
        first += len(cell.edges)
    for index, template in enumerate(layout.head):
        yield make_slot(f"head/{index}", template)
    for template in layout.dense:
        yield make_slot(f"{DENSE}/{template.operator}", template, scope=DENSE)


def find_stride(plan: NetworkPlan) -> int:
    """Return the ratio of the input size to the coarsest feature's size, the fusion's included."""
    coarsest = max(-(-plan.stem[0].height // cell.concat.height) for cell in plan.searched_cells)
    return 1 << (coarsest - 1).bit_length()


def edge_name(cell: CellLayout[T], edge: EdgeLayout[T]) -> str:
    """Return an edge's name within its cell, target first: `n1<in0`, `n1<n0`."""
    inputs = len(cell.inputs)
    source = f"in{edge.source}" if edge.source < inputs else f"n{edge.source - inputs}"
    return f"n{edge.node}<{source}"
