"""Layer times attributed to slots, compared with the table's entries."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from lgc.lut import Predictor, Target
from lgc.models import SearchSpace
from lgc.models.onnx.slot_names import SlotNames, computed_slots
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.base import LayerTime, measure_layers
from lgc.profiler.deployment.layer_attribution import attribute_layers
from lgc.profiler.deployment.network import Network

ORT = Target("cpu", "onnxruntime")


@pytest.mark.parametrize("preset", ["tiny", "lgcnet-camvid"])
@pytest.mark.parametrize("scope", ["core", "dense"])
def test_every_onnx_runtime_layer_has_a_slot(preset, scope):
    space = SearchSpace.load(preset).with_input(64, 96)
    architecture = space.sample(2)
    runner = get_backend("onnxruntime").compile(Network(architecture, None, scope).workload(), ORT)
    layers = measure_layers(runner, 3)
    runner.close()
    names = SlotNames(architecture)
    slots = [{names.find_slot(node) for node in layer.nodes} for layer in layers]
    assert all(slots), [layer.layer for layer, layer_slots in zip(layers, slots, strict=True) if not layer_slots]
    assert None not in set().union(*slots)
    assert all(layer.ms >= 0 for layer in layers)
    computed = computed_slots(architecture, scope)
    timed = set().union(*slots)
    missing = set(computed) - timed
    assert all("max_pool" in computed[slot][0] for slot in missing), "equal poolings are computed once"
    convolutions = [layer for layer in layers if any(node.endswith("/Conv") for node in layer.nodes)]
    expected = {slot for slot, (entry, _) in computed.items() if "conv" in entry or "classifier" in entry}
    assert expected <= set().union(*({names.find_slot(node) for node in layer.nodes} for layer in convolutions))


def make_layers(architecture, table, predictor, wrong: str, times: float, factor: float = 1.0) -> list[LayerTime]:
    """Return a layer per slot with the table's latency, that of entry `wrong` multiplied by `times`."""
    names, layers = {}, []
    model = Network(architecture, None, DENSE).model()
    import onnx

    find = SlotNames(architecture)
    for node in onnx.load_from_string(model).graph.node:
        names.setdefault(find.find_slot(node.name), []).append(node.name)
    for slot, (entry, count) in computed_slots(architecture, DENSE).items():
        from lgc.models.space.opspec import OpSpec

        ms = predictor.cost_ms(table, OpSpec.parse(entry)) * count * (times if entry == wrong else 1.0)
        layers.append(LayerTime(f"layer of {slot}", tuple(names[slot]), ms * factor))
    return layers


@pytest.mark.parametrize("times", [1 / 3, 3.0])
def test_wrong_entry_is_reported_first(mini_space, make_table, times):
    architecture = mini_space.sample(4)
    with make_table(mini_space) as table:
        predictor = Predictor(mini_space, table)
        costs = {entry: 0.0 for entry, _ in computed_slots(architecture, DENSE).values()}
        for entry, count in computed_slots(architecture, DENSE).values():
            costs[entry] += count * table.latency_ms(next(s for s in mini_space.specs() if str(s) == entry))
        wrong = max((entry for entry in costs if "conv" in entry), key=lambda entry: costs[entry])
        layers = make_layers(architecture, table, predictor, wrong, times, factor=2.0)
        total = sum(layer.ms for layer in layers) / 2
        report = attribute_layers(architecture, table, predictor, layers, measured_ms=total, drift_pct=0.0)
        right = make_layers(architecture, table, predictor, wrong, 1.0)
        whole = sum(layer.ms for layer in right)
        none = attribute_layers(architecture, table, predictor, right, measured_ms=whole, drift_pct=0.0)
        slower = attribute_layers(architecture, table, predictor, right, measured_ms=1.2 * whole, drift_pct=20.0)
    assert report.entries[0].entry == wrong
    assert report.entries[0].measured_ms == pytest.approx(times * report.entries[0].table_ms)
    assert len(report.entries) == 1
    assert report.factor == pytest.approx(0.5)
    assert report.unattributed_ms == 0
    assert none.entries == slower.entries == ()
    assert json.loads(json.dumps(asdict(report)))["entries"][0]["entry"] == wrong


def test_slots_that_share_layers_form_groups(mini_space, make_table):
    architecture = mini_space.sample(4)
    with make_table(mini_space) as table:
        predictor = Predictor(mini_space, table)
        layers = make_layers(architecture, table, predictor, "", 1.0)
        joined = LayerTime("both", (*layers[0].nodes, *layers[1].nodes), layers[0].ms + layers[1].ms)
        other = LayerTime("other", ("unknown",), 0.5)
        total = sum(layer.ms for layer in layers) + 0.5
        report = attribute_layers(
            architecture, table, predictor, [joined, *layers[2:], other], measured_ms=total, drift_pct=None
        )
    (group,) = (group for group in report.groups if len(group.slots) > 1)
    assert set(group.slots) == {layer.layer.removeprefix("layer of ") for layer in layers[:2]}
    assert group.layers == ("both",)
    assert sum(len(group.slots) for group in report.groups) == len(computed_slots(architecture, DENSE))
    assert report.unattributed_ms == pytest.approx(0.5)
    assert report.entries == ()
