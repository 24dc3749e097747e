"""Explanation of a prediction error: layer times attributed to slots, compared with the table's entries.

    slot      position in the network; its operator is an entry of the table
    layer     unit of a runtime; it may compute parts of several slots, e.g. a convolution and the addition after it
    group     slots that share layers: they can only be compared together

Profiling slows a network down. Layer times are therefore scaled by one factor to the network's own latency, and the
comparison is of the shares of the slots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...lut.predictor import Predictor
from ...lut.table.table import LatencyTable
from ...models.onnx.slot_names import SlotNames, computed_slots
from ...models.space.opspec import OpSpec
from ...models.space.protocol import Architecture
from ..backends.base import LayerTime
from ..drift import correct_for_drift

MIN_RELATIVE_DEVIATION = 0.15
"""Smallest reported deviation of an entry, relative to its latency."""
MIN_NETWORK_SHARE = 0.01
"""Smallest reported deviation of an entry, relative to the network's latency, over all slots of the entry."""


@dataclass(frozen=True)
class SlotGroup:
    """Slots that share layers.

    Attributes:
        slots: names of the slots.
        entries: the table's key of each slot's operator.
        layers: names of the runtime's layers.
        table_ms: sum of the calibrated entries, at the machine's current speed.
        measured_ms: sum of the scaled layer times.
    """

    slots: tuple[str, ...]
    entries: tuple[str, ...]
    layers: tuple[str, ...]
    table_ms: float
    measured_ms: float


@dataclass(frozen=True)
class EntryDeviation:
    """Entry of the table that deviates from the layer times.

    Attributes:
        entry: the table's key of the operator.
        slots: number of slots with the entry.
        table_ms: latency of all these slots by the table.
        measured_ms: latency of all these slots by the layers; a group's time is divided in the table's proportions.
        difference_ms: measured_ms - table_ms.
    """

    entry: str
    slots: int
    table_ms: float
    measured_ms: float
    difference_ms: float


@dataclass(frozen=True)
class SlotReport:
    """Result of `attribute_layers`.

    Attributes:
        groups: all slots, by absolute difference, largest first.
        entries: entries beyond `MIN_RELATIVE_DEVIATION` and `MIN_NETWORK_SHARE`, largest deviation first.
        intercept_ms: the calibration's latency per network, which belongs to no operator.
        unattributed_ms: scaled time of layers without a slot.
        factor: scale from layer times to the network's latency.
    """

    groups: tuple[SlotGroup, ...]
    entries: tuple[EntryDeviation, ...]
    intercept_ms: float
    unattributed_ms: float
    factor: float


def attribute_layers(
    architecture: Architecture,
    table: LatencyTable,
    predictor: Predictor,
    layers: Sequence[LayerTime],
    *,
    measured_ms: float,
    drift_pct: float | None,
) -> SlotReport:
    """Attribute layer times to slots, and compare them with the table's entries.

    Args:
        architecture: network that was timed.
        table: table with the entries.
        predictor: predictor of the table in the network's scope.
        layers: layer times from a runner.
        measured_ms: latency of the network itself.
        drift_pct: slowdown of the machine since the table was measured.
    """
    names = SlotNames(architecture)
    computed = computed_slots(architecture, predictor.scope)
    factor = measured_ms / max(sum(layer.ms for layer in layers), 1e-9)
    slots_by_layer = [
        {slot for slot in map(names.find_slot, layer.nodes) if slot is not None and slot in computed}
        for layer in layers
    ]
    entry_ms = {
        entry: correct_for_drift(predictor.cost_ms(table, OpSpec.parse(entry)), drift_pct)
        for entry, _ in computed.values()
    }
    slot_ms = {slot: entry_ms[entry] * count for slot, (entry, count) in computed.items()}
    groups = []
    for slots in _group_slots(computed, slots_by_layer):
        shared = [layer for layer, touched in zip(layers, slots_by_layer, strict=True) if touched & slots]
        members = tuple(slot for slot in computed if slot in slots)
        groups.append(
            SlotGroup(
                members,
                tuple(computed[slot][0] for slot in members),
                tuple(layer.layer for layer in shared),
                table_ms=sum(slot_ms[slot] for slot in members),
                measured_ms=factor * sum(layer.ms for layer in shared),
            )
        )
    groups.sort(key=lambda group: -abs(group.measured_ms - group.table_ms))
    rest_ms = factor * sum(layer.ms for layer, touched in zip(layers, slots_by_layer, strict=True) if not touched)
    deviations = _compute_deviations(groups, slot_ms, measured_ms)
    intercept_ms = correct_for_drift(predictor.correction.intercept_ms, drift_pct)
    return SlotReport(tuple(groups), deviations, intercept_ms, rest_ms, factor)


def _group_slots(slots: Iterable[str], slots_by_layer: Sequence[set[str]]) -> list[set[str]]:
    """Return the sets of slots that layers connect."""
    group = {slot: {slot} for slot in slots}
    for touched in slots_by_layer:
        joined = set().union(*(group[slot] for slot in touched)) if touched else set()
        for slot in joined:
            group[slot] = joined
    return list({id(members): members for members in group.values()}.values())


def _compute_deviations(
    groups: Sequence[SlotGroup], slot_ms: Mapping[str, float], network_ms: float
) -> tuple[EntryDeviation, ...]:
    """Return the deviating entries; a group's time is divided in the table's proportions."""
    table_ms: dict[str, float] = defaultdict(float)
    measured_ms: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for group in groups:
        for slot, entry in zip(group.slots, group.entries, strict=True):
            share = slot_ms[slot] / group.table_ms if group.table_ms > 0 else 1 / len(group.slots)
            table_ms[entry] += slot_ms[slot]
            measured_ms[entry] += share * group.measured_ms
            count[entry] += 1
    rows = [
        EntryDeviation(entry, count[entry], ms, measured_ms[entry], measured_ms[entry] - ms)
        for entry, ms in table_ms.items()
    ]
    deviating = [row for row in rows if abs(row.difference_ms) > _min_deviation_ms(row, network_ms)]
    return tuple(sorted(deviating, key=lambda row: -abs(row.difference_ms)))


def _min_deviation_ms(row: EntryDeviation, network_ms: float) -> float:
    return max(MIN_RELATIVE_DEVIATION * max(row.table_ms, row.measured_ms), MIN_NETWORK_SHARE * network_ms)
