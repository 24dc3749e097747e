"""`lgc-export` from the command line, after a search and a training."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.lut import LatencyTable, Predictor
from lgc.models import Architecture
from lgc.profiler.deployment.export import ExportResult, FileResult
from lgc.profiler.deployment.latency import TargetResult
from lgc.profiler.deployment.layer_attribution import EntryDeviation, SlotReport
from lgc.profiler.deployment.parity import RANDOM, Parity
from lgc.search.data.synthetic.writers import write_scenes
from lgc.tools.cli.tables.export_table import make_export_tables

from .. import onnx_files

PARITY = Parity(0.0, 0.0, 0.0, 100.0, 1, RANDOM)


@pytest.fixture(scope="module")
def lut(tmp_path_factory, mini_space):
    """Return a measured table of a space with the scenes' classes."""
    from lgc.lut import Target
    from lgc.profiler.profile import profile

    folder = tmp_path_factory.mktemp("lut")
    space = mini_space.check({**mini_space.model_dump(mode="json"), "name": "street", "classes": 11}, "street")
    profile(space, Target("cpu", "onnxruntime"), folder / "street.lut", rounds=4, networks=4)
    return folder / "street.lut"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, "camvid-segnet", {"train": 6, "val": 2, "test": 0}, (32, 32), 0)
    return folder


@pytest.fixture
def run(call, lut, data, tmp_path):
    """Return a run folder with a searched and trained network."""
    out = tmp_path / "run"
    options = ("--data", data, "--batch", 2, "--json")
    searched = call("lgc-search", "--lut", lut, "--out", out, *options, "--steps", 4, "--trials", 0)
    assert searched.code == 0, searched.err
    trained = call("lgc-train", out, *options, "--steps", 4)
    assert trained.code == 0, trained.err
    return out, json.loads(searched.out), json.loads(trained.out)


