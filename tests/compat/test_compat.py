"""Files written at commit 99bd0e6 open, and hold the same values; `make.py` documents how they were made."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lgc.profiler.machine import devices

from .make import EXPORTED, VAL, values
from .make import OUTPUTS as COMMANDS

FILES = Path(__file__).with_name("files")
OUTPUTS = sorted(path.stem for path in FILES.glob("outputs/*.json"))
WORDING = {"reason", "differences", "left"}
"""Keys with text for people, which may be reworded."""
FROM_FILES = {"name", "kind", "parameters", "macs", "input", "scope", "precision", "table_ms"}
"""Keys whose values follow from files alone, compared in every output."""
EXACT, REFIT = 1e-9, 1e-6
"""Relative tolerance of values read, and of values fitted again, maybe on another machine."""
MACHINE = "Intel(R) Xeon(R) Processor"
"""Device of the tables: on another, the commands rightly refuse to add measurements to them."""
SEARCH = ("lgc-search", "--lut", "tables/torch.lut", "--data", "scenes", "--steps", 4, "--batch", 2, "--out", "run")
TRAIN = ("lgc-train", "run", "--data", "scenes", "--steps", 4, "--batch", 2)


CHANGED = {
    "import-table": ["output.missing: 58 is 57 now"],
    "upgrade": ["output.to: 2 is 3 now"],
    "upgrade-current": ["output.to: 2 is 3 now", "output.kept: None is 'tables/tiny.lut.v2' now"],
}
"""Intended differences: schema 3 and the geometry of the presets are newer than the files."""
SPACE_OF_TABLE = {"profile-finished": ("tiny", "tables/tiny.lut")}
"""Commands that name a preset, which has another geometry than the table by now: the table names its space."""

REMARKS = ("note",)
"""Texts that depend on the load of the machine; null without a remark."""


def differences(old, new, tolerance=None, where="output"):
    """List keys of `old` that `new` lacks, and values of another type; with a tolerance, also unequal values.

    Without a tolerance, lists may differ in length, and items with a name in order.
    """
    if type(old) is not type(new):
        return [f"{where}: {old!r} is {new!r} now"]
    if isinstance(old, dict):
        gone = [f"{where}.{key} is gone" for key in old if key not in new]
        kept = [key for key in old if key in new]
        return gone + [line for key in kept for line in differences_at(key, old, new, tolerance, where)]
    if isinstance(old, list):
        if len(old) != len(new) and (tolerance is not None or not new):
            return [f"{where}: {len(old)} items are {len(new)} now"]
        if tolerance is None:
            old, new = (sorted(items, key=name_of) for items in (old, new))
        pairs = enumerate(zip(old, new, strict=False))
        return [line for at, pair in pairs for line in differences(*pair, tolerance, f"{where}[{at}]")]
    if tolerance is None:
        return []
    same = old == pytest.approx(new, rel=tolerance) if isinstance(old, float) else old == new
    return [] if same else [f"{where}: {old!r} is {new!r} now"]


def differences_at(key, old, new, tolerance, where):
    if key in REMARKS and None in (old[key], new[key]):
        return []
    limit = None if key in WORDING else EXACT if key in FROM_FILES else tolerance
    return differences(old[key], new[key], limit, f"{where}.{key}")


def name_of(item):
    return item.get("name") or "" if isinstance(item, dict) else ""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Copy of the files, unpacked, as the working directory of the machine that they were measured on.

    The run's settings name the scenes in it.
    """
    monkeypatch.setattr(devices, "read_cpu_model", lambda: MACHINE)
    copy = unpack(tmp_path / "files")
    monkeypatch.chdir(copy)
    return copy


def unpack(folder):
    """Copy the files to a folder, unpack them, and return the folder."""
    shutil.copytree(FILES, folder)
    for packed in folder.rglob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    for run in (folder / "run", folder / "parallel/run"):
        for path in (run / "search.json", run / "train.json"):
            path.write_text(json.dumps(read(path) | {"data": str((folder / "scenes").resolve())}))
    return folder


