"""`lgc-demo` on a dataset of the user's, and its messages."""

import json
import math
from functools import partial
from pathlib import Path

import pytest

from lgc.lut import LatencyTable
from lgc.models import Architecture, SearchSpace
from lgc.profiler import profile as profiler
from lgc.profiler.deployment import export
from lgc.profiler.deployment.latency import TargetResult
from lgc.search import config
from lgc.search.data.synthetic.writers import FOUR_CLASSES, write_scenes
from lgc.tools import demo
from lgc.tools.demo import explain_error

SHORT = {"rounds": 4, "networks": 0}


@pytest.mark.parametrize(
    ("drift_pct", "rest"),
    [
        (140.0, "; the machine ran 2.4x slower than during profiling: run it again on an idle machine"),
        (-50.0, "; the machine ran 2.0x faster than during profiling: delete run and run it again on an idle machine"),
        (8.0, ": delete run and run it again on an idle machine"),
        (None, ": delete run and run it again on an idle machine"),
    ],
)
def test_error_names_cause_and_next_step(drift_pct, rest):
    measured = TargetResult("onnxruntime", "cpu", "fp32", "dense", drift_pct=drift_pct, error_pct=-15.7)
    assert explain_error(measured, Path("run")) == f"the prediction is off by -15.7 % (limit 10 %){rest}"


@pytest.fixture
def four_classes(tmp_path):
    """Return a dataset of four classes, described by a dataset.yaml."""
    return write_scenes(tmp_path / "four", FOUR_CLASSES, {"train": 4, "val": 2}, (32, 32), 0).directory


def test_demo_runs_on_four_classes(call, four_classes, mini_space, tmp_path, monkeypatch):
    """The space is smaller than the demo's, and every stage is shorter."""
    profile = profiler.profile
    monkeypatch.setattr(SearchSpace, "load", lambda name: mini_space)
    monkeypatch.setattr(profiler, "profile", lambda *args, **kwargs: profile(*args, **{**kwargs, **SHORT}))
    monkeypatch.setattr(config, "SearchConfig", partial(config.SearchConfig, trials=0))
    monkeypatch.setattr(export, "ExportSettings", partial(export.ExportSettings, seconds=0.2))
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


def test_data_without_validation_images_are_refused_first(call, tmp_path):
    data = write_scenes(tmp_path / "four", FOUR_CLASSES, {"train": 4}, (32, 32), 0).directory
    line = call("lgc-demo", "--data", data, "--out", tmp_path / "demo").refusal("lgc-demo")
    assert "four has no val images" in line
    assert not (tmp_path / "demo").exists()