def test_search_train_export_print_documented_json(call, run, lut):
    out, searched, trained = run
    assert {"architecture", "target_ms", "predicted_ms", "steps", "seconds"} <= searched.keys()
    assert {"weights", "miou", "per_class"} <= trained.keys()
    done = call("lgc-export", out, "--onnx", "--ort", "--seconds", 0.2, "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    (result,) = content["results"]
    with LatencyTable.open(lut) as table:
        predicted = Predictor(table.space, table).predict(Architecture.load(out / "architecture.json"))
    assert result["table_ms"] == pytest.approx(predicted) == pytest.approx(searched["predicted_ms"])
    assert result["max_abs_diff"] <= 1e-4
    names = {"backend", "device", "precision", "scope", "measured_ms", "error_pct", "fps", "p90_ms", "p99_ms"}
    assert names <= result.keys()
    assert result["engine"] is None
    assert "random weights" not in done.err


def test_exceeded_tolerance_exits_with_1(call, run, tmp_path):
    out, _, _ = run
    slow = Architecture.load(out / "architecture.json").provenance["table"]
    copy = shutil.copy(slow, tmp_path / "wrong.lut")
    with LatencyTable.open(copy) as table:
        wrong = {"form": "affine", "intercept_ms": 0.0, "weights": [3.0]}
        table.set_metadata("calibration", dict.fromkeys(("core", "dense"), wrong))
    done = call("lgc-export", out, "--lut", copy, "--ort", "--seconds", 0.2, "--tolerance", "20%")
    assert done.code == 1
    assert "more than 20 %" in done.err
    assert "predicted" in done.out


def test_each_precision_writes_a_compared_file(call, run, data, tmp_path):
    # Long enough for classes that differ by more than the rounding of fp16.
    out = tmp_path / "longer"
    trained = call("lgc-train", run[0], "--out", out, "--data", data, "--batch", 2, "--steps", 600)
    assert trained.code == 0, trained.err
    options = [word for name in ("fp32", "fp16", "int8") for word in ("--precision", name)]
    done = call("lgc-export", out, *options, "--data", data, "--scope", "end-to-end", "--json")
    assert done.code in (0, 1), done.err  # weights of a short training may not keep int8's bound
    files = json.loads(done.out)["files"]
    assert [file["precision"] for file in files] == ["fp32", "fp16", "int8"]
    assert [row["source"] for row in files[2]["agreement"]] == ["random", "images"]
    assert all(file["passes"] for file in files[:2])
    assert (done.code == 0) == files[2]["passes"]
    assert "--data DIR" in call("lgc-export", out, "--precision", "int8").refusal("lgc-export")


def test_ahead_of_time_engines_are_not_run(call, mini_space, tmp_path):
    if find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip('TensorRT-RTX is missing: pip install "lgc[tensorrt-aot]"')
    mini_space.sample(0).save(tmp_path / "a.json")
    options = ("--trt", "--compute-capability", "8.6", "--precision", "fp32", "--precision", "fp16")
    done = call("lgc-export", tmp_path / "a.json", "--out", tmp_path, *options, "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)["results"]
    assert [(result["precision"], result["device"]) for result in results] == [("fp32", "sm_86"), ("fp16", "sm_86")]
    assert len({Path(result["engine"]).read_bytes() for result in results}) == 2
    assert all("not run" in result["note"] and result["fps"] is None for result in results)
    shown = call("lgc-export", tmp_path / "a.json", "--out", tmp_path, *options).out
    assert shown.count("engine  ") == 2
    unknown = call("lgc-export", tmp_path / "a.json", "--out", tmp_path, "--trt", "--compute-capability", "4.2")
    assert "not for 4.2" in unknown.refusal("lgc-export")


def test_what_belongs_to_no_entry_is_printed():
    """Without the intercept, entries that are all too long seem to contradict a small prediction error."""
    slots = SlotReport((), (EntryDeviation("conv/x", 1, 0.2, 0.1, -0.1),), -0.15, 0.0125, 0.684)
    result = TargetResult("onnxruntime", "cpu", "fp32", "dense", fps=1.0, slots=slots)
    line = make_export_tables(ExportResult((FileResult("a.onnx", "fp32", 1, (PARITY,), True),), (result,)))[-1]
    assert "layer times are scaled by 0.68 to the network's latency" in line
    assert (
        "the calibration's intercept, -0.1500 ms, belongs to no entry, and layers without an entry take 0.0125" in line
    )


def test_layers_are_compared_with_table_entries(call, run):
    out, _, _ = run
    done = call("lgc-export", out, "--ort", "--layers", "--seconds", 0.2)
    assert done.code == 0, done.err
    assert "table entries compared with layer times" in done.out
    (file,) = (out / "export").glob("*-layers.json")
    assert json.loads(file.read_text())["slots"]["groups"]


def test_tolerance_without_prediction_is_rejected(call, run, mini_space, tmp_path):
    out, _, _ = run
    refused = call("lgc-export", out, "--onnx", "--tolerance", "5%").refusal("lgc-export")
    assert refused == "--tolerance requires a backend that runs on this machine: add --backend"
    mini_space.sample(0).save(tmp_path / "a.json")
    without = call("lgc-export", tmp_path / "a.json", "--tolerance", "5%").refusal("lgc-export")
    assert without.endswith("this machine and a latency table: add --backend and --lut")
    other = call("lgc-export", out, "--torch", "--seconds", "0.2s", "--tolerance", "5%")
    assert other.code == 2
    assert "the network runs on cpu, torch" in other.err
    scope = call("lgc-export", out, "--ort", "--scope", "end-to-end", "--tolerance", "5%")
    assert "not end-to-end" in scope.refusal("lgc-export")
    assert "--layers requires a backend" in call("lgc-export", out, "--layers").refusal("lgc-export")
    assert "add --backend tensorrt" in call("lgc-export", out, "--compute-capability", "8.6").refusal("lgc-export")


def test_result_table_agrees_with_json(call, run):
    out, _, _ = run
    numbers = json.loads(call("lgc-export", out, "--ort", "--seconds", 0.2, "--json").out)["results"][0]
    lines = call("lgc-export", out, "--ort", "--seconds", "0.2s").out.splitlines()
    headers = [line for line in lines if line.startswith("backend ")]
    rows = [line for line in lines if line.startswith("onnxruntime ")]
    assert len(rows) == 2, "of the prediction, and of the frame rate"
    assert sum(line.endswith(", 1 thread") for line in lines) == 2
    cells = {}
    for header, row in zip(headers, rows, strict=True):
        cells |= zip(re.split(r"\s{2,}", header.strip()), re.split(r"\s{2,}", row.strip()), strict=True)
    assert float(cells["table ms"]) == pytest.approx(numbers["table_ms"], abs=1e-3)
    assert cells["error"].endswith("%")
    assert 1000 / float(cells["FPS"]) == pytest.approx(float(cells["median ms"]), abs=1e-3)


def test_paths_are_relative_to_working_folder(call, run, data, tmp_path, monkeypatch):
    out, _, _ = run
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = call("lgc-train", f"../{out.name}", "--data", data, "--steps", 4, "--batch", 2, "--json")
    assert json.loads(again.out)["weights"] == f"../{out.name}/weights.safetensors"


def test_foreign_weights_are_not_overwritten(call, run, data, tmp_path):
    out, _, _ = run
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(out / "architecture.json", mine)
    (mine / "weights.safetensors").write_bytes(b"precious")
    refused = call("lgc-train", mine, "--data", data, "--steps", 4, "--batch", 2)
    assert "belongs to a different run" in refused.refusal("lgc-train")
    assert (mine / "weights.safetensors").read_bytes() == b"precious"


def test_architecture_file_exports_with_random_weights(call, mini_space, tmp_path):
    mini_space.sample(0).save(tmp_path / "a.json")
    done = call("lgc-export", tmp_path / "a.json", "--onnx", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "random weights" in done.err
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lgc-export", "{architecture}", "--ort", "--device", "cuda:3"), "no device 'cuda:3' on this machine"),
        (("lgc-export", "{architecture}", "--device", "cuda:0"), "add --backend"),
        (("lgc-export", "{architecture}", "--ort", "--precision", "fp16"), "no precision 'fp16'"),
        (("lgc-export", "{architecture}", "--scope", "end"), "'end' is not one of 'core', 'dense', 'end-to-end'"),
        (("lgc-export", "{architecture}", "--tolerance", "much"), "invalid percentage"),
        (("lgc-export", "{architecture}", "--seconds", "long"), "invalid duration 'long'"),
        (("lgc-export", "{architecture}", "--onnx", "--out", "/proc/nowhere"), "/proc/nowhere"),
        (("lgc-export", "{lut}"), "it is an SQLite database"),
        (("lgc-export", "{architecture}", "--lut", "{architecture}"), "it is JSON text"),
        (("lgc-train", "{folder}", "--data", "{folder}"), "is not a run folder (no architecture.json)"),
        (("lgc-train", "{folder}", "--data", "{folder}", "--steps", "1", "--lr", "0"), "lr"),
        (("lgc-export", "{architecture}", "--precision", "banana"), "'banana' is not one of 'fp32'"),
        (("lgc-profile", "--device", "cpu", "--seed", "-1"), "--seed"),
        (("lgc-demo", "--device", "cuda:5", "--out", "{missing}"), "no device 'cuda:5' on this machine"),
        (("lgc-demo", "--out", "{architecture}"), "a.json: it is a file"),
    ],
)
def test_bad_input_exits_with_one_line(call, lut, mini_space, tmp_path, arguments, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("text")
    mini_space.sample(0).save(tmp_path / "a.json")
    paths = {
        "lut": lut,
        "architecture": tmp_path / "a.json",
        "folder": tmp_path / "folder",
        "missing": tmp_path / "missing",
    }
    before = lut.read_bytes()
    program, *rest = (argument.format(**paths) for argument in arguments)
    assert message in call(program, *rest).refusal(program)
    assert lut.read_bytes() == before
    assert not (tmp_path / "missing").exists()


def test_onnx_file_is_exported(call, tmp_path):
    path = onnx_files.save(onnx_files.two_outputs(("n", 3, "h", "w")), tmp_path / "m.onnx")
    options = ("--ort", "--input", "16x24", "--output-name", "main", "--seconds", 0.1, "--out", tmp_path / "out")
    done = call("lgc-export", path, *options, "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content["onnx"] == str(tmp_path / "out" / "m-16x24-main.onnx")
    assert (content["results"][0]["scope"], content["results"][0]["predicted_ms"]) == ("as is", None)
    for line in ("computes main only, not all 2 outputs", "input x [n, 3, h, w] bound to 1x3x16x24", "no prediction"):
        assert line in done.err
    assert "files, compared with the original" in call("lgc-export", path, *options).out


def test_label_maps_do_not_calibrate(call, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("1", "2", "3"):
        for folder, pixels in (("JPEGImages", rng.integers(0, 256, (16, 24, 3), np.uint8)), ("Labels", np.eye(16) > 0)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"data/{folder}/{name}.png")
    path = onnx_files.save(onnx_files.two_outputs((1, 3, 16, 24)), tmp_path / "m.onnx")
    options = ("--output-name", "main", "--out", tmp_path / "out", "--precision", "int8", "--json")
    done = call("lgc-export", path, *options, "--data", tmp_path / "data")
    assert f"skipped in folder {tmp_path}/data, labels: 3 in Labels/, e.g. Labels/1.png" in done.err.splitlines()
    photos = call("lgc-export", path, *options, "--data", tmp_path / "data/JPEGImages")
    agreements = [json.loads(run.out)["files"][0]["agreement"] for run in (done, photos)]
    assert agreements[0] == agreements[1]


def test_options_of_the_other_kind_are_refused(call, tmp_path, mini_space):
    mini_space.sample(0).save(architecture := tmp_path / "a.json")
    path = onnx_files.save(onnx_files.dynamic(), tmp_path / "m.onnx")
    for arguments, message in (
        ((path,), "x has a dynamic shape"),
        ((path, "--input", "16x24", "--scope", "dense"), "--scope is only for runs and architectures"),
        ((path, "--input", "16x24", "--tolerance", "5%"), "--tolerance is only for runs and architectures"),
        ((architecture, "--input", "16x24"), "--input is only for ONNX files"),
        ((architecture, "--range", "0..1"), "--range is only for ONNX files"),
    ):
        assert message in call("lgc-export", *arguments).refusal("lgc-export")
