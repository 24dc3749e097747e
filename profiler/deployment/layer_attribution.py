"""Why a prediction is off: the table's entries held against the times of the layers that compute their slots.

    slot      a place in the network; what is computed there is an entry of the table
    layer     what a runtime runs; it may compute parts of several slots, say a convolution and the addition after it
    group     slots that share layers: only together they can be compared

Profiling slows a network down. The layers' times are scaled by one factor to the network's own time, so what is
compared is how that time divides among the slots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...lut.predictor import Predictor
from ...lut.table.table import LatencyTable
from ...models.onnx.slot_names import SlotNames, computed_slots
from ...models.space.lgcnet import Architecture
from ...models.space.opspec import OpSpec
from ..backends.base import LayerTime
from ..verification import at_speed

FAR = 0.15
"""Share of an entry's time by which it has to be off to be named..."""
WEIGHTY = 0.01
"""... and share of the network's time that this has to make, over all slots of the entry."""


@dataclass(frozen=True)
class Group:
    """Slots that are compared together.

    Attributes:
        slots: their names.
        entries: what is computed in them, in the table's spelling.
        layers: names of the runtime's layers.
        table_ms: what the calibrated table says they add, at the machine's present speed.
        measured_ms: the layers' times, scaled.
    """

    slots: tuple[str, ...]
    entries: tuple[str, ...]
    layers: tuple[str, ...]
    table_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Disagreement:
    """An entry of the table that the layers contradict.

    Attributes:
        entry: the operator, in the table's spelling.
        slots: in how many it stands.
        table_ms: what the table says all of them add.
        measured_ms: what they take; of a group, the part that the table gives them in it.
        difference_ms: measured_ms - table_ms.
    """

    entry: str
    slots: int
    table_ms: float
    measured_ms: float
    difference_ms: float


@dataclass(frozen=True)
class SlotReport:
    """What `slot_report` found.

    Attributes:
        groups: all slots, those that differ most first.
        entries: the entries that are off by more than `FAR` and `WEIGHTY`, the worst first.
        intercept_ms: what the table says of a network besides its operators.
        unattributed_ms: layers of no slot, scaled.
        factor: from the layers' times to the network's.
    """

    groups: tuple[Group, ...]
    entries: tuple[Disagreement, ...]
    intercept_ms: float
    unattributed_ms: float
    factor: float

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def slot_report(
    architecture: Architecture,
    table: LatencyTable,
    predictor: Predictor,
    layers: Sequence[LayerTime],
    *,
    measured_ms: float,
    drift_pct: float | None,
) -> SlotReport:
    """Hold a table against layers.

    Args:
        architecture: the network.
        table: whose entries are held against them.
        predictor: the table's, in the network's scope.
        layers: what a backend's runner told.
        measured_ms: of the network itself.
        drift_pct: how much slower the machine runs than when the table was made.
    """
    names = SlotNames(architecture)
    there = computed_slots(architecture, predictor.scope)
    factor = measured_ms / max(sum(layer.ms for layer in layers), 1e-9)
    of_layer = [
        {slot for slot in map(names.find_slot, layer.nodes) if slot is not None and slot in there} for layer in layers
    ]
    entry_ms = {
        entry: at_speed(predictor.cost_ms(table, OpSpec.parse(entry)), drift_pct) for entry, _ in there.values()
    }
    slot_ms = {slot: entry_ms[entry] * count for slot, (entry, count) in there.items()}
    groups = []
    for slots in _grouped(there, of_layer):
        inside = [layer for layer, touched in zip(layers, of_layer, strict=True) if touched & slots]
        members = tuple(slot for slot in there if slot in slots)
        entries = tuple(there[slot][0] for slot in members)
        table_ms = sum(slot_ms[slot] for slot in members)
        taken_ms = factor * sum(layer.ms for layer in inside)
        groups.append(Group(members, entries, tuple(layer.layer for layer in inside), table_ms, taken_ms))
    groups.sort(key=lambda group: -abs(group.measured_ms - group.table_ms))
    rest = factor * sum(layer.ms for layer, touched in zip(layers, of_layer, strict=True) if not touched)
    off = _disagreements(groups, slot_ms, measured_ms)
    return SlotReport(tuple(groups), off, at_speed(predictor.correction.intercept_ms, drift_pct), rest, factor)


def _grouped(slots: Iterable[str], of_layer: Sequence[set[str]]) -> list[set[str]]:
    """Sets of slots that layers connect."""
    group = {slot: {slot} for slot in slots}
    for touched in of_layer:
        joined = set().union(*(group[slot] for slot in touched)) if touched else set()
        for slot in joined:
            group[slot] = joined
    return list({id(members): members for members in group.values()}.values())


def _disagreements(
    groups: Sequence[Group], slot_ms: Mapping[str, float], measured_ms: float
) -> tuple[Disagreement, ...]:
    """Entries by what all of their slots are off; a group's time is divided as the table divides it."""
    said: dict[str, float] = defaultdict(float)
    took: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for group in groups:
        for slot, entry in zip(group.slots, group.entries, strict=True):
            part = slot_ms[slot] / group.table_ms if group.table_ms > 0 else 1 / len(group.slots)
            said[entry] += slot_ms[slot]
            took[entry] += part * group.measured_ms
            count[entry] += 1
    rows = [Disagreement(entry, count[entry], said[entry], took[entry], took[entry] - said[entry]) for entry in said]
    far = [
        row
        for row in rows
        if abs(row.difference_ms) > max(FAR * max(row.table_ms, row.measured_ms), WEIGHTY * measured_ms)
    ]
    return tuple(sorted(far, key=lambda row: -abs(row.difference_ms)))
