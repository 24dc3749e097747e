"""The decisions of a supernet, block by block: a cell each, or cells that share their architecture parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.recipe import Conv, iter_layers
from ...models.space.lgcnet import LGCNetSpace
from ...models.space.lgcnet.plan import CellPlan
from ...models.space.operators import ZERO, get_recipe
from ...models.space.protocol import SearchSpace
from ..decisions import Decisions, Indices


@dataclass(frozen=True)
class DecisionBlock:
    """The decisions of one cell, or of all cells that share their architecture parameters.

    Attributes:
        name: name of the cell, or of the group of cells.
        cells: indices of the cells in the plan's `searched_cells`.
        plan: plan of the first cell.
    """

    name: str
    cells: tuple[int, ...]
    plan: CellPlan


class BlockDecisions(Decisions):
    """Decisions of a search in LGCNet's space: an operator for each free edge of each block, then the head's width.

    Args:
        space: search space of LGCNet.
        shared: Merge all normal cells into one block and all reduction cells into another, as in DARTS
            (arXiv 1806.09055), the papers' baseline for independent cells.
        fixed_fusion: Leave the fusion cell out of the search; see `make_fixed_fusion`.

    Attributes:
        blocks: blocks in the order of their decisions.
        block_sizes: number of decisions of each block.
        space: search space.

    Raises:
        MismatchError: the space has another kind.
    """

    space: LGCNetSpace

    def __init__(self, space: SearchSpace, *, shared: bool = False, fixed_fusion: bool = False) -> None:
        own = LGCNetSpace.require(space)
        plan = own.plan
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
        fusion = len(plan.fusion.edges)
        fixed = np.zeros(len(own.decisions), np.int64)
        if fixed_fusion:
            fixed[own.edges - fusion : own.edges] = make_fixed_fusion(own)
        else:
            blocks.append(DecisionBlock(plan.fusion.name, (len(plan.cells),), plan.fusion))
        self.blocks: tuple[DecisionBlock, ...] = tuple(blocks)
        self.block_sizes = [len(block.plan.edges) for block in blocks]
        super().__init__(own, [*self._assign_edges(plan.searched_cells), sum(self.block_sizes)], fixed.tolist())

    def _assign_edges(self, cells: tuple[CellPlan, ...]) -> list[int]:
        """Return the decision of each edge, -1 in cells without a block."""
        starts = np.cumsum([0, *self.block_sizes[:-1]]).tolist()
        first = {cell: start for block, start in zip(self.blocks, starts, strict=True) for cell in block.cells}
        return [
            first[index] + edge if index in first else -1
            for index, cell in enumerate(cells)
            for edge in range(len(cell.edges))
        ]


def make_fixed_fusion(space: LGCNetSpace) -> Indices:
    """Return the operators of a fusion cell that is not searched: it sums its inputs and convolves its nodes.

    Edges from inputs are `skip`; edges between nodes are the space's first convolution. Without `skip`, all edges are
    that convolution.
    """
    plan = space.plan.fusion
    convolutions = [
        index
        for index, spec in enumerate(plan.edges[0].candidates)
        if any(isinstance(layer, Conv) for layer in iter_layers(get_recipe(spec)))
    ]
    live = [index for index, name in enumerate(space.operators) if name != ZERO]
    convolution = (convolutions or live)[0]
    light = space.operators.index("skip") if "skip" in space.operators else convolution
    return np.array([light if edge.source < len(plan.inputs) else convolution for edge in plan.edges], np.int64)
