"""Cells of the supernet, with all candidates on each edge, and of the final network, with one: the same classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..space.lgcnet.plan import CellLayout
from ..space.operators import ZERO
from .layers import StridedUpsample


class Operation(Protocol):
    """Operator of a layout: an `OpSpec`, or an `OpTemplate` with open widths."""

    @property
    def operator(self) -> str: ...  # noqa: D102
    @property
    def stride(self) -> int: ...  # noqa: D102


Op = TypeVar("Op", bound=Operation)


class Edge(nn.Module, Generic[Op]):
    """Searched edge with one candidate operator, or several of which each forward pass runs one.

    State-dict keys contain the operator's name, so that a final network can load a supernet's weights.
    """

    def __init__(self, candidates: Sequence[Op], build: Callable[[Op], nn.Module]) -> None:
        super().__init__()
        self.names = tuple(each.operator for each in candidates)
        self.ops = nn.ModuleDict({each.operator: build(each) for each in candidates if each.operator != ZERO})

    def forward(self, x: Tensor, path: EdgePath | None = None) -> Tensor | None:
        """Apply the chosen candidate, by default the first one; return None for `zero`.

        A rival adds nothing to the output, but a gradient to its gate.
        """
        if path is None:
            return self._compute(x, 0)
        out = self._compute(x, path.choice)
        if path.gate is None:
            return out
        out = None if out is None else out * path.gate.to(out.dtype)
        if path.rival is None or path.rival_gate is None:
            return out
        with torch.no_grad():
            other = self._compute(x, path.rival)
        if other is None:
            return out
        other = other * path.rival_gate.to(other.dtype)
        return other if out is None else out + other

    def _compute(self, x: Tensor, index: int) -> Tensor | None:
        name = self.names[index]
        if name == ZERO:
            return None
        out: Tensor = self.ops[name](x)
        return out


@dataclass(frozen=True)
class EdgePath:
    """Chosen candidate of an edge of a supernet, and its gradient to the architecture parameters (straight-through).

    Attributes:
        choice: Index of the candidate.
        gate: Scalar of value 1 that multiplies its output; None without architecture gradients.
        rival: Index of a second candidate; None without.
        rival_gate: Scalar of value 0 that multiplies the rival's output.
    """

    choice: int
    gate: Tensor | None = None
    rival: int | None = None
    rival_gate: Tensor | None = None


CellPath = Sequence[EdgePath]
"""Path through a cell: one entry an edge."""


class Cell(nn.Module, Generic[Op]):
    """Cell that projects its inputs, sums the edges into each node and concatenates the nodes.

    Args:
        plan: Shapes and edges.
        choices: Operator name of every edge; None puts all candidates on every edge.
        build: Function from an operator to its module.
    """

    def __init__(self, plan: CellLayout[Op], choices: Sequence[str] | None, build: Callable[[Op], nn.Module]) -> None:
        super().__init__()
        self.plan = plan
        self.project = nn.ModuleList(build(source.project) for source in plan.inputs)
        self.edges = nn.ModuleList()
        for index, edge in enumerate(plan.edges):
            kept = edge.candidates if choices is None else [s for s in edge.candidates if s.operator == choices[index]]
            self.edges.append(Edge(kept, build))
        self.concat = build(plan.concat)

    def forward(self, features: Sequence[Tensor], path: CellPath | None = None) -> Tensor:
        """Compute the cell.

        Args:
            features: All features of the network so far, [N, C_i, H_i, W_i] each; the plan selects the inputs.
            path: Candidates to run; required if edges have several.

        Returns:
            [N, nodes * channels, H, W].
        """
        states = self.inputs(features)
        for node in range(self.plan.nodes):
            states.append(self._node(node, states, path))
        out: Tensor = self.concat(*states[len(self.plan.inputs) :])
        return out

    def inputs(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs, projected to the cell's width."""
        return [
            project(features[source.feature]) for project, source in zip(self.project, self.plan.inputs, strict=True)
        ]

    def _node(self, node: int, states: list[Tensor], path: CellPath | None) -> Tensor:
        """Sum the edges into `node`; zeros if all are `zero`, which only a sampled path may have."""
        total: Tensor | None = None
        for index in self.plan.edges_into(node):
            source = states[self.plan.edges[index].source]
            out = self.edges[index](source, None if path is None else path[index])
            if out is not None:
                total = out if total is None else total + out
        if total is not None:
            return total
        batch, channels = states[0].shape[:2]
        return torch.zeros(batch, channels, *self._size(states), device=states[0].device, dtype=states[0].dtype)

    def _size(self, states: list[Tensor]) -> tuple[int, int]:
        """Return the nodes' height and width for the given inputs, whose size may differ from the plan's."""
        first = self.plan.edges[0].candidates[0]
        height, width = states[0].shape[-2:]
        return -(-height // first.stride), -(-width // first.stride)


class FusionCell(Cell[Op]):
    """Densely connected fusion cell, whose inputs come from every level and are resized to one resolution."""

    def __init__(self, plan: CellLayout[Op], choices: Sequence[str] | None, build: Callable[[Op], nn.Module]) -> None:
        super().__init__(plan, choices, build)
        self.resize = nn.ModuleList(
            nn.Identity() if source.resize is None else build(source.resize) for source in plan.inputs
        )

    def inputs(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs, projected, then resized to the cell's resolution; see `lgcnet.layout`."""
        projected = super().inputs(features)
        sizes = [x.shape[-2:] for x, source in zip(projected, self.plan.inputs, strict=True) if source.resize is None]
        return [
            resize(x, (int(sizes[0][0]), int(sizes[0][1]))) if isinstance(resize, StridedUpsample) else resize(x)
            for resize, x in zip(self.resize, projected, strict=True)
        ]
