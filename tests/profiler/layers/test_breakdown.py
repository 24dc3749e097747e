"""Rows of a breakdown and the lines on them: costs of fused layers and copies, percent of the peak, plain words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from torch import nn
from torch.nn import functional as F

from lgc.lut import Target
from lgc.models.onnx.counting.costs import count_costs
from lgc.models.onnx.counting.node_costs import GraphCosts, with_node_names
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.base import RuntimeLayer
from lgc.profiler.candidates import read_file_candidate
from lgc.profiler.layers.breakdown import LayerBreakdown, LayerRow, assign_nodes, make_rows, name_layers
from lgc.profiler.layers.peak import DevicePeak
from lgc.profiler.layers.remarks import describe_layer, describe_longest
from lgc.profiler.layers.timing import LayerMeasurement, time_layers

from ... import onnx_files as files

CPU = Target("cpu", "onnxruntime")
PEAK = DevicePeak("cpu", "fp32", 1e9, ((2**18, 1e10), (2**28, 1e10)), "2026-01-01", 1.0)
"""1 GMACs/s, 10 GB/s: balanced at 0.1 MACs per byte."""
SIZE = (64, 128)
ROW = LayerRow("/conv", "Conv+Relu", "7x7/2", (1, 8, 32, 64), 2.0, 31.0, 10**6, 10**5, 10.0, 50.0, "compute", False)


class Residual(nn.Module):
    """Convolution with fused activation and addition, a normalisation of its own, upsampling."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.norm((x + self.second(x)).relu()).relu()
        return F.interpolate(x, scale_factor=2.0)


@pytest.fixture(scope="module")
def workload():
    return Workload("net", ((1, 16, 16, 16),), lambda: Residual().eval())


@pytest.fixture(scope="module")
def measured(workload):
    return time_layers(get_backend("onnxruntime"), CPU, workload, 0.0)


def test_every_mac_belongs_to_one_layer(workload, measured):
    rows = make_rows(measured, GraphCosts(workload.onnx), PEAK)
    assert sum(row.macs for row in rows) == count_costs(workload.onnx).macs == 2 * 16 * 16 * 9 * 256
    assert sum(row.share_pct for row in rows) == pytest.approx(100)
    assert [row.ms for row in rows] == sorted((row.ms for row in rows), reverse=True)
    assert sum(row.ms for row in rows) == pytest.approx(measured.sum_ms)


@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "dynamic"])
def test_quantised_macs_belong_to_one_layer(kind, tmp_path):
    """ONNX infers no shapes behind QLinearAdd: they are measured."""
    model = with_node_names(files.quantise(tmp_path, kind, files.residual()).read_bytes())
    quantised = Workload("net", (files.IMAGE,), None, file=model)
    layers = time_layers(get_backend("onnxruntime"), replace(CPU, precision="int8"), quantised, 0.0)
    rows = make_rows(layers, GraphCosts(model), PEAK)
    assert sum(row.macs for row in rows) == count_costs(model).macs == 16 * 24 * (2 * 8 * 27 + 4 * 8)
    assert all("Conv" in row.operator for row in rows if row.macs)
    assert all(row.bytes is not None for row in rows)
    copies = [row for row in rows if row.is_copy]
    assert all(row.bytes == 2 * np.prod(row.shape) for row in copies), "bytes of int8"
    assert len(copies) == (2 if kind != "dynamic" else 0)


def test_loop_has_unknown_costs():
    """Its runs depend on values."""
    model = with_node_names(files.loop().SerializeToString())
    layers = [RuntimeLayer(name, (name,)) for name in ("first", "relu", "repeat", "last")]
    rows = make_rows(LayerMeasurement(tuple(layers), (4.0, 3.0, 2.0, 1.0), 10.0, 1.0, 9), GraphCosts(model), PEAK)
    assert [row.macs for row in rows] == [96 * 8 * 27, 0, None, 96 * 4 * 8]
    assert (rows[2].bytes, rows[2].peak_pct, rows[2].limit) == (None, None, None)
    assert "multiply-accumulates of Loop are not counted" in describe_layer(rows[2], SIZE, PEAK)


