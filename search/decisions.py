"""The decisions of a search: one operator for each free edge, or one for all edges that share it.

Symbols, used wherever architectures are handled as arrays:

    E  edges of the network              G  decisions: free edges, counted once where cells share them
    O  operators of the space            N  architectures in a batch
    D  endpoints: nodes and inputs of cells, each of which needs a live edge
    choices [N, G]  index of the operator chosen at each decision
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..models.space.lgcnet import SearchSpace
from ..models.space.operators import ZERO, Conv, get_recipe
from ..models.space.plan import CellPlan

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DecisionBlock:
    """The decisions of one cell, or of all cells that share their architecture parameters.

    Attributes:
        name: name of the cell, or of the group of cells.
        cells: indices of the cells in the plan's `searched`.
        plan: plan of the first cell.
    """

    name: str
    cells: tuple[int, ...]
    plan: CellPlan


class Decisions:
    """All decisions of a search, block by block.

    Args:
        space: search space.
        shared: Merge all normal cells into one block and all reduction cells into another, as in DARTS
            (arXiv 1806.09055), the papers' baseline for independent cells.
        fixed_fusion: Leave the fusion cell out of the search; see `make_fixed_fusion`.

    Attributes:
        blocks: blocks in the order of their decisions.
        block_sizes: number of decisions of each block.
        num_decisions: G.
        edge_decisions: decision of each edge, [E]; -1 for an edge of a fixed fusion cell.
        fusion_choices: operators of a fixed fusion cell; None if it is searched.
        zero: index of the operator `zero`; None if the space has none.
    """

    def __init__(self, space: SearchSpace, *, shared: bool = False, fixed_fusion: bool = False) -> None:
        self.space = space
        plan = space.plan
        if shared:
            strides = [cell.edges[0].candidates[0].stride for cell in plan.cells]
            groups = {stride: tuple(i for i, other in enumerate(strides) if other == stride) for stride in strides}
            names = {1: "normal cells"}
            blocks = [
                DecisionBlock(names.get(stride, "reduction cells"), cells, plan.cells[cells[0]])
                for stride, cells in groups.items()
            ]
        else:
            blocks = [DecisionBlock(cell.name, (index,), cell) for index, cell in enumerate(plan.cells)]
        self.fusion_choices = make_fixed_fusion(space) if fixed_fusion else None
        if self.fusion_choices is None:
            blocks.append(DecisionBlock(plan.fusion.name, (len(plan.cells),), plan.fusion))
        self.blocks: tuple[DecisionBlock, ...] = tuple(blocks)
        self.block_sizes = [len(block.plan.edges) for block in blocks]
        self.num_decisions = sum(self.block_sizes)
        self.edge_decisions = self._index_edges()
        self.zero = space.operators.index(ZERO) if ZERO in space.operators else None

    def _index_edges(self) -> Indices:
        starts = np.cumsum([0, *self.block_sizes[:-1]])
        cell_starts = {cell: start for block, start in zip(self.blocks, starts, strict=True) for cell in block.cells}
        rows = [
            np.arange(len(cell.edges)) + cell_starts[index] if index in cell_starts else np.full(len(cell.edges), -1)
            for index, cell in enumerate(self.space.plan.searched_cells)
        ]
        return np.concatenate(rows).astype(np.int64)

    def expand(self, choices: Indices) -> Indices:
        """Return the operators of all edges, [N, E], for choices [N, G]."""
        edges = choices[:, self.edge_decisions]
        if self.fusion_choices is not None:
            edges[:, self.edge_decisions < 0] = self.fusion_choices
        return edges

    def sum_edges(self, edge_values: Array) -> tuple[Array, float]:
        """Sum values [E, O] over the edges of each decision: return [G, O], and the sum over fixed edges."""
        free = self.edge_decisions >= 0
        total = np.zeros((self.num_decisions, edge_values.shape[1]))
        np.add.at(total, self.edge_decisions[free], edge_values[free])
        if self.fusion_choices is None:
            return total, 0.0
        return total, float(edge_values[~free][np.arange(len(self.fusion_choices)), self.fusion_choices].sum())

    @cached_property
    def endpoints(self) -> Mask:
        """Decisions whose edge touches each endpoint, [D, G]."""
        rows, start = [], 0
        for block, size in zip(self.blocks, self.block_sizes, strict=True):
            touched = [{("node", edge.node), ("state", edge.source)} for edge in block.plan.edges]
            endpoints = [("node", node) for node in range(block.plan.nodes)]
            endpoints += [("state", source) for source in range(len(block.plan.inputs))]
            for endpoint in endpoints:
                row = np.zeros(self.num_decisions, bool)
                row[start : start + size] = [endpoint in both for both in touched]
                rows.append(row)
            start += size
        return np.array(rows)

    def find_required(self, choices: Indices) -> Mask:
        """Return live decisions that are the only live one at some endpoint: [N, G] -> [N, G]."""
        live = self.find_live(choices)
        sole = (live @ self.endpoints.T.astype(np.int64)) == 1
        required: Mask = live & ((sole.astype(np.int64) @ self.endpoints) > 0)
        return required

    def find_live(self, choices: Indices) -> Mask:
        """Return decisions whose operator is not `zero`: [N, G] -> [N, G]."""
        return np.ones(choices.shape, bool) if self.zero is None else choices != self.zero

    def repair(self, choices: Indices, preference: Array) -> Indices:
        """Give each dead endpoint a live operator, at the decision where that costs the smallest preference.

        Args:
            choices: operators, [N, G].
            preference: preference for each operator, e.g. log-probabilities, [G, O] or [N, G, O].

        Returns:
            Valid choices, [N, G]; rows without a dead endpoint are unchanged.
        """
        if self.zero is None:
            return choices
        repaired = choices.copy()
        scores = np.broadcast_to(preference, (len(choices), *preference.shape[-2:]))
        live_scores = scores.copy()
        live_scores[..., self.zero] = -np.inf
        gain = live_scores.max(axis=2) - scores[..., self.zero]
        for endpoint in self.endpoints:
            dead = ~self.find_live(repaired)[:, endpoint].any(axis=1)
            if dead.any():
                decision = np.where(endpoint, gain[dead], -np.inf).argmax(axis=1)
                repaired[np.flatnonzero(dead), decision] = live_scores[dead, decision].argmax(axis=1)
        return repaired


def make_fixed_fusion(space: SearchSpace) -> Indices:
    """Return the operators of a fusion cell that is not searched: it sums its inputs and convolves its nodes.

    Edges from inputs are `skip`; edges between nodes are the space's first convolution. Without `skip`, all edges are
    that convolution.
    """
    plan = space.plan.fusion
    convolutions = [
        index
        for index, spec in enumerate(plan.edges[0].candidates)
        if any(isinstance(layer, Conv) for layer in get_recipe(spec))
    ]
    live = [index for index, name in enumerate(space.operators) if name != ZERO]
    convolution = (convolutions or live)[0]
    light = space.operators.index("skip") if "skip" in space.operators else convolution
    return np.array([light if edge.source < len(plan.inputs) else convolution for edge in plan.edges], np.int64)
