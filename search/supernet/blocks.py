"""The decisions of a supernet, block by block: a cell each, or cells that share their architecture parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...models.recipe import Conv, iter_layers
from ...models.space.lgcnet import LGCNetSpace
from ...models.space.lgcnet.layout import CONTEXT_CELL
from ...models.space.lgcnet.plan import CellPlan, edge_name
from ...models.space.operators import ZERO, get_recipe
from ...models.space.protocol import SearchSpace
from ..decisions import Decisions, Indices, Mask


@dataclass(frozen=True)
class DecisionBlock:
    """The decisions of one cell, or of all cells that share their architecture parameters; or a searched width.

    Attributes:
        name: name of the cell, of the group of cells, or of the width.
        cells: indices of the cells in the plan's `searched_cells`; none for a width.
        names: names of the decisions within the block, e.g. of edges.
        choices: names of the choices of each decision, e.g. of operators.
    """

    name: str
    cells: tuple[int, ...]
    names: tuple[str, ...]
    choices: tuple[str, ...]

    @classmethod
    def for_cells(cls, name: str, cells: tuple[int, ...], plan: CellPlan) -> DecisionBlock:
        """Return the block of cells with the plan of the first one."""
        names = tuple(edge_name(plan, edge) for edge in plan.edges)
        return cls(name, cells, names, tuple(spec.operator for spec in plan.edges[0].candidates))


class BlockDecisions(Decisions):
    """Decisions of a search in LGCNet's space: an operator for each free edge of each block, then the widths.

    Args:
        space: search space of LGCNet.
        shared: Merge all normal cells into one block and all reduction cells into another, as in DARTS
            (arXiv 1806.09055), the papers' baseline for independent cells.
        fixed_fusion: Leave the fusion cell out of the search; see `make_fixed_fusion`.

    Attributes:
        blocks: blocks in the order of their decisions.
        block_sizes: number of decisions of each block.
        num_cells: number of blocks of backbone cells, the first ones; the fusion cell and searched widths follow.
        are_widths: True for searched widths, [S].
        contested: True for decisions that need a rival for a gradient, [S]: widths, and edges that are their node's
            only one, where the next normalisation cancels the scale of the output.
        space: search space.

    Raises:
        MismatchError: the space has another kind.
    """

    space: LGCNetSpace

    def __init__(self, space: SearchSpace, *, shared: bool = False, fixed_fusion: bool = False) -> None:
        own = LGCNetSpace.require(space)
        plan = own.plan
        if shared:
            kinds = [_find_kind(cell) for cell in plan.cells]
            groups = {kind: tuple(i for i, other in enumerate(kinds) if other == kind) for kind in kinds}
            blocks = [DecisionBlock.for_cells(kind[0], cells, plan.cells[cells[0]]) for kind, cells in groups.items()]
        else:
            blocks = [DecisionBlock.for_cells(cell.name, (index,), cell) for index, cell in enumerate(plan.cells)]
        self.num_cells = len(blocks)
        fusion = len(plan.fusion.edges)
        fixed = np.zeros(len(own.decisions), np.int64)
        if fixed_fusion:
            fixed[own.edges - fusion : own.edges] = make_fixed_fusion(own)
        else:
            blocks.append(DecisionBlock.for_cells(plan.fusion.name, (len(plan.cells),), plan.fusion))
        widths = own.widths_searched
        blocks += [DecisionBlock(each.name, (), ("width",), each.choices) for each in widths if each.default is None]
        self.blocks: tuple[DecisionBlock, ...] = tuple(blocks)
        self.block_sizes = [len(block.names) for block in blocks]
        self.are_widths: Mask = np.repeat([not block.cells for block in blocks], self.block_sizes)
        self.contested: Mask = np.concatenate([_find_contested(block, plan.searched_cells) for block in blocks])
        edges = sum(len(block.names) for block in blocks if block.cells)
        assignment = [*self._assign_edges(plan.searched_cells), *range(edges, edges + len(widths))]
        super().__init__(own, assignment, fixed.tolist())

    def _assign_edges(self, cells: tuple[CellPlan, ...]) -> list[int]:
        """Return the decision of each edge, -1 in cells without a block."""
        starts = np.cumsum([0, *self.block_sizes[:-1]]).tolist()
        first = {cell: start for block, start in zip(self.blocks, starts, strict=True) for cell in block.cells}
        return [
            first[index] + edge if index in first else -1
            for index, cell in enumerate(cells)
            for edge in range(len(cell.edges))
        ]


def _find_contested(block: DecisionBlock, cells: Sequence[CellPlan]) -> Mask:
    """Return the contested decisions of a block."""
    if not block.cells:
        return np.ones(len(block.names), bool)
    plan = cells[block.cells[0]]
    return np.array([len(plan.edges_into(edge.node)) == 1 for edge in plan.edges])


def _find_kind(cell: CellPlan) -> tuple[str, tuple[str, ...]]:
    """Return what cells that share their architecture parameters have in common: a name, and the operators."""
    operators = tuple(spec.operator for spec in cell.edges[0].candidates)
    if cell.name == CONTEXT_CELL:
        return CONTEXT_CELL, operators
    return ("normal cells" if cell.edges[0].candidates[0].stride == 1 else "reduction cells"), operators


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
    operators = [spec.operator for spec in plan.edges[0].candidates]
    live = [index for index, name in enumerate(operators) if name != ZERO]
    convolution = (convolutions or live)[0]
    light = operators.index("skip") if "skip" in operators else convolution
    return np.array([light if edge.source < len(plan.inputs) else convolution for edge in plan.edges], np.int64)