def test_fused_layers_have_operators_of_their_nodes(workload, measured):
    rows = {row.name: row for row in make_rows(measured, GraphCosts(workload.onnx), PEAK) if not row.is_copy}
    assert rows["/first/Conv"].operator == "Conv+Relu"
    assert rows["/second/Conv"].operator == "Conv+Add+Relu"
    assert rows["/second/Conv"].shape == (1, 16, 16, 16)
    assert {row.operator for row in rows.values() if row.macs == 0} >= {"BatchNormalization+Relu"}


def test_copy_has_bytes_but_no_macs(workload):
    layers = (
        RuntimeLayer("copy", ("/first/Conv",), "ReorderOutput", (1, 16, 16, 16), is_copy=True),
        RuntimeLayer("conv", ("/first/Conv", "/Relu"), "Conv"),
        RuntimeLayer("other", (), "Unknown", (1, 4)),
        RuntimeLayer("view", (), "Reshape", (1, 4)),
    )
    measured = LayerMeasurement(layers, (3.0, 2.0, 1.0, 0.5), 6.0, 1.0, 9)
    copy, conv, other, view = make_rows(measured, GraphCosts(workload.onnx), PEAK)
    assert (copy.name, copy.macs, copy.bytes) == ("/first/Conv", 0, 2 * 4 * 16**3)
    assert copy.limit == "memory"
    assert copy.peak_pct == pytest.approx(100 * PEAK.memory_ms(copy.bytes) / 3)
    assert conv.macs == 16 * 16 * 9 * 256
    assert (conv.limit, conv.intensity) == ("compute", conv.macs / conv.bytes)
    assert conv.peak_pct == pytest.approx(100 * PEAK.compute_ms(conv.macs) / 2)
    assert (other.name, other.operator, other.shape) == ("other", "Unknown", (1, 4))
    assert (other.macs, other.bytes, other.peak_pct) == (None, None, None)
    assert (view.macs, view.bytes, view.peak_pct) == (0, 0, None)


def test_layers_of_the_runtime_have_its_bytes():
    """The runtime computes a HardSwish that it cannot fuse in two layers."""

    class Activated(nn.Module):
        def forward(self, x):
            return F.hardswish(x.sin())

    workload = Workload("net", ((1, 16, 8, 8),), Activated)
    rows = make_rows(time_layers(get_backend("onnxruntime"), CPU, workload, 0.0), GraphCosts(workload.onnx), PEAK)
    costs = {row.operator: (row.macs, row.bytes) for row in rows}
    assert costs.keys() == {"Sin", "HardSigmoid", "HardSwish"}
    assert costs["HardSigmoid"] == (0, 2 * 4 * 16 * 8 * 8)


def test_product_of_the_runtime_has_unknown_macs(workload):
    layers = tuple(RuntimeLayer(name, (), name, (1, 4), moved_bytes=32) for name in ("FusedConv", "If", "Mul"))
    rows = make_rows(LayerMeasurement(layers, (3.0, 2.0, 1.0), 6.0, 1.0, 9), GraphCosts(workload.onnx), PEAK)
    assert [(row.macs, row.bytes) for row in rows] == [(None, 32), (None, 32), (0, 32)]


def test_spread_node_counts_in_longest_layer(workload):
    layers = [RuntimeLayer(name, ("/first/Conv", "unknown")) for name in ("short", "long")]
    assert assign_nodes(layers, (1.0, 2.0), GraphCosts(workload.onnx)) == [(), ("/first/Conv",)]


def make_breakdown(*rows):
    return LayerBreakdown("net", SIZE, CPU, rows, 10.5, 10.0, 1.0, 72, PEAK)


