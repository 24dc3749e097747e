"""Table of a network's layers: width, cumulative share, shortened names, warnings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from lgc.lut import Target
from lgc.profiler.layers.breakdown import LayerBreakdown, LayerRow
from lgc.profiler.layers.peak import DevicePeak
from lgc.tools.cli.tables.layer_table import LEGEND, abbreviate, make_layer_tables, shorten

LONG = "/network/some/module.with/a/very.long/name/that.has/no/end.0/conv/Conv"
PEAK = DevicePeak("cpu, onnxruntime, fp32, 1 thread", "fp32", 5e10, ((2**18, 9e10), (2**28, 1e10)), "2026-01-01", 9.0)
ROW = LayerRow(LONG, "Conv+Add+Relu", "depthwise 3x3/2", (1, 2048, 1024, 2048), 1234.567, 4.0, 10**11, 10**9, 1e2, 86.0,
               "compute", False)  # fmt: skip


def make_breakdown(rows, sum_ms=102.0, network_ms=100.0):
    target = Target("cpu", "onnxruntime")
    return LayerBreakdown("net", (1024, 2048), target, tuple(rows), sum_ms, network_ms, 1.0, 72, PEAK)


def print_table(part, width=120):
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return capture.get().splitlines()


def test_table_has_twenty_layers_and_a_rest():
    table, *_ = make_layer_tables([make_breakdown([ROW] * 25)])
    header, _, *rows = print_table(table)[1:]
    assert " ".join(header.split()) == "layer operator output ms share % cum. % MMACs MB MACs/B peak %"
    assert len(rows) == 21
    assert rows[-1].split() == ["5", "more", "6172.835", "20.0", "100.0", "500000.0", "5000.00"]
    assert rows[19].split()[-7:-4] == ["1234.567", "4.0", "80.0"]


@pytest.mark.parametrize(("unknown", "sums"), [(2, ["≥300000.0", "≥3000.00"]), (5, ["-", "-"])])
def test_sum_of_rest_says_unknown_costs(unknown, sums):
    rows = [ROW] * (25 - unknown) + [replace(ROW, macs=None, bytes=None)] * unknown
    table, *_ = make_layer_tables([make_breakdown(rows)])
    assert print_table(table, 140)[-1].split()[-2:] == sums


def test_table_fits_a_terminal():
    table, *_ = make_layer_tables([make_breakdown([ROW] * 25)])
    lines = print_table(table, 400)
    assert max(map(len, (line.rstrip() for line in lines))) <= 120
    assert "DwConv 3x3/2+Add+Relu" in lines[3]


def test_unknown_costs_are_dashes():
    row = replace(ROW, macs=None, bytes=None, intensity=None, peak_pct=None, shape=(), kernel="", operator="Reshape")
    table, *_ = make_layer_tables([make_breakdown([row])])
    assert print_table(table)[3].split()[-4:] == ["-"] * 4


def test_sum_stands_next_to_the_network():
    lines = [part for part in make_layer_tables([make_breakdown([ROW])]) if isinstance(part, str)]
    assert lines[0].startswith("sum of 1 layer: 102.000 ms with the profiler on, +2.0 % of the network's 100.000 ms")
    assert "apart" not in lines[0]
    assert "50 GMACs/s; 90 GB/s for 256 KiB, 10 GB/s for 256 MiB" in lines[1]
    assert lines[2].startswith(f"1. {LONG}: depthwise conv 3x3/2 at 1/1: 4 % of the time")
    assert lines[-1] == LEGEND


def test_large_difference_is_a_warning():
    _, line, *_ = make_layer_tables([make_breakdown([ROW] * 2, sum_ms=110.0)])
    assert line.endswith("More than 5 % apart: the profiler changes each layer by +5000.0 us on average")


def test_busy_machine_is_a_warning():
    _, line, *_ = make_layer_tables([replace(make_breakdown([ROW], sum_ms=110.0), spread_pct=12.0)])
    assert "Busy machine: the network's latency spreads by ±12 %" in line
    assert "apart" not in line


def test_peak_in_another_precision_is_said():
    breakdown = replace(make_breakdown([ROW]), peak=replace(PEAK, target="cpu, onnxruntime, int8, 1 thread"))
    assert "in fp32 (not measured in the target's precision)" in make_layer_tables([breakdown])[2]


def test_uncertainty_of_the_peak_is_said():
    breakdown = replace(make_breakdown([ROW]), peak=replace(PEAK, slowest_macs_per_s=3e10))
    assert "50 GMACs/s (slowest repetition 30); 90 GB/s" in make_layer_tables([breakdown])[2]


def test_different_layers_have_different_names():
    """A copy has the name of the node that computes its tensor."""
    names = [("/a/Softmax", "Softmax"), ("/a/MatMul", "Mul+MatMul"), ("/b/MatMul", "MatMul"), ("/c/Conv", "Conv")]
    rows = [replace(ROW, name=name, operator=operator, kernel="") for name, operator in names]
    table, *_ = make_layer_tables([make_breakdown([*rows, replace(rows[-1], operator="Conv+Relu")])])
    assert [line.split()[0] for line in print_table(table)[3:]] == ["a/Softmax", "a/MatMul", "b", "c", "c"]


@pytest.mark.parametrize(
    ("operator", "kernel", "expected"),
    [
        ("DequantizeLinear", "", "Dequantize"),
        ("DynamicQuantizeLinear", "", "DynamicQuantize"),
        ("ReduceMean+Sub+Pow+Add+Sqrt+Div+Mul", "", "…+Pow+Add+Sqrt+Div+Mul"),
        ("Cast+Sqrt+Div+Transpose+MatMul", "", "…+Div+Transpose+MatMul"),
        ("Conv+BatchNormalization+HardSwish", "3x3/2", "Conv 3x3/2+BatchNorm+…"),
        ("ConvTranspose", "depthwise transposed 4x4/4", "DwConvTranspose 4x4/4"),
        ("ConvTranspose", "transposed 4x4/2", "ConvTranspose 4x4/2"),
        ("Transpose+Reshape", "", "Transpose+Reshape"),
    ],
)
def test_operators_are_shortened_by_whole_words(operator, kernel, expected):
    table, *_ = make_layer_tables([make_breakdown([replace(ROW, name="n", operator=operator, kernel=kernel)])])
    assert expected in print_table(table)[3].split("  ")


def test_layers_above_the_peak_are_a_warning():
    fast = replace(ROW, peak_pct=122.0)
    _, _, _, line, *_ = make_layer_tables([make_breakdown([ROW, fast, replace(fast, peak_pct=110.0)])])
    assert line.startswith("layers above the peak of arithmetic: 2, up to 122 %: data in a faster cache")
    assert "--refresh-peak" in line
    breakdown = replace(make_breakdown([fast]), target=Target("cpu", "onnxruntime", "int8"))
    line = make_layer_tables([breakdown])[3]
    assert line.endswith("122 %: the peak is that of fp32, which int8 may exceed"), "measuring again cannot help"


@pytest.mark.parametrize(
    ("name", "operator", "expected"),
    [
        ("/network/context4/context4.0/body/body.1/conv/Conv", "Conv+Relu", "network/context4.0/body.1/conv"),
        ("/network/attend/Mul_1", "Mul", "network/attend/Mul_1"),
        ("/network/attend/Mul", "Mul", "network/attend"),
        ("Conv_17", "Conv", "Conv_17"),
        ("Conv", "Conv", "Conv"),
        ("", "Conv", ""),
    ],
)
def test_names_lose_what_they_repeat(name, operator, expected):
    assert abbreviate(name, operator) == expected


def test_long_names_lose_their_middle():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abc…fghijk"
