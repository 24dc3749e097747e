"""`--network` of `lgc-train`, `lgc-export` and `lgc-bench`: peers and a factory of the user's, from start to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from lgc.models.image_folders import list_images
from lgc.models.images import normalise_image, read_pixels
from lgc.models.nets.definition import RunNetwork, load_definition
from lgc.models.nets.peers import PEERS
from lgc.models.nets.sources import load_source
from lgc.models.nets.state.weights import load_weights
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.deployment.parity import compute_file_outputs
from lgc.profiler.file_outputs import count_classes
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from .. import user_networks

FACTORY = f"{user_networks.__file__}:build"
SHORT = ("--steps", 2, "--batch", 2)


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street") / "data"
    write_scenes(folder, "camvid-segnet", {"train": 4, "val": 2, "test": 0}, (64, 64), 0)
    return folder


@pytest.fixture(scope="session")
def runs(make_once, street):
    """Return a folder of runs, each trained for two steps: `toy` of the factory, `fast-scnn` of the peer."""

    def fill(folder):
        for name, reference in (("toy", FACTORY), ("fast-scnn", "peer:fast-scnn")):
            network = RunNetwork(None, load_source(reference), (64, 64))
            train(network, street, TrainConfig(steps=2, batch=2), out=folder / name, log=lambda line: None)

    return make_once("any-network-runs", fill)


@pytest.fixture
def toy(runs, tmp_path):
    return shutil.copytree(runs / "toy", tmp_path / "toy")


def check_from_start_to_end(reference, named, street, folder, call):
    """Train, resume, score, export and time a network; `named` are the options that its run needs."""
    run = folder / "run"
    start = ("lgc-train", "--network", reference, "--data", street, "--input", "64x64", "--out", run, *SHORT)
    trained = json.loads(call(*start, "--json").out)
    assert json.loads(call(*start, "--json").out) == trained, "the same command returns the finished training"
    assert json.loads(call("lgc-train", run, *named, "--data", street, *SHORT, "--json").out) == trained
    scored = json.loads(call("lgc-train", run, *named, "--data", street, "--evaluate", "--json").out)
    assert scored["miou"] == trained["miou"]
    exported = json.loads(call("lgc-export", run, *named, "--data", street, "--json").out)
    assert [file["passes"] for file in exported["files"]] == [True]
    for parity in exported["files"][0]["agreement"]:  # logits of a few peers are above 10,000 after two steps
        assert parity["max_abs_diff"] <= 1e-4 or parity["relative_diff"] <= 1e-5
    timed = call("lgc-bench", run, *named, "--seconds", "0.05s", "--json")
    (row,) = json.loads(timed.out)["results"]
    assert (row["name"], row["kind"], row["input"]) == ("run", "run", "64x64")
    assert row["miou"] == trained["miou"]
    assert row["max_abs_diff"] is None
    assert row["argmax_agreement_pct"] >= 99.9
    return run


def test_factory_from_start_to_end(street, tmp_path, call):
    check_from_start_to_end(FACTORY, ("--network", FACTORY), street, tmp_path, call)


@pytest.mark.parametrize(
    "name", [name if name == "fast-scnn" else pytest.param(name, marks=pytest.mark.slow) for name in PEERS]
)
def test_peer_from_start_to_end(name, street, tmp_path, call):
    check_from_start_to_end(f"peer:{name}", (), street, tmp_path, call)


@pytest.mark.parametrize("scope", ["core", "dense", "end-to-end"])
def test_exported_file_is_self_contained(scope, toy, street, call):
    done = call("lgc-export", toy, "--network", FACTORY, "--scope", scope, "--ort", "--seconds", "0.05s", "--json")
    assert done.code == 0, done.err
    assert "exported output: out; not exported: side, feature [1, 8, 32, 32]" in done.err
    assert "no prediction: latency tables predict architectures" in done.err
    result = json.loads(done.out)
    assert result["results"][0]["max_abs_diff"] <= 1e-4
    assert result["results"][0]["predicted_ms"] is None
    model, definition = OnnxModel.load(Path(result["onnx"])), load_definition(toy, load_source(FACTORY))
    assert (model.own_scope, count_classes(model)) == (scope, 11)
    assert (model.class_names, model.palette) == (definition.class_names, definition.palette)
    assert model.normalisation == definition.normalisation
    assert model.metadata["network"] == "factory:user_networks.py:build", "no folder of this machine"
    pixels = read_pixels(list_images(street / "CamVid" / "val")[0])
    array = pixels[None] if scope == "end-to-end" else normalise_image(pixels)[None]
    network = user_networks.Toy(11).eval()
    network.load_state_dict(load_weights(toy / "weights.safetensors", definition))
    with torch.no_grad():
        logits = network(torch.from_numpy(normalise_image(pixels)[None]))["out"]
        labels = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear").argmax(1).numpy()
    output = compute_file_outputs(model.data, [array])[0]
    if scope == "core":
        np.testing.assert_allclose(output, logits.numpy(), atol=1e-4)
    else:
        assert (output == labels).mean() >= 0.999


def test_every_precision_is_exported(toy, street, call):
    options = ("--data", street, *(part for name in ("fp32", "fp16", "int8") for part in ("--precision", name)))
    done = call("lgc-export", toy, "--network", FACTORY, *options, "--json")
    files = {file["precision"]: file for file in json.loads(done.out)["files"]}
    assert set(files) == {"fp32", "fp16", "int8"}
    assert files["fp32"]["passes"]
    assert files["fp16"]["passes"]
    metadata = {entry.key: entry.value for entry in onnx.load(files["int8"]["onnx"]).metadata_props}
    assert metadata["precision"] == "int8"


NET = """
from torch import nn