def test_json_has_layers_and_both_latencies():
    content = make_breakdown(ROW).as_dict()
    assert (content["sum_ms"], content["network_ms"], content["layer_runs"]) == (10.5, 10.0, 72)
    names = {"name", "operator", "shape", "ms", "share_pct", "macs", "bytes", "intensity", "peak_pct"}
    assert names <= content["layers"][0].keys()
    assert make_breakdown(ROW).excess_pct == pytest.approx(5)


def test_longest_layers_have_a_line():
    lines = describe_longest(make_breakdown(*[ROW] * 5))
    assert [line[:2] for line in lines] == ["1.", "2.", "3."]
    assert lines[0].startswith("1. /conv: conv 7x7/2 at 1/2: 31 % of the time, 50 % of peak, compute-bound: 10.0 MACs")


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"peak_pct": 80.0, "limit": "memory"}, "80 % of peak, memory-bound: 10.0 MACs/byte, 10 GB/s for 0.1 MB"),
        ({"peak_pct": 12.0}, "bound by neither: 1.000 ms of arithmetic and 0.010 ms of memory traffic at the peaks"),
        ({"peak_pct": 140.0}, "140 % of peak, faster than the measured peak (1 GMACs/s)"),
        ({"peak_pct": 140.0, "limit": "memory"}, "faster than the measured peak (10 GB/s for 0.1 MB)"),
        ({"macs": None}, "costs unknown"),
        ({"peak_pct": None, "macs": 0, "bytes": 0}, "its time is the runtime's own"),
        ({"macs": 0, "limit": "memory", "is_copy": True, "kernel": ""}, "change of layout at 1/2: 31 % of the time"),
        ({"macs": None, "is_traced": False}, "the runtime does not report the ONNX nodes"),
        ({"bytes": None}, "the size of a tensor is known only when it runs"),
        (
            {"kernel": "depthwise transposed 4x4/2", "operator": "ConvTranspose"},
            "depthwise transposed conv 4x4/2 at 1/2",
        ),
        ({"kernel": "", "operator": "Resize", "shape": (1, 8, 64, 128)}, "/conv: Resize at 1/1:"),
        ({"kernel": "", "operator": "Softmax", "shape": (1, 4, 32, 64)}, "/conv: Softmax: 31 %"),
        ({"kernel": "", "operator": "Mul+MatMul", "shape": (1, 4, 32, 64)}, "/conv: Mul+MatMul: 31 %"),
        ({"kernel": "", "operator": "ArgMax", "shape": (1, 64, 128)}, "ArgMax at 1/1:"),
        ({"kernel": "1x1", "shape": (1, 8, 1, 1)}, "conv 1x1: 31 %"),
    ],
)
def test_line_states_what_figures_support(changes, phrase):
    assert phrase in describe_layer(replace(ROW, **changes), SIZE, PEAK)


@pytest.mark.parametrize("name", ["first", ""])
def test_large_weights_are_decoded_once(name, tmp_path, monkeypatch):
    """Once for all checks, shapes and costs; a second time only where nodes need names."""
    weights = {"w1": np.ones((64, 3, 9, 9), "f4"), "b1": np.ones(64, "f4"), "w2": np.ones((64, 64, 1, 1), "f4")}
    model = files.make(outputs=[files.value("y", (1, 64, 5, 9))], weights=weights)
    model.graph.node[0].name = name
    path, sizes = files.save(model, tmp_path / "m.onnx"), []

    def record(function):
        def call(model, **options):
            sizes.append(len(model if isinstance(model, bytes) else model.SerializeToString()))
            return function(model, **options)

        return call

    for module, function in (
        (onnx, "load_model_from_string"),
        (onnx.shape_inference, "infer_shapes"),
        (onnx.checker, "check_model"),
    ):
        monkeypatch.setattr(module, function, record(getattr(module, function)))
    candidate = read_file_candidate(path)
    assert candidate.costs.macs
    workload, graph = name_layers(candidate, "fp32")
    assert graph.count(["last"]).macs == 64 * 64 * 5 * 9
    assert "" not in [node.name for node in onnx.load_from_string(workload.onnx).graph.node]
    assert len([size for size in sizes if size > 1500]) == (1 if name else 2)
