"""`lgc-search` from the command line: refusals, failures and interrupts."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree

import numpy as np
import pytest
import torch
from PIL import Image

from lgc.lut import LatencyTable
from lgc.search.data.description import read_dataset
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.runtime import training_loop
from lgc.search.supernet.supernet_trainer import SupernetTrainer
from lgc.search.training.losses import SegmentationLoss

from . import test_search as results
from .test_search import SHORT, predictor_of

# The fixtures of that file.
street, lut, data, reach, run_search = results.street, results.lut, results.data, results.reach, results.run_search


@pytest.mark.parametrize("arguments", [("--lut", "missing.lut"), ("--target-ms", "1", "--target-fps", "9")], ids=str)
def test_early_refusals_do_not_import_torch(lut, data, tmp_path, arguments):
    program = (
        "import sys; sys.argv = ['lgc-search', *sys.argv[1:]]\n"
        "from lgc.tools.search import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    given = ("--lut", lut, "--data", data, "--out", tmp_path / "run", *arguments)
    done = subprocess.run([sys.executable, "-c", program, *map(str, given)], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.parametrize("unit", ["ms", "fps"])
def test_infeasible_targets_name_the_way_out(call, lut, data, reach, tmp_path, unit):
    low, high = reach
    predictor = predictor_of(lut)
    target = 0.75 * low
    value = target if unit == "ms" else predictor.to_fps(target)
    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run")
    message = call("lgc-search", *arguments, f"--target-{unit}", value).refusal("lgc-search")
    side = f"{target:.4g} ms is below" if unit == "ms" else f"{value:.0f} FPS is above"
    assert f"a target of {side} the fastest architecture of street: " in message
    rates = f"{predictor.to_fps(high):.0f} to {predictor.to_fps(low):.0f} FPS"
    assert f"predicts {rates if unit == 'fps' else f'{low:.3f} to {high:.3f} ms'} in scope" in message
    # No size below 32x32 is possible, so there is no space to suggest; see test_suggestion.py.
    assert f"profile a smaller --input or space (docs/spaces.md), or take the fastest: --target-{unit} " in message
    assert not (tmp_path / "run").exists()
    suggested = re.search(r"--target-\w+ \S+$", message)[0].split()
    assert call("lgc-search", *arguments, *suggested).code == 0


def test_incomplete_table_names_the_profile_command(call, lut, data, tmp_path):
    pending = Path(copy(lut, tmp_path / "pending.lut"))
    with LatencyTable.open(pending) as table, table.store.transaction() as connection:
        key = table.space.plan.cells[0].edges[0].candidates[2]
        connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL WHERE key = ?", (str(key),))
    message = call("lgc-search", "--lut", pending, "--data", data, "--out", tmp_path / "run").refusal("lgc-search")
    assert f"{key} not measured yet" in message
    assert "measure it with: lgc-profile " in message
    assert str(pending) in message
    assert not (tmp_path / "run").exists()


def test_table_of_another_space(call, lut, data, tmp_path):
    arguments = ("--lut", lut, "--data", data, "--out", tmp_path / "run", "--space", "tiny")
    message = call("lgc-search", *arguments).refusal("lgc-search")
    assert "street" in message
    assert "tiny" in message


@pytest.mark.parametrize(
    ("damage", "workers"), [("no label", 0), ("value", 0), ("size", 0), ("broken", 0), ("broken", 1)]
)
def test_invalid_images_and_labels_are_rejected(call, lut, data, tmp_path, damage, workers):
    bad = copytree(data, tmp_path / "data")
    pair = read_dataset(bad).pairs("train")[0]
    expected = {"no label": "has no label", "value": "the value 77", "size": "8x8 pixels", "broken": pair.image.name}
    if damage == "no label":
        pair.label.unlink()
    elif damage == "broken":
        pair.image.write_bytes(pair.image.read_bytes()[:99])
    else:
        size = (32, 32) if damage == "value" else (8, 8)
        Image.fromarray(np.full(size, 77 if damage == "value" else 0, np.uint8)).save(pair.label)
    arguments = ("--lut", lut, "--data", bad, *SHORT, "--out", tmp_path / "run", "--workers", workers)
    message = call("lgc-search", *arguments).refusal("lgc-search")
    assert expected[damage] in message
    assert (pair.image if damage == "broken" else pair.label).stem in message


def test_too_few_images_are_rejected(call, lut, tmp_path):
    write_scenes(tmp_path / "data", "camvid-segnet", {"train": 1, "val": 1, "test": 0}, (32, 32), 0)
    arguments = ("--lut", lut, "--data", tmp_path / "data", *SHORT, "--out", tmp_path / "run")
    assert "at least 2 training images" in call("lgc-search", *arguments).refusal("lgc-search")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--strategy magic", "'magic' is not one of 'gradient', 'random', 'evolution'"),
        ("--cells own", "'own' is not one of 'independent', 'shared'"),
        ("--communication mail", "'mail' is not one of 'gcn', 'linear', 'none'"),
        ("--fusion cold", "'cold' is not one of 'searched', 'fixed'"),
        ("--precision fp8", "'fp8' is not one of 'fp32', 'fp16', 'bf16'"),
        ("--precision fp16", "choose fp32 or bf16 on a CPU"),
        ("--scope all", "'all' is not one of 'core', 'dense'"),
        ("--device cuda:77", "no device 'cuda:77' on this machine"),
        ("--cells shared --communication gcn", "shared cells cannot communicate by gcn"),
        ("--target-ms 1 --target-fps 9", "--target-ms or --target-fps, not both"),
        ("--target-ms 0", "--target-ms must be above 0"),
        ("--target-ms nan", "--target-ms must be above 0"),
        ("--target-ms slow", "'slow' is not a valid float"),
        ("--target-ms inf", "--target-ms must be finite"),
        ("--target-ms -1", "--target-ms must be above 0"),
        ("--target-fps 0", "--target-fps must be above 0"),
        ("--target-ms 9 --target-ms 9.0000001", "the same targets"),
        ("--lut {lut}", "2 tables need one target per table"),
        ("--lut {lut} --target-ms 1", "2 tables, but 1 target:"),
        ("--lut {lut} --target-ms 1 --target-ms 2 --target-ms 3", "2 tables, but 3 targets:"),
        ("--lut {missing}", "no such file"),
        ("--quantile 0.9", "--quantile requires --target-ms"),
        ("--quantile 0.3 --target-ms 1", "--quantile must be at least 0.5 and below 1"),
        ("--quantile 1 --target-ms 1", "--quantile must be at least 0.5 and below 1"),
        ("--warm-up 1", "--warm-up must be at least 0 and below 1"),
        ("--beta 0", "--beta must be above 0"),
        ("--no-latency-term --beta 0.002", "--beta is the weight of the latency term"),
        ("--arch-lr 0", "--arch-lr must be above 0"),
        ("--steps 0", "--steps"),
        ("--batch 0", "--batch"),
        ("--seed -1", "--seed"),
        ("--crop 30x32", "multiples of the network's stride"),
        ("--crop 64x64", "larger than the space's input"),
        ("--crop big", "invalid size 'big'"),
        ("--space {missing}", "no such file"),
        ("--data {empty}", "empty"),
        ("--data {missing}", "missing"),
        ("--out {lut}", "not a folder"),
        ("--out {other}", "is not empty and is not a search run"),
        ("--out /proc/nowhere/run", "/proc/nowhere"),
    ],
)
def test_invalid_options_exit_with_one_line(call, lut, data, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    paths = {"lut": lut, "missing": tmp_path / "missing.any", "empty": tmp_path / "empty", "other": tmp_path / "other"}
    before = lut.read_bytes()
    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run", *options.format(**paths).split())
    assert message in call("lgc-search", *arguments).refusal("lgc-search")
    assert lut.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other"]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_folder_of_another_search_is_rejected(call, lut, data, run_search, tmp_path):
    run_search()
    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run", "--seed", 1, "--fusion", "fixed")
    message = call("lgc-search", *arguments).refusal("lgc-search")
    assert "fusion 'searched', not 'fixed'" in message
    assert "seed 0, not 1" in message
    assert "choose another folder" in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "loss of the architecture is nan at step 2"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "out of memory; the last checkpoint, if any, is kept. Lower --batch",
        ),
    ],
)
def test_failed_search_exits_with_1(call, lut, data, tmp_path, monkeypatch, error, message):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    real, calls = SegmentationLoss.__call__, []

    def broken(*arguments):
        calls.append(arguments)
        if len(calls) == 4 and error is not None:
            raise error
        return [real(*arguments)[0] * (math.nan if len(calls) == 4 else 1.0)]

    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationLoss, "__call__", broken)
        done = call("lgc-search", *arguments)
    assert (done.code, done.out) == (1, "")
    understood, line = done.err.splitlines()
    assert understood.startswith("camvid-segnet: 11 classes of the known layout")
    assert line.startswith("lgc-search: ")
    assert message in line
    kept = torch.load(tmp_path / "run" / "search.ckpt", weights_only=True)
    assert kept["step"] == 2
    assert all(bool(value.isfinite().all()) for part in ("net", "alphas") for value in kept[part].values())
    assert call("lgc-search", *arguments).code == 0


def test_interrupted_search_is_resumed(call, lut, data, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    real, steps = SupernetTrainer.train_step, []

    def step(self, *arguments):
        steps.append(self.step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(SupernetTrainer, "train_step", step)
    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run")
    done = call("lgc-search", *arguments)
    assert done.code == 130
    message = "lgc-search: interrupted: run the same command again to resume from the last checkpoint"
    assert done.err.splitlines()[-1] == message
    assert call("lgc-search", *arguments).code == 0
    assert steps == [0, 1, 2, 2, 3]
