"""The command `lgc-train`."""

from __future__ import annotations

import json
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

from lgc.errors import UsageError
from lgc.models import LGCNet
from lgc.models.nets.state.weights import save_weights
from lgc.search.data.description import read_dataset

SHORT = ("--steps", 3, "--batch", 2)


def test_command_trains_scores_and_predicts(run, scenes, call, tmp_path):
    out = tmp_path / "out"
    options = ("--crop", "16x32", "--no-ohem", "--aux", 0.2, "--ema", 0.9, "--warm-up", 5, "--precision", "bf16")
    options += ("--seed", 3, "--lr", 0.02, "--optimiser", "sgd", "--no-balanced", "--out", out)
    done = call("lgc-train", run, "--data", scenes, *SHORT, *options, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    expected = {"crop": [16, 32], "ohem": False, "aux": 0.2, "ema": 0.9, "warm_up": 5, "precision": "bf16", "seed": 3}
    expected |= {"optimiser": "sgd", "weight_decay": 5e-4, "balanced": False}
    expected |= {"lr": 0.02, "steps": 3, "batch": 2, "processes": 1, "weights": str(out / "weights.safetensors")}
    assert {name: result[name] for name in expected} == expected
    assert {"miou", "per_class", "pixel_accuracy", "seconds", "pretrain", "images", "scored_on"} <= set(result)
    line, *losses = done.err.splitlines()
    assert [loss.split(":")[0] for loss in losses] == ["step 3 of 3"] * 2  # its mIoU and its losses
    assert line.startswith(
        "camvid-segnet: 11 classes of the known layout camvid-segnet, recognised by its files (sky, "
    )
    assert line.endswith("; images: train 8, val 3")
    shown = call("lgc-train", out, "--data", scenes, "--evaluate", "--predictions", tmp_path / "predictions")
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["mean", "(mIoU)", f"{result['miou']:.2f}"] in lines
    assert ["pixel", "accuracy", f"{result['pixel_accuracy']:.2f}"] in lines
    assert "3 val images, evaluated at 32x32" in shown.out
    assert len(list((tmp_path / "predictions").iterdir())) == 3
    other = call("lgc-train", out, "--data", scenes, "--evaluate", "--split", "train", "--json")
    assert json.loads(other.out)["scored_images"] == 8


def test_any_split_is_evaluated(run, scenes, street_space, call, tmp_path):
    save_weights(LGCNet(street_space, street_space.sample(0)), run / "weights.safetensors")
    folders = {"val": "val", "night": "train"}
    description = {
        "name": "own",
        "root": str(scenes / "CamVid"),
        "splits": {name: {"images": folder, "labels": f"{folder}annot"} for name, folder in folders.items()},
        "classes": [f"class {index}" for index in range(11)],
        "ignore": [11, 255],
    }
    (tmp_path / "own.yaml").write_text(json.dumps(description))
    done = call("lgc-train", run, "--data", tmp_path / "own.yaml", "--evaluate", "--split", "night", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["scored_on"], result["scored_images"]) == ("night", 8)
    refused = call("lgc-train", run, "--data", tmp_path / "own.yaml", "--evaluate", "--split", "nigth")
    assert "unknown split 'nigth' (did you mean 'night'?)" in refused.refusal("lgc-train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop", "20x32"), "multiples of the network's stride"),
        (("--crop", "big"), "invalid size 'big'"),
        (("--init", "imagenet"), "neither scratch nor supernet"),
        (("--init", "nope.safetensors"), "no such file: nope.safetensors"),
        (("--precision", "fp8"), "precision"),
        (("--precision", "fp16"), "choose fp32 or bf16 on a CPU"),
        (("--ema", "1"), "--ema must be at least 0 and below 1"),
        (("--lr", "0"), "--lr must be above 0"),
        (("--train-split", "val"), "--train-split"),
        (("--device", "cuda:99"), "no device"),
        (("--split", "test"), "--split can only be used with --evaluate"),
        (("--evaluate", "--lr", "1"), "--lr can only be used without --evaluate"),
        (("--evaluate",), "train first"),
        (("--evaluate", "--predictions", "{scenes}/val"), "is inside the dataset"),
    ],
)
def test_wrong_use_gives_a_single_line(run, scenes, call, options, message):
    options = [option.format(scenes=scenes) for option in options]
    assert message in call("lgc-train", run, "--data", scenes, *options).refusal("lgc-train")
    assert [path.name for path in run.iterdir()] == ["architecture.json"]