def build(classes):
    from width import WIDTH

    return nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, classes, 1))
"""


def test_copied_experiments_are_compared(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    for name, width in (("exp1", 2), ("exp2", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(NET)
        (tmp_path / name / "width.py").write_text(f"WIDTH = {width}\n")
    networks = ("--network", "exp1/net.py:build", "--network", "exp2/net.py:build")
    options = ("--classes", 4, "--input", "32x32", "--backend", "torch", "--seconds", "0.05s", "--json")
    done = call("lgc-bench", *networks, *options)
    assert done.code == 0, done.err
    rows = {row["name"]: row["parameters"] for row in json.loads(done.out)["results"]}
    assert rows == {f"exp{n}/net.py:build": 3 * width + width + 4 * width + 4 for n, width in ((1, 2), (2, 5))}
    same = call("lgc-bench", *networks[:2], "--network", "./exp1/net.py:build", *options)
    assert f"duplicate network names: {tmp_path}/exp1/net.py:build" in same.refusal("lgc-bench")


def test_runs_and_new_networks_share_a_table(runs, call):
    factory = ("--network", FACTORY, "--network", f"{user_networks.__file__}:Tied")
    done = call("lgc-bench", runs / "toy", runs / "fast-scnn", *factory, "--peer", "fast-scnn", "--network",
                "peer:fast-scnn", "--backend", "torch", "--seconds", "0.05s", "--json")  # fmt: skip
    assert "duplicate network names: fast-scnn" in done.err, "a run and a peer of one name"
    done = call("lgc-bench", runs / "toy", runs / "fast-scnn", *factory, "--seconds", "0.05s", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)["results"]}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "toy": "run", "fast-scnn": "run", "user_networks.py:Tied": "factory"
    }  # fmt: skip
    assert [name for name, row in rows.items() if row["miou"] is None] == ["user_networks.py:Tied"]
    elsewhere = call("lgc-bench", runs / "toy", *factory[:2], "--input", "32x64", "--seconds", "0.05s", "--json")
    (row,) = json.loads(elsewhere.out)["results"]
    assert (row["input"], row["miou"]) == ("32x64", None), "scored at another size"


def test_stale_export_is_not_used(toy, street, tmp_path, call):
    images = ("--data", street, "--network", FACTORY)
    weights = toy / "weights.safetensors"
    kept = weights.rename(tmp_path / "kept")
    assert call("lgc-export", toy, "--network", FACTORY).code == 0
    predict = ("lgc-predict", toy, street / "CamVid" / "val", "--out", tmp_path / "out")
    assert call(*predict).code == 0, "a run without weights"
    kept.rename(weights)
    assert "has random weights, so it is not the network of" in call(*predict).refusal("lgc-predict")
    assert call("lgc-export", toy, *images).code == 0
    assert call(*predict).code == 0
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    assert f"has other weights, so it is not the network of {weights}: run lgc-export {toy} again" in call(
        *predict
    ).refusal("lgc-predict")


def test_code_of_a_run_is_named_again(runs, street, call):
    for arguments in (
        ("lgc-train", runs / "toy", "--data", street, "--evaluate"),
        ("lgc-export", runs / "toy"),
        ("lgc-bench", runs / "toy"),
    ):
        message = call(*arguments).refusal(arguments[0])
        assert message.endswith("name your own file with that function, --network FILE.py:NAME")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pass a run folder, or --network with --input and --out"),
        (("--network", FACTORY), "a new --network needs --out DIR"),
        (("--network", FACTORY, "--out", "{new}"), "add --input HxW"),
        (("--network", FACTORY, "--input", "64x64", "--evaluate"), "--input can only be used without --evaluate"),
        (("--network", FACTORY, "--evaluate"), "to evaluate a training, pass its folder"),
        (("{toy}", "--network", FACTORY, "--input", "64x64"), "--input is only for a new --network"),
        (("{toy}", "--network", "peer:fast-scnn"), "not peer:fast-scnn: name that network"),
        (("--network", "peer:fast", "--out", "{new}", "--input", "64x64"), "unknown peer 'fast'"),
        (("--network", "missing.py:build", "--out", "{new}", "--input", "64x64"), "no such file: missing.py"),
        (("--network", FACTORY, "--out", "{new}", "--input", "64"), "invalid size '64'"),
    ],
)
def test_wrong_use_gives_a_single_line(arguments, message, toy, street, tmp_path, call):
    arguments = [argument.format(toy=toy, new=tmp_path / "new") for argument in arguments]
    assert message in call("lgc-train", *arguments, "--data", street).refusal("lgc-train")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", [("--lut", "t.lut"), ("--tolerance", "5%"), ("--layers",)])
def test_prediction_of_other_networks_is_refused(option, runs, call, tmp_path):
    done = call("lgc-export", runs / "fast-scnn", *option, "--out", tmp_path / "new")
    message = done.refusal("lgc-export") if done.out == "" else ""
    assert message == f"{option[0]}: latency tables predict architectures of a search space, not peer:fast-scnn"
    assert not (tmp_path / "new").exists()


def test_frozen_values_are_refused_at_export(toy, tmp_path, call):
    source = tmp_path / "user_networks.py"
    text = "from lgc_user import Branch\n\n\ndef build(classes):\n    return Branch(classes)\n"
    source.write_text(text.replace("lgc_user", user_networks.__name__))
    weights = toy / "weights.safetensors"
    save_file(load_file(weights), weights)  # without its probe, which would recognise another network
    done = call("lgc-export", toy, "--network", f"{source}:build")
    assert "`if y.mean() > 0:` reads values of the input" in done.refusal("lgc-export")
    assert "has changed since" in done.err
