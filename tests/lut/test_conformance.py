"""Tables, predictors and calibration of any search space: the half of the protocol's suite that needs a table."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from lgc.errors import MismatchError
from lgc.lut import Correction, LatencyTable, Predictor
from lgc.lut.exchange.merge import merge_tables
from lgc.lut.statistics.calibration import choose_correction
from lgc.lut.table.table import network_key
from lgc.models import SCOPES, OpSpec, Slot, SlotSpace, Space
from lgc.models.space.operators import is_free

from ..spaces import EXAMPLES, enumerate_choices

SCALED = Correction("affine", 0.125, (1.5,), error_pct=4.0, networks=9)


@pytest.fixture(params=EXAMPLES)
def space(request) -> Space:
    return EXAMPLES[request.param]()


@pytest.fixture
def table(space, make_table) -> LatencyTable:
    return make_table(space)


def sum_entries(table, architecture, scope="dense"):
    return sum(table.latency_ms(spec) for spec in architecture.specs(scope) if not is_free(spec))


def test_table_keeps_space_and_networks(space, table):
    networks = list(space.spread(4, 0))
    keys = [table.add_network(architecture, "dense") for architecture in networks]
    assert keys == [network_key(architecture, "dense") for architecture in networks]
    table.close()
    with LatencyTable.open(table.path) as again:
        assert type(again.space) is type(space)
        assert again.space.fingerprint == space.fingerprint
        assert [architecture.choices for _, architecture, _ in again.networks()] == [each.choices for each in networks]
        assert {entry.key for entry in again.entries()} == {str(s) for s in space.specs() if not is_free(s)}
        with pytest.raises(MismatchError, match="has a different space"):
            again.require(space=SlotSpace.from_slots([Slot("stem", (OpSpec("conv_3x3", 3, 8, 32, 32),))]))


@pytest.mark.parametrize("scope", SCOPES)
def test_prediction_sums_the_entries(space, table, scope):
    predictor, networks = Predictor(space, table, scope), list(space.spread(20, 0))
    expected = [sum_entries(table, architecture, scope) for architecture in networks]
    assert [predictor.predict(architecture) for architecture in networks] == pytest.approx(expected)
    table.set_metadata("calibration", {scope: asdict(SCALED)})
    corrected = Predictor(space, table, scope).predict_many(np.array([each.choices for each in networks]))
    assert corrected.tolist() == pytest.approx([0.125 + 1.5 * ms for ms in expected])
    assert (predictor.cost.unit, predictor.cost.source) == ("ms", str(table.path))


def test_extremes_match_enumeration(space, table):
    predictor, rows = Predictor(space, table), enumerate_choices(space)
    zeros = np.array([-1 if decision.zero is None else decision.zero for decision in space.decisions])
    assert predictor.predict(predictor.fastest) == pytest.approx(predictor.predict_many(rows).min())
    live = rows[(rows != zeros).all(axis=1)]
    assert predictor.predict(predictor.slowest) == pytest.approx(predictor.predict_many(live).max())


def test_fingerprint_covers_every_entry(space, table):
    prints = {Predictor(space, table).fingerprint}
    keys = [entry.key for entry in table.entries()]
    for key in keys:
        with table.store.transaction() as connection:
            connection.execute("UPDATE entries SET latency_ms = latency_ms * 1.5 WHERE key = ?", (key,))
        prints.add(Predictor(space, table).fingerprint)
    assert len(prints) == len(keys) + 1
    assert {Predictor(space, table).fingerprint} < prints


def test_frame_has_a_row_per_architecture(space, table):
    networks = list(space.spread(6, 0))
    frame = Predictor(space, table).to_frame(np.array([network.choices for network in networks]))
    assert frame["latency_ms"].tolist() == pytest.approx([sum_entries(table, network) for network in networks])
    assert frame["macs"].tolist() == [network.macs for network in networks]
    assert frame["parameters"].tolist() == [network.parameters for network in networks]


def test_calibration_recovers_a_known_correction(space, table):
    networks = [
        [(spec, table.latency_ms(spec)) for spec in architecture.specs() if not is_free(spec)]
        for architecture in space.spread(16, 0)
    ]
    measured = [0.125 + 1.5 * sum(ms for _, ms in network) for network in networks]
    correction = choose_correction(networks, measured).correction
    rows = [correction.intercept_ms + sum(correction.apply(*part) for part in network) for network in networks]
    assert rows == pytest.approx(measured, rel=1e-3)


def test_tables_of_equal_spaces_merge(space, make_table, tmp_path):
    first, second = make_table(space, "a.lut"), make_table(space, "b.lut", seed=1)
    result = merge_tables([first, second], tmp_path / "both.lut", lambda merged: None)
    assert result.entries == len(first.entries())
    with LatencyTable.open(tmp_path / "both.lut") as merged:
        assert merged.space.fingerprint == space.fingerprint
        assert np.isfinite(Predictor(space, merged).predict(space.sample(0)))
