"""Tables of the commands at widths of terminals: each number and name of the wide output is whole."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from lgc.lut.statistics.calibration import PredictionReport
from lgc.profiler.deployment.export import ExportResult, FileResult
from lgc.profiler.deployment.latency import TargetResult
from lgc.profiler.deployment.parity import Parity
from lgc.search.data.synthetic.writers import FOUR_CLASSES, write_scenes
from lgc.tools.cli.console import print_tables
from lgc.tools.cli.lut_show import make_report_tables
from lgc.tools.cli.tables.bench_table import make_published_table
from lgc.tools.cli.tables.export_table import make_export_tables

from ..cli.tables.test_layer_table import ROW, make_breakdown

WIDTHS = (40, 80, 100, 132)


def render(parts, width):
    stream = StringIO()
    print_tables(Console(file=stream, width=width, highlight=False, markup=False), parts)
    return stream.getvalue()


def list_words(out):
    return {word for word in out.split() if set(word) != {"─"}}


def make_export():
    parity = Parity(9.1e-6, 1.5e-7, 1e-6, 99.998, images=3, source="random")
    numbers = {
        "table_ms": 3.0391, "predicted_ms": 3.1415, "predicted_low_ms": 2.9876, "predicted_high_ms": 3.2952,
        "measured_ms": 3.0388, "error_pct": 3.4, "drift_pct": 2.1, "fps": 2963.3, "median_ms": 0.3375, "p90_ms": 4.4881,
        "p99_ms": 12.3456,
    }  # fmt: skip
    targets = [
        TargetResult("onnxruntime", "cpu", precision, "dense", **numbers, parity=parity)
        for precision in ("fp32", "bf16")
    ]
    files = (FileResult("export/mini-32x32-ed432229-dense.onnx", "fp32", 70_123, (parity,), True),)
    return ExportResult(files, tuple(targets))


TABLES = {
    "export": lambda: make_export_tables(make_export()),
    "report": lambda: make_report_tables(PredictionReport(24, 1.2, -0.3, 100.0, 100.0, 0.97, 0.99, 1.5, 0.98, 3.3)),
}


@pytest.mark.parametrize("name", TABLES)
def test_numbers_are_whole_at_every_width(name):
    words = list_words(render(TABLES[name](), 400))
    for width in WIDTHS:
        assert words <= list_words(render(TABLES[name](), width))


def test_published_and_layers_are_whole():
    from lgc.models.nets.peers import PEERS
    from lgc.tools.cli.tables.layer_table import make_layer_tables

    for make in (
        lambda: [make_published_table([*PEERS.values()])],
        lambda: make_layer_tables([make_breakdown([ROW] * 3)]),
    ):
        words = list_words(render(make(), 400))
        for width in WIDTHS:
            assert words <= list_words(render(make(), width))


def test_common_tables_fit_eighty_columns():
    out = render(make_export_tables(make_export()), 80)
    assert out.count("files, compared with") == out.count("median ms  ") == 1
    assert "9.1e-06" in out


def test_tables_and_datasets_are_whole(call, mini_lut, tmp_path, monkeypatch):
    data = write_scenes(tmp_path / "four", FOUR_CLASSES, {"train": 4, "val": 2, "test": 2}, (32, 32), 0).directory
    for arguments in (
        ("lgc-lut", "show", mini_lut),
        ("lgc-lut", "show", mini_lut, "--subjects"),
        ("lgc-data", "show", data),
        ("lgc-data", "check", data),
    ):
        wide = list_words(call(*arguments).out)
        for width in WIDTHS:
            with monkeypatch.context() as patch:
                patch.setattr("lgc.tools.cli.console.PIPE_WIDTH", width)
                assert wide <= list_words(call(*arguments).out), arguments