def write_devices(run, *devices):
    """Write devices of the search's tables into the run's architecture."""
    path = run / "architecture.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"provenance": {"devices": list(devices)}}))


def test_absent_table_device_gives_a_note(run, scenes, call):
    write_devices(run, "cuda:77")
    done = call("lgc-train", run, "--data", scenes, *SHORT)
    assert done.code == 0, done.err
    assert done.err.startswith("training on cpu: the table's device cuda:77 is not present (")
    assert done.err.splitlines()[0].endswith("; choose another device with --device")
    done = call("lgc-train", run, "--data", scenes, "--evaluate")
    assert done.err.startswith("evaluating on cpu: the table's device cuda:77 is not present")
    assert "on cpu" not in call("lgc-train", run, "--data", scenes, "--evaluate", "--device", "cpu").err


@pytest.mark.parametrize(("use", "function"), [((), "train.train"), (("--evaluate",), "evaluation.evaluate_run")])
def test_training_uses_the_tables_device(run, scenes, call, monkeypatch, use, function):
    monkeypatch.setattr("lgc.profiler.machine.devices.list_devices", lambda: {"cpu": "CPU", "cuda:0": "GPU"})
    monkeypatch.setattr(f"lgc.search.training.{function}", lambda *_, device, **__: stop(device))

    def stop(device):
        raise UsageError(f"runs on {device}")

    for devices, options, expected in (
        (["cuda:0"], (), "cuda:0"),
        (["cpu"], (), "cpu"),
        (["cuda:0"], ("--device", "cpu"), "cpu"),
    ):
        write_devices(run, *devices)
        done = call("lgc-train", run, "--data", scenes, *use, *options)
        assert done.refusal("lgc-train") == f"runs on {expected}"


def test_diverging_training_exits_with_1(run, scenes, call):
    options = ("--device", "cpu", "--steps", 20, "--batch", 2, "--lr", 1e30)
    done = call("lgc-train", run, "--data", scenes, *options)
    assert (done.code, done.out) == (1, "")
    line = done.err.splitlines()[-1]
    assert line.startswith("lgc-train: ")
    assert "at step" in line
    assert "a lower --lr than 1e+30" in line


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["value", "missing", "size"])
def test_bad_data_give_a_single_line(run, scenes, call, tmp_path, damage, workers):
    copytree(scenes, tmp_path / "data")
    label = read_dataset(tmp_path / "data").pairs("train")[0].label
    if damage == "missing":
        label.unlink()
    else:
        size = (32, 32) if damage == "value" else (8, 8)
        Image.fromarray(np.full(size, 77 if damage == "value" else 0, np.uint8)).save(label)
    message = call("lgc-train", run, "--data", tmp_path / "data", "--steps", 8, "--workers", workers).refusal(
        "lgc-train"
    )
    assert label.name in message
    assert {"value": "the value 77", "missing": "has no label", "size": "8x8 pixels"}[damage] in message


def test_random_parts_give_a_note(run, scenes, call, street_space, tmp_path):
    network = LGCNet(street_space, street_space.sample(0))
    for tensor in network.head[1].parameters():
        tensor.data = tensor.data[:7]
    save_weights(network, tmp_path / "seven.safetensors")
    done = call("lgc-train", run, "--data", scenes, *SHORT, "--init", tmp_path / "seven.safetensors", "--json")
    assert "\ninitial weights: random head.1 (2; 7 classes in the file)\n" in done.err
    assert json.loads(done.out)["from_scratch"] == ["head.1"]
