"""Slots of ONNX nodes, from the names that torch's exporter gives to the modules of `network.py` and `cell.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..space.lgcnet import LGCNetArchitecture
from ..space.lgcnet.plan import CellPlan, edge_name
from ..space.operators import ZERO, is_free
from ..space.protocol import CORE, DENSE, Architecture

FRAME = "frame"
"""Name for the nodes that scope end-to-end adds to dense; the space has no slot for them."""

_MODULE = re.compile(r"(?:^|/)(?:stem/stem\.(\d+)|cells\.(\d+)|(fusion)|head/head\.(\d+)|dense/dense\.(\d+))/(.*)$")
_CELL_PART = re.compile(r"(project|resize|edges)\.(\d+)(?:/|$)|(Add)(?:_(\d+))?$|(concat)/")
_FRAME = re.compile(r"^/(?:Cast|Transpose|Mul|Add)(?:_\d+)?$")


class SlotNames:
    """Mapping from node names to slots.

    Args:
        architecture: Architecture of the exported network.
    """

    def __init__(self, architecture: Architecture) -> None:
        own = LGCNetArchitecture.require(architecture)
        self._plan = own.plan
        self._known = {slot.name for slot in architecture.space.slots()} | {FRAME}
        self._additions = {
            cell.name: _addition_nodes(cell, [name != ZERO for name in names]) for cell, names in own.iter_cells()
        }

    def find_slot(self, node: str) -> str | None:
        """Return the name of the node's slot, as in `SearchSpace.slots`, or `FRAME`; None for other nodes."""
        try:
            slot = self._parse(node)
        except IndexError:  # a cell, edge or addition that this network lacks
            return None
        return slot if slot in self._known else None

    def _parse(self, node: str) -> str | None:
        if _FRAME.match(node):
            return FRAME
        match = _MODULE.search(node)
        if match is None:
            return None
        stem, cell, fusion, head, dense, rest = match.groups()
        if stem is not None:
            return f"stem/{stem}"
        if head is not None:
            return f"head/{head}"
        if dense is not None:
            return f"{DENSE}/{self._plan.dense[int(dense)].operator}"
        return self._parse_cell_part(self._plan.fusion if fusion else self._plan.cells[int(cell)], rest)

    def _parse_cell_part(self, cell: CellPlan, rest: str) -> str | None:
        match = _CELL_PART.match(rest)
        if match is None:
            return None
        kind, index, add, number, _ = match.groups()
        if kind == "edges":
            return f"{cell.name}/{edge_name(cell, cell.edges[int(index)])}"
        if kind is not None:
            return f"{cell.name}/in{index}/{kind}"
        if add is not None:
            return f"{cell.name}/n{self._additions[cell.name][int(number or 0)]}/add"
        return f"{cell.name}/concat"


def _addition_nodes(cell: CellPlan, live: list[bool]) -> list[int]:
    """Return the cell's node for each addition, in the order of computation: one less than the node's live edges."""
    nodes: list[int] = []
    for node in range(cell.nodes):
        nodes += [node] * (sum(live[edge] for edge in cell.edges_into(node)) - 1)
    return nodes


def computed_slots(architecture: Architecture, scope: str) -> Mapping[str, tuple[str, int]]:
    """Return the slots that an architecture computes, as name -> (key of the OpSpec, number of runs)."""
    return {
        slot.name: (str(spec), count)
        for slot, spec, count in architecture.filled_slots()
        if count and not is_free(spec) and not (scope == CORE and slot.scope == DENSE)
    }