@pytest.fixture
def result(call):
    """Run a command with --json, require exit code 0, return the object."""

    def run(*words):
        done = call(*words, "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


def read(path):
    return json.loads(Path(path).read_text())


def mark_first_step(path):
    """Add a key to the record of the first step and return its text, which is lost if the stage starts again."""
    first, *rest = Path(path).read_text().splitlines()
    mark = '"mark": 1'
    Path(path).write_text("\n".join([f"{first[:-1]}, {mark}}}", *rest, ""]))
    return mark


def test_every_output_is_there():
    assert set(COMMANDS) == set(OUTPUTS)


def convolution_weights(model):
    """All weights and biases of a model's convolutions, sorted by value."""
    from onnx import numpy_helper

    wanted = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    arrays = [numpy_helper.to_array(entry) for entry in model.graph.initializer if entry.name in wanted]
    assert len(arrays) == len(wanted) > 0
    return np.sort(np.concatenate([array.ravel() for array in arrays]))


@pytest.mark.parametrize("name", OUTPUTS)
def test_command_prints_what_it_did(call, files, name):
    saved = read(files / f"outputs/{name}.json")
    preset, table = SPACE_OF_TABLE.get(name, ("", ""))
    for words in saved["commands"]:
        done = call(*(table if word == preset else word for word in words))
    assert done.code == saved["code"], done.err
    tolerance = (REFIT if "calibrate" in name or name == "merge" else EXACT) if saved["repeatable"] else None
    assert differences(saved["output"], json.loads(done.out or "null"), tolerance) == CHANGED.get(name, [])


@pytest.mark.parametrize("section", ["presets", "architectures", "tables"])
def test_python_reads_the_same_values(files, section):
    assert differences(read(files / "values.json")[section], values(files)[section], EXACT) == []


def test_finished_search_returns_its_result(files, result):
    assert differences(read("run/search-result.json"), result(*SEARCH), EXACT) == []


def test_search_resumes_from_its_checkpoint(files, result):
    saved, mark = read("run/search-result.json"), mark_first_step("run/search.jsonl")
    for name in ("search-result.json", "architecture.json"):
        (files / "run" / name).unlink()
    resumed = result(*SEARCH)
    assert resumed["supernet_seconds"] == pytest.approx(saved["supernet_seconds"], abs=1e-12)
    assert mark in Path("run/search.jsonl").read_text()
    assert differences(saved, resumed) == []


def test_finished_training_returns_its_result(files, result):
    assert differences(read("run/train-result.json"), result(*TRAIN), EXACT) == []


def test_training_resumes_from_its_checkpoint(files, result):
    saved, mark = read("run/train-result.json"), mark_first_step("run/train.jsonl")
    for name in ("train-result.json", "weights.safetensors"):
        (files / "run" / name).unlink()
    resumed = result(*TRAIN)
    assert mark in Path("run/train.jsonl").read_text()
    assert resumed["miou"] == pytest.approx(saved["miou"], abs=0.5)
    assert differences(saved, resumed) == []


def test_weights_score_as_after_training(files, result):
    scored = result("lgc-train", "run", "--data", "scenes", "--evaluate")
    assert scored["miou"] == pytest.approx(read("run/train-result.json")["miou"], abs=0.5)
    assert scored["pixel_accuracy"] > 0


def test_export_repeats_metadata_and_weights(files, result):
    import onnx

    made = result("lgc-export", "run", "--lut", "tables/torch.lut", "--onnx", "--out", "new")["onnx"]
    old, new = (onnx.load(path) for path in (EXPORTED, made))
    metadata = [{entry.key: entry.value for entry in model.metadata_props} for model in (old, new)]
    assert metadata[0].keys() >= {"architecture", "classes"}
    assert differences(*metadata, EXACT) == []
    assert convolution_weights(new) == pytest.approx(convolution_weights(old), abs=1e-5)


def test_exported_file_sees_the_same_classes(files, result):
    seen = result("lgc-predict", EXPORTED, VAL, "--out", "new")["classes"]
    assert seen == pytest.approx(read("outputs/predict.json")["output"]["classes"], abs=2)


def test_architectures_of_every_age_export(files, result):
    for path in sorted(files.glob("architectures/*small.json")):
        assert result("lgc-export", path, "--onnx", "--out", path.stem)["files"][0]["passes"]


@pytest.mark.parametrize("damaged", [False, True])
def test_engine_description_is_read(call, files, damaged):
    """Use any bytes as the engine: its description is read before a device is required."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU's TensorRT would refuse the made-up engine")
    data = b"stands for the engine"
    Path("export/small.engine").write_bytes(data)
    about = read("export/small.engine.json") | {"sha256": hashlib.sha256(data).hexdigest()}
    if damaged:
        del about["inputs"]
    Path("export/small.engine.json").write_text(json.dumps(about))
    said = call("lgc-predict", "export/small.engine", VAL, "--out", "new").refusal("lgc-predict")
    assert ("small.engine" in said) == damaged, said
    assert ("cuda:0" in said) != damaged, said


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"a": 1.0, "b": [{"c": "x", "reason": "other words"}], "more": 1}, []),
        ({"a": 1.0}, ["output.b is gone"]),
        ({"a": 1, "b": [{"c": "x", "reason": "r"}]}, ["output.a: 1.0 is 1 now"]),
        ({"a": None, "b": [{"c": "x", "reason": "r"}]}, ["output.a: 1.0 is None now"]),
        ({"a": 1.00001, "b": [{"c": "x", "reason": "r"}]}, ["output.a: 1.0 is 1.00001 now"]),
        ({"a": 1.0, "b": []}, ["output.b: 1 items are 0 now"]),
        ({"a": 1.0, "b": [{"c": "y", "reason": "r"}]}, ["output.b[0].c: 'x' is 'y' now"]),
        ({"a": 1.0, "b": [{"c": "x"}]}, ["output.b[0].reason is gone"]),
    ],
)
def test_comparison_notices_every_change(new, said):
    assert differences({"a": 1.0, "b": [{"c": "x", "reason": "r"}]}, new, EXACT) == said
