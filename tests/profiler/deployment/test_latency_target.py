"""Target of the search, compared with the measured network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lgc.lut import LatencyTable, Target
from lgc.profiler.deployment.latency import TargetResult, time_network
from lgc.profiler.deployment.latency_target import LatencyTarget
from lgc.profiler.deployment.network import Network
from lgc.profiler.deployment.target_report import describe_target

ORT = Target("cpu", "onnxruntime")
MEASURED = TargetResult(
    "onnxruntime", "cpu", "fp32", "dense", predicted_ms=0.6, predicted_high_ms=0.618, measured_ms=0.6, median_ms=0.7194,
    p90_ms=0.8, fps=1390.0, drift_pct=0.0,
)  # fmt: skip
RATE = replace(MEASURED, target_ms=0.592, target_fps=1500.0)
LATENCY = replace(MEASURED, target_ms=0.6, measured_ms=0.5, drift_pct=-20.0)


def test_missed_frame_rate_says_by_how_much():
    line = describe_target(RATE)
    assert line.startswith("target 1500 FPS: measured 1390 FPS (7.3 % short): more than the prediction interval: ")
    assert line.endswith("search with --measure, or with --target-fps 1619")
    assert RATE.as_dict()["target_shortfall_pct"] == pytest.approx(7.33, abs=0.01)


@pytest.mark.parametrize(("fps", "end"), [(1480.0, "(1.3 % short)"), (1600.0, "(6.7 % above)")])
def test_near_or_met_target_needs_no_advice(fps, end):
    assert describe_target(replace(RATE, fps=fps)) == f"target 1500 FPS: measured {fps:.4g} FPS {end}"


def test_causes_outside_the_network_are_named():
    slow_median = describe_target(replace(RATE, error_pct=0.0))
    assert "undisturbed runs are as fast as predicted, but the median of all runs is 20 % above them: " in slow_median
    assert slow_median.endswith("--target-fps 1619")
    assert "the process waits for CPU time: measure again on an idle" in describe_target(replace(RATE, median_ms=3.0))
    assert "the machine runs 9.0 % slower than when" in describe_target(replace(RATE, drift_pct=9.0))


def test_latency_is_compared_without_drift():
    """0.5 ms on a machine that is 20 % faster now were 0.625 ms when the table was measured."""
    line = describe_target(LATENCY)
    assert line.startswith("target 0.6 ms: measured 0.625 ms (4.2 % above) at the machine's speed when the table was ")
    assert "measured; 0.5 ms now: more than the prediction interval: " in line
    assert line.endswith("--target-ms 0.576")
    met = describe_target(replace(LATENCY, measured_ms=0.48))
    assert met.startswith("target 0.6 ms: measured 0.6 ms (0.0 % ")
    assert met.endswith("0.48 ms now")


def test_network_without_target_has_no_line():
    assert describe_target(MEASURED) is None
    assert MEASURED.as_dict()["target_shortfall_pct"] is None


PROVENANCE = {
    "targets": [str(ORT), "cuda:0, tensorrt, fp16"],
    "scope": "dense",
    "target_ms": 0.592,
    "target_fps": 1500.0,
}
ROWS = {"tables": [{"target_ms": 1.0, "target_fps": 800.0}, {"target_ms": 2.0}]}


@pytest.mark.parametrize(
    ("changes", "target", "scope", "expected"),
    [
        ({}, ORT, "dense", LatencyTarget(0.592, 1500.0)),
        ({}, ORT, "core", None),
        ({}, Target("cpu", "torch"), "dense", None),
        ({"target_ms": None}, ORT, "dense", None),
        (ROWS, ORT, "dense", LatencyTarget(1.0, 800.0)),
        (ROWS, Target("cuda:0", "tensorrt", "fp16"), "dense", LatencyTarget(2.0)),
        ({"targets": None}, ORT, "dense", None),
    ],
)
def test_target_belongs_to_device_and_scope(changes, target, scope, expected):
    assert LatencyTarget.from_provenance(PROVENANCE | changes, target, scope, None) == expected


@pytest.mark.parametrize(("name", "expected"), [("Xeon", 0.592), ("Z80", None), (None, 0.592)])
def test_another_device_model_has_no_target(name, expected):
    provenance = PROVENANCE | {"device_names": ["Xeon", "RTX"]}
    target = LatencyTarget.from_provenance(provenance, ORT, "dense", None, name)
    assert (None if target is None else target.ms) == expected


def test_older_run_is_known_by_its_table(mini_space, measured_table):
    provenance = {"table": str(measured_table.resolve()), "scope": "dense", "target_ms": 0.3}
    network = Network(mini_space.sample(2).with_provenance(provenance), None, "dense")
    with LatencyTable.open(measured_table) as table:
        result = time_network(network, ORT, table, seconds=0.1)
    assert (result.target_ms, result.target_fps) == (0.3, None)
    assert result.target_shortfall_pct is not None
