"""What a search decides: the operators of which edges, separately or together.

Symbols used here and wherever architectures are handled by the thousand:

    E  edges of the network            G  decisions: edges that are free, counted once where cells share them
    O  operators of the space          N  architectures, side by side
    D  ends: nodes and inputs of cells, each of which needs a live edge
    picked [N, G]  operator of every decision      choices [N, E]  operator of every edge
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
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """Cells that have one set of architecture parameters.

    Attributes:
        name: of the cell, or of the kind of cells.
        cells: their positions in the plan's `searched`.
        plan: the first of them.
    """

    name: str
    cells: tuple[int, ...]
    plan: CellPlan


class Decisions:
    """The decisions of a search, block after block.

    Args:
        space: the search space.
        shared: all cells that keep the resolution are one block, all that halve it another (as in DARTS,
            arXiv 1806.09055, against which the papers put independent cells).
        fixed_fusion: the fusion cell is not searched; see `plain_fusion`.
    """

    def __init__(self, space: SearchSpace, *, shared: bool = False, fixed_fusion: bool = False) -> None:
        self.space = space
        plan = space.plan
        if shared:
            strides = [cell.edges[0].candidates[0].stride for cell in plan.cells]
            kinds = {stride: tuple(i for i, other in enumerate(strides) if other == stride) for stride in strides}
            names = {1: "normal cells"}
            blocks = [Decision(names.get(s, "reduction cells"), at, plan.cells[at[0]]) for s, at in kinds.items()]
        else:
            blocks = [Decision(cell.name, (index,), cell) for index, cell in enumerate(plan.cells)]
        self.fusion = None if not fixed_fusion else plain_fusion(space)
        if self.fusion is None:
            blocks.append(Decision(plan.fusion.name, (len(plan.cells),), plan.fusion))
        self.blocks: tuple[Decision, ...] = tuple(blocks)
        self.sizes = [len(block.plan.edges) for block in blocks]
        self.decisions = sum(self.sizes)
        self.decision_of_edge = self._decision_of_edge()
        """[E]; -1 for an edge of the fixed fusion."""
        self.zero = space.operators.index(ZERO) if ZERO in space.operators else None

    def _decision_of_edge(self) -> Indices:
        firsts = np.cumsum([0, *self.sizes[:-1]])
        first_of_cell = {cell: first for block, first in zip(self.blocks, firsts, strict=True) for cell in block.cells}
        rows = [
            np.arange(len(cell.edges)) + first_of_cell[index]
            if index in first_of_cell
            else np.full(len(cell.edges), -1)
            for index, cell in enumerate(self.space.plan.searched_cells)
        ]
        return np.concatenate(rows).astype(np.int64)

    def expand(self, picked: Indices) -> Indices:
        """Operators of all edges: picked [N, G] -> choices [N, E]."""
        choices = picked[:, self.decision_of_edge]
        if self.fusion is not None:
            choices[:, self.decision_of_edge < 0] = self.fusion
        return choices

    def gather(self, of_edges: Array) -> tuple[Array, float]:
        """Sum what edges have over those that are decided together: [E, O] -> [G, O], and the sum over fixed edges."""
        free = self.decision_of_edge >= 0
        total = np.zeros((self.decisions, of_edges.shape[1]))
        np.add.at(total, self.decision_of_edge[free], of_edges[free])
        fixed = 0.0 if self.fusion is None else float(of_edges[~free][np.arange(len(self.fusion)), self.fusion].sum())
        return total, fixed

    @cached_property
    def ends(self) -> Flags:
        """Which decision keeps which end alive, [D, G]."""
        rows, first = [], 0
        for block, size in zip(self.blocks, self.sizes, strict=True):
            touched = [{("node", edge.node), ("state", edge.source)} for edge in block.plan.edges]
            ends = [("node", node) for node in range(block.plan.nodes)]
            ends += [("state", source) for source in range(len(block.plan.inputs))]
            for end in ends:
                row = np.zeros(self.decisions, bool)
                row[first : first + size] = [end in both for both in touched]
                rows.append(row)
            first += size
        return np.array(rows)

    def needed(self, picked: Indices) -> Flags:
        """Live decisions that some end has no other than: [N, G] -> [N, G]."""
        live = self.live(picked)
        sole = (live @ self.ends.T.astype(np.int64)) == 1
        needed: Flags = live & ((sole.astype(np.int64) @ self.ends) > 0)
        return needed

    def live(self, picked: Indices) -> Flags:
        """Decisions that are not zero: [N, G] -> [N, G]."""
        return np.ones(picked.shape, bool) if self.zero is None else picked != self.zero

    def repaired(self, picked: Indices, preference: Array) -> Indices:
        """Give every end a live decision: the preferred operator where it costs the least preference.

        Args:
            picked: [N, G].
            preference: of operators, say log-probabilities, [G, O] or [N, G, O].

        Returns:
            [N, G]; rows without a dead end as they were.
        """
        if self.zero is None:
            return picked
        fixed = picked.copy()
        wanted = np.broadcast_to(preference, (len(picked), *preference.shape[-2:]))
        alive = wanted.copy()
        alive[..., self.zero] = -np.inf
        gain = alive.max(axis=2) - wanted[..., self.zero]
        for end in self.ends:
            dead = ~self.live(fixed)[:, end].any(axis=1)
            if dead.any():
                at = np.where(end, gain[dead], -np.inf).argmax(axis=1)
                fixed[np.flatnonzero(dead), at] = alive[dead, at].argmax(axis=1)
        return fixed


def plain_fusion(space: SearchSpace) -> Indices:
    """Operators of a fusion cell that nobody searched: levels are summed, later nodes convolve the earlier ones.

    Edges from inputs pass on (`skip`), those between nodes are the space's first convolution; without `skip`, all are.
    """
    plan = space.plan.fusion
    convolutions = [
        index
        for index, spec in enumerate(plan.edges[0].candidates)
        if any(isinstance(layer, Conv) for layer in get_recipe(spec))
    ]
    live = [index for index, name in enumerate(space.operators) if name != ZERO]
    heavy = (convolutions or live)[0]
    light = space.operators.index("skip") if "skip" in space.operators else heavy
    return np.array([light if edge.source < len(plan.inputs) else heavy for edge in plan.edges], np.int64)
