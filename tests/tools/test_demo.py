"""`lgc-demo` on a dataset of the user's, and its messages."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from lgc.lut import LatencyTable
from lgc.models import Architecture, SearchSpace
from lgc.profiler import profile as profiler
from lgc.profiler.deployment import export
from lgc.profiler.deployment.latency import TargetResult
from lgc.report.overlays import CELL
from lgc.search import config
from lgc.search.data.synthetic.writers import FOUR_CLASSES, write_scenes
from lgc.tools import demo
from lgc.tools.demo import explain_error, judge

SHORT = {"rounds": 4, "networks": 0}


AGAIN, ANEW = "`lgc-demo` measures the network again", "run `rm -r run && lgc-demo`"


def measure(drift_pct, error_pct=-15.7):
    return TargetResult("onnxruntime", "cpu", "fp32", "dense", drift_pct=drift_pct, error_pct=error_pct)


@pytest.mark.parametrize(
    ("drift_pct", "cause", "command"),
    [
        (140.0, "the machine ran 2.4x slower than during profiling", AGAIN),
        (-50.0, "the machine ran 2.0x faster than during profiling", ANEW),
        (8.0, "", ANEW),
        (None, "", ANEW),
    ],
)
def test_error_names_cause_and_next_step(drift_pct, cause, command):
    line = explain_error(measure(drift_pct), Path("run"), "lgc-demo")
    assert line.endswith(f"the prediction is off by -15.7 % (limit 10 %); on an idle machine, {command}")
    assert line.startswith(f"not judged: {cause}, " if cause else "the prediction")
    assert judge(measure(drift_pct)) == ("not judged" if cause else "failed")


def test_small_error_passes_whatever_the_drift():
    assert judge(measure(140.0, 9.9)) == judge(measure(None, None)) == "passed"


@pytest.fixture
def four_classes(tmp_path):
    """Return a dataset of four classes, described by a dataset.yaml."""
    return write_scenes(tmp_path / "four", FOUR_CLASSES, {"train": 4, "val": 2}, (32, 32), 0).directory


@pytest.fixture
def short(mini_space, monkeypatch):
    """Use a space smaller than the demo's, and shorten every stage."""
    profile = profiler.profile
    monkeypatch.setattr(SearchSpace, "load", lambda name: mini_space)
    monkeypatch.setattr(profiler, "profile", lambda *args, **kwargs: profile(*args, **{**kwargs, **SHORT}))
    monkeypatch.setattr(config, "SearchConfig", partial(config.SearchConfig, trials=0))
    monkeypatch.setattr(export, "ExportSettings", partial(export.ExportSettings, seconds=0.2))


@pytest.mark.usefixtures("short")
def test_demo_runs_on_four_classes(call, four_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TOLERANCE_PCT", math.inf)  # however busy the machine is
    out = tmp_path / "demo"
    done = call("lgc-demo", "--data", four_classes, "--out", out, "--steps", 2, "--json")
    assert done.code == 0, done.err
    assert f"[1/5] read {four_classes}: 4 classes, images: train 4, val 2" in done.err
    summary = json.loads(done.out)
    assert summary["data"] == str(four_classes)
    assert summary["equals_torch"]
    assert Architecture.load(summary["architecture"]).space.classes == 4
    with LatencyTable.open(out / "tiny.lut") as table:
        assert table.space.classes == 4
    assert not (out / "data").exists()
    assert summary["outcome"] == "passed"
    with Image.open(summary["picture"]) as picture:
        assert picture.width > 4 * CELL[0], "labels and predictions of two images"


@pytest.mark.usefixtures("short")
def test_large_error_under_drift_is_measured_again(call, four_classes, tmp_path, monkeypatch):
    measured, export_network = [], export.export_network

    def measure_loaded(*args, **kwargs):
        result = export_network(*args, **kwargs)
        measured.append(replace(result.targets[0], drift_pct=150.0, error_pct=-20.0))
        return replace(result, targets=(measured[-1],))

    monkeypatch.setattr(export, "export_network", measure_loaded)
    done = call("lgc-demo", "--data", four_classes, "--out", tmp_path / "demo", "--steps", 2)
    assert done.code == 1
    assert len(measured) == 2
    first = "first measurement of the network: the machine ran 2.5x slower than during profiling; measured it a second"
    assert first in done.err
    assert "lgc-demo: second measurement: not judged: the machine ran 2.5x slower" in done.err
    assert "Machine drift, second measurement of the network: 2.5x slower than" in done.out
    searched = json.loads((tmp_path / "demo" / "run" / "search-result.json").read_text())
    (line,) = [line for line in done.out.splitlines() if line.startswith("target ")]
    assert line.startswith(f"target {searched['target_ms']:.4g} ms: measured ")
    assert f"measured; {measured[-1].measured_ms:.4g} ms now" in line
    assert f"  lgc-data check {four_classes} --overlays labels.png\n" in done.out


def test_data_without_validation_images_are_refused_first(call, tmp_path):
    data = write_scenes(tmp_path / "four", FOUR_CLASSES, {"train": 4}, (32, 32), 0).directory
    line = call("lgc-demo", "--data", data, "--out", tmp_path / "demo").refusal("lgc-demo")
    assert "four has no val images" in line
    assert not (tmp_path / "demo").exists()
