"""Slots from the names of ONNX nodes, as torch's exporter makes them of the modules of `network.py` and `cell.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..space.lgcnet import Architecture
from ..space.operators import ZERO
from ..space.plan import CORE, DENSE, CellPlan, edge_name

FRAME = "frame"
"""What scope end-to-end has over dense, which is no slot of the space."""

_PLACE = re.compile(r"(?:^|/)(?:stem/stem\.(\d+)|cells\.(\d+)|(fusion)|head/head\.(\d+)|dense/dense\.(\d+))/(.*)$")
_PART = re.compile(r"(project|resize|edges)\.(\d+)(?:/|$)|(Add)(?:_(\d+))?$|(concat)/")
_FRAME = re.compile(r"^/(?:Cast|Transpose|Mul|Add)(?:_\d+)?$")


class SlotNames:
    """Finds the slot of a node.

    Args:
        architecture: the network that was exported.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._plan = architecture.space.plan
        self._known = {slot.name for slot in architecture.space.slots()} | {FRAME}
        self._additions = {
            cell.name: _additions(cell, [name != ZERO for name in names]) for cell, names in architecture.iter_cells()
        }

    def find_slot(self, node: str) -> str | None:
        """Name of the slot that the node computes a part of, as `SearchSpace.slots` has it; None if it is of none."""
        try:
            slot = self._read(node)
        except IndexError:  # a cell, edge or addition that this network has not
            return None
        return slot if slot in self._known else None

    def _read(self, node: str) -> str | None:
        if _FRAME.match(node):
            return FRAME
        found = _PLACE.search(node)
        if found is None:
            return None
        stem, cell, fusion, head, dense, rest = found.groups()
        if stem is not None:
            return f"stem/{stem}"
        if head is not None:
            return f"head/{head}"
        if dense is not None:
            return f"{DENSE}/{self._plan.dense[int(dense)].operator}"
        return self._of_cell(self._plan.fusion if fusion else self._plan.cells[int(cell)], rest)

    def _of_cell(self, cell: CellPlan, rest: str) -> str | None:
        found = _PART.match(rest)
        if found is None:
            return None
        kind, index, add, number, _ = found.groups()
        if kind == "edges":
            return f"{cell.name}/{edge_name(cell, cell.edges[int(index)])}"
        if kind is not None:
            return f"{cell.name}/in{index}/{kind}"
        if add is not None:
            return f"{cell.name}/n{self._additions[cell.name][int(number or 0)]}/add"
        return f"{cell.name}/concat"


def _additions(cell: CellPlan, live: list[bool]) -> list[int]:
    """Node of each addition of a cell, in the order of computation: one less than the node has live edges."""
    nodes: list[int] = []
    for node in range(cell.nodes):
        nodes += [node] * (sum(live[edge] for edge in cell.edges_into(node)) - 1)
    return nodes


def computed_slots(architecture: Architecture, scope: str) -> Mapping[str, tuple[str, int]]:
    """What an architecture computes, by slot: the operator's string form, and how often it is computed there."""
    from ..space.operators import is_free

    found = {}
    for slot, spec, count in architecture.filled_slots():
        if count and not is_free(spec) and not (scope == CORE and slot.scope == DENSE):
            found[slot.name] = (str(spec), count)
    return found
