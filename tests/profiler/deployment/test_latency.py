"""Latency of networks, compared with the prediction of a measured table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lgc.errors import MismatchError
from lgc.lut import LatencyTable, Predictor, Target
from lgc.profiler.deployment.latency import TargetResult, add_layer_times, make_latency_meter, time_network
from lgc.profiler.deployment.network import Network
from lgc.profiler.deployment.parity import RANDOM, Parity

ORT = Target("cpu", "onnxruntime")


def test_result_compares_measurement_and_prediction(mini_space, measured_table):
    network = Network(mini_space.sample(2), None, "dense")
    with LatencyTable.open(measured_table) as table:
        result = time_network(network, ORT, table, seconds=0.2)
        assert result.table_ms == Predictor(mini_space, table).predict(network.architecture)
    assert result.runs >= 200
    assert result.error_pct == pytest.approx((result.predicted_ms / result.measured_ms - 1) * 100)
    assert result.fps == pytest.approx(1000 / result.median_ms)
    assert result.predicted_ms == pytest.approx(result.table_ms * (1 + result.drift_pct / 100))
    assert result.median_ms <= result.p90_ms <= result.p99_ms
    assert result.parity.max_abs_diff <= 1e-4
    assert result.parity.argmax_agreement_pct >= 99.9
    assert result.settings["graph_optimization"] == "all"
    content = result.as_dict()
    assert content["max_abs_diff"] == result.parity.max_abs_diff
    assert json.loads(json.dumps(content)) == content


def test_tables_of_other_targets_are_rejected(mini_space, measured_table, mini_lut):
    network = Network(mini_space.sample(2), None, "dense")
    with (
        LatencyTable.open(measured_table) as table,
        pytest.raises(MismatchError, match="backend onnxruntime, not torch"),
    ):
        time_network(network, Target("cpu", "torch"), table, seconds=0.1)
    with LatencyTable.open(mini_lut) as table:
        table.set_metadata("environment", {**table.environment, "device_name": "Quantum Core 9"})
    with LatencyTable.open(mini_lut) as table, pytest.raises(MismatchError, match="Quantum Core 9"):
        time_network(network, ORT, table, seconds=0.1)
    with pytest.raises(MismatchError, match="Quantum Core 9"):
        make_latency_meter(mini_lut, "dense")


def test_end_to_end_has_no_prediction(mini_space, measured_table):
    network = Network(mini_space.sample(2), None, "end-to-end")
    with LatencyTable.open(measured_table) as table:
        result = time_network(network, ORT, table, seconds=0.1)
    assert result.predicted_ms is None
    assert result.measured_ms > 0
    assert result.equals_torch()


def test_tolerance_bounds_the_error():
    result = TargetResult("onnxruntime", "cpu", "fp32", "core", error_pct=-6.0)
    assert not result.within(5)
    assert result.within(6)
    assert TargetResult("tensorrt", "sm_89", "fp32", "core").within(0)


def test_parity_decides_equality_with_torch():
    near = Parity(1e-5, 1e-6, 1e-5, 99.95, 1, RANDOM)
    far = Parity(2e-4, 1e-6, 1e-5, 99.95, 1, RANDOM)
    assert TargetResult("x", "cpu", "fp32", "core", parity=near).equals_torch()
    assert not TargetResult("x", "cpu", "fp32", "core", parity=far).equals_torch()
    assert TargetResult("x", "cpu", "int8", "core", parity=far).equals_torch()
    assert TargetResult("tensorrt", "sm_89", "fp32", "core").equals_torch()


def test_meter_is_corrected_for_drift(mini_space, measured_table, monkeypatch):
    result = TargetResult("onnxruntime", "cpu", "fp32", "dense", measured_ms=1.2, drift_pct=20.0)
    monkeypatch.setattr("lgc.profiler.deployment.latency.time_network", lambda *_, **__: result)
    assert make_latency_meter(measured_table, "dense")(mini_space.sample(2)) == pytest.approx(1.0)


def test_layer_times_are_written(mini_space, measured_table, tmp_path):
    network = Network(mini_space.sample(2), None, "dense")
    result = TargetResult("onnxruntime", "cpu", "fp32", "dense", measured_ms=0.2, drift_pct=0.0)
    with LatencyTable.open(measured_table) as table:
        explained = add_layer_times(network, ORT, table, result, tmp_path)
    path = tmp_path / f"{network.stem}-onnxruntime-fp32-layers.json"
    assert explained.layers == str(path)
    content = json.loads(path.read_text())
    assert sum(group["measured_ms"] for group in content["slots"]["groups"]) == pytest.approx(0.2)
    assert all(layer["nodes"] for layer in content["layers"])
    assert json.loads(json.dumps(explained.as_dict()))["slots"]["entries"] is not None


def test_prediction_far_off_names_noisy_entries(mini_space, mini_lut):
    """A table of a short budget, whose entries are far too long."""
    with LatencyTable.open(mini_lut) as table:
        table.set_metadata("calibration", {"dense": {"form": "affine", "intercept_ms": 0.0, "weights": [9.0]}})
        with table.store.transaction() as connection:
            connection.execute("UPDATE entries SET status = 'noisy'")
        count = len(table.entries())
        result = time_network(Network(mini_space.sample(2), None, "dense"), ORT, table, seconds=0.1)
    assert result.note.startswith(f"the prediction is off by {result.error_pct:+.0f} %: {count} of {count} entries of ")
    assert "are noisy: continue with lgc-profile --device cpu " in result.note


def test_starved_process_gives_a_remark():
    """Runs that wait for CPU time leave the table's statistic, of the fastest runs, unchanged."""
    free = TargetResult("torch", "cpu", "fp32", "dense", measured_ms=1.5, median_ms=1.7)
    assert free.starvation is None
    starved = replace(free, median_ms=63.7, note="own")
    assert starved.starvation.startswith(
        "the median of all runs, 63.7 ms, is 42.5 times the latency of undisturbed runs, "
    )
    assert starved.as_dict()["note"] == f"own; {starved.starvation}"
    waiting = replace(free, p90_ms=21.8)
    assert waiting.starvation.startswith(
        "the 90th percentile of all runs, 21.8 ms, is 14.5 times the latency of undisturbed runs, "
    )
    assert TargetResult("tensorrt", "sm_89", "fp32", "core").starvation is None
