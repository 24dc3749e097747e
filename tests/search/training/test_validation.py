"""Validations during a training: their curve, the weights to keep, interruptions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lgc.errors import TrainingError
from lgc.models.nets.definition import RunNetwork
from lgc.models.nets.sources import FactorySource
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime import checkpoint
from lgc.search.training import validation
from lgc.search.training.config import TrainConfig
from lgc.search.training.ema import WeightAverage
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.results import TrainResult
from lgc.search.training.train import train
from lgc.search.training.validation import choose_interval

from ... import user_networks
from ..runs import KilledError, kill_at, load_checkpoint, read_log, require_equal_tensors

CONFIG = TrainConfig(steps=7, batch=2, val_interval=2)
STEPS = [2, 4, 6, 7]
"""Steps of its validations."""


def ignore(line):
    """Drop a remark."""


@pytest.fixture
def scores(monkeypatch):
    """Replace the mIoU of the validations by those in this list, one after the other."""
    values, real = [], validation.evaluate_network

    def evaluate(*arguments, **options):
        result, size = real(*arguments, **options)
        return replace(result, miou=values.pop(0)), size

    monkeypatch.setattr(validation, "evaluate_network", evaluate)
    return values


def test_curve_is_in_result_and_log(run, scenes):
    lines, autotuned = [], set()

    def on_score(image, count):
        autotuned.add(torch.backends.cudnn.benchmark)

    config = CONFIG.model_copy(update={"lr": 0.2, "ema": 0.5})
    result = train(run, scenes, config, on_score=on_score, log=lines.append)
    assert autotuned == {False}  # the kernels of --evaluate
    assert [point.step for point in result.curve] == STEPS
    curve = result.as_dict()["curve"]
    rows = [row for row in read_log(run, "train") if "val_miou" in row]
    assert curve == [
        {"step": row["step"] + 1, "miou": row["val_miou"], "pixel_accuracy": row["val_pixel_accuracy"]} for row in rows
    ]
    assert len({point["pixel_accuracy"] for point in curve}) > 1  # the weights change
    events = EventAccumulator(str(run / "tensorboard" / "train"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_miou")] == [
        (row["step"], pytest.approx(row["val_miou"])) for row in rows
    ]
    assert lines[0] == f"step 2 of 7: mIoU {curve[0]['miou']:.2f} % on val (best)"
    assert len(lines) == len(STEPS)
    assert TrainResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result


@pytest.mark.parametrize(
    ("keep", "values", "best", "kept"),
    [
        ("best", [10.0, 30.0, 30.0, 20.0], 6, 6),
        ("best", [30.0, 10.0, 20.0, 29.0], 2, 2),
        ("best", [1.0, 2.0, 3.0, 4.0], 7, 7),
        ("last", [10.0, 30.0, 30.0, 20.0], 6, 7),
    ],
)
def test_best_weights_are_kept(run, scenes, scores, keep, values, best, kept):
    scores += values
    averages = {}

    def copy_average(step, steps):
        if step in STEPS:
            averages[step] = load_checkpoint(run, "train")["mean"]  # a checkpoint follows each validation

    result = train(run, scenes, CONFIG.model_copy(update={"keep": keep}), on_step=copy_average, log=ignore)
    assert [point.miou for point in result.curve] == values
    assert (result.best_step, result.kept_step, result.last_miou) == (best, kept, values[-1])
    assert result.miou == dict(zip(STEPS, values, strict=True))[kept]
    require_equal_tensors(load_file(run / "weights.safetensors"), averages[kept])
    again = evaluate_run(run, scenes)
    assert (again.per_class, again.pixel_accuracy) == (result.per_class, result.pixel_accuracy)


@pytest.mark.parametrize("moment", ["before", "within", "after", "unsaved"])
def test_killed_training_keeps_the_same_weights(run, scenes, tmp_path, scores, monkeypatch, moment):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    scores += [10.0, 30.0, 20.0, 5.0]
    expected = train(run, scenes, CONFIG, out=whole, log=ignore).as_dict()
    scores += [10.0, 30.0, 20.0, 5.0]
    on_step, on_score = kill_at({"before": 3, "after": 4}.get(moment)), kill_at(None)
    if moment == "within":
        on_score = kill_in_second_validation()
    with monkeypatch.context() as patch:
        if moment == "unsaved":
            patch.setattr(checkpoint, "save", kill_at_second_checkpoint())
        with pytest.raises(KilledError):
            train(run, scenes, CONFIG, out=cut, on_step=on_step, on_score=on_score, log=ignore)
    scores[:] = [20.0, 5.0] if moment == "after" else [30.0, 20.0, 5.0]
    steps = []
    resumed = train(run, scenes, CONFIG, out=cut, on_step=lambda step, _: steps.append(step), log=ignore).as_dict()
    assert steps[0] == (5 if moment == "after" else 3)
    for result in (expected, resumed):
        for name in ("seconds", "weights", "waiting_pct"):
            result.pop(name, None)
    assert resumed == expected
    assert resumed["best_step"] == 4
    assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert read_log(cut, "train") == read_log(whole, "train")


def kill_in_second_validation():
    """Return a callback that raises `KilledError` at the second image of the second validation."""
    images = []

    def on_score(image, count):
        images.append(image)
        if images == [1, 2, 3, 1, 2]:
            raise KilledError

    return on_score


def kill_at_second_checkpoint():
    """Return a stand-in for `checkpoint.save` that raises `KilledError` at the second call, before it writes."""
    real, calls = checkpoint.save, []

    def save(path, state):
        calls.append(path)
        if len(calls) == 2:
            raise KilledError
        real(path, state)

    return save


class Uncopyable(user_networks.Main):
    """A weight that each forward pass computes, as in torch's old weight normalisation."""

    def __init__(self, classes):
        super().__init__(classes)
        self.factor = nn.Parameter(torch.ones(classes, 1, 1))
        self.scale = torch.ones(classes, 1, 1)

    def change(self, y, x):
        self.scale = self.factor.exp()
        return y * self.scale


@pytest.mark.parametrize("factory", [user_networks.Toy, Uncopyable])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_validations_change_no_training(scenes, tmp_path, factory, ema):
    source = FactorySource(factory, "mine.py:build", "")
    config = CONFIG.model_copy(update={"ema": ema, "keep": "last", "steps": 4})
    for name, interval in (("often", 1), ("never", 9)):
        changed = config.model_copy(update={"val_interval": interval})
        result = train(RunNetwork(None, source, (32, 32)), scenes, changed, out=tmp_path / name, log=ignore)
        assert result.miou == evaluate_run(RunNetwork(tmp_path / name, source), scenes).miou
    often, never = (load_checkpoint(tmp_path / name, "train") for name in ("often", "never"))
    assert [len(state["validation"]["curve"]) for state in (often, never)] == [4, 1]
    require_equal_tensors(often["trainee"], never["trainee"])
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("often", "never")]
    assert weights[0] == weights[1]


def test_validation_without_labels_keeps_last_weights(run, scenes, tmp_path):
    data = copytree(scenes, tmp_path / "data")
    for pair in load_dataset(data, "val").pairs:
        Image.fromarray(np.full((32, 32), 11, np.uint8)).save(pair.label)
    lines = []
    result = train(run, data, CONFIG, log=lines.append)
    assert [line for line in lines if "labelled" in line] == [
        "step 2 of 7: val has no labelled pixel, so there is no mIoU, and the weights of the last step are kept"
    ]
    assert [(point.step, point.miou) for point in result.curve] == [(2, None), (7, None)]
    assert (result.miou, result.best_step, result.last_miou, result.kept_step) == (None, None, None, 7)
    require_equal_tensors(load_file(run / "weights.safetensors"), load_checkpoint(run, "train")["mean"])


def test_infinite_logits_keep_the_checkpoint(run, scenes, monkeypatch):
    real = WeightAverage.update

    def corrupt(self, step):
        real(self, step)
        if step == 3:
            for parameter in self.network.parameters():
                parameter.data.fill_(math.inf)

    monkeypatch.setattr(WeightAverage, "update", corrupt)
    with pytest.raises(TrainingError) as error:
        train(run, scenes, CONFIG, log=ignore)
    monkeypatch.setattr(WeightAverage, "update", real)
    assert error.value.exit_code == 1
    message = str(error.value)
    assert message.startswith("validation after step 4 of 7: the network returned NaN or infinite logits for ")
    assert message.endswith("train on from it with --init RUN/train.ckpt --out NEW and a lower --lr than 0.004")
    assert load_checkpoint(run, "train")["step"] == 2
    assert train(run, scenes, CONFIG, log=ignore).last_miou is not None


@pytest.mark.parametrize(
    ("steps", "epoch", "interval", "expected"),
    [(100, 4, None, 10), (101, 4, None, 11), (100, 25, None, 25), (3, 8, None, 8), (100, 25, 7, 7)],
)
def test_default_interval_is_a_tenth(steps, epoch, interval, expected):
    assert choose_interval(TrainConfig(steps=steps, val_interval=interval), epoch) == expected


def test_earlier_training_keeps_its_last_weights(run, scenes, scores):
    scores += [20.0, 30.0, 10.0]
    with pytest.raises(KilledError):
        train(run, scenes, CONFIG, on_step=kill_at(3), log=ignore)
    state = load_checkpoint(run, "train")
    del state["validation"]
    checkpoint.save(run / "train.ckpt", state)
    settings = json.loads((run / "train.json").read_text())
    del settings["keep"], settings["val_interval"]
    (run / "train.json").write_text(json.dumps(settings))
    lines, config = [], TrainConfig(steps=7, batch=2)
    result = train(run, scenes, config, log=lines.append)
    assert f"{run} keeps the settings that it began with: keep 'last'" in lines
    assert (result.config.keep, result.kept_step, result.miou) == ("last", 7, 10.0)


def test_earlier_result_has_no_curve(run, scenes):
    content = train(run, scenes, CONFIG, log=ignore).as_dict()
    for name in ("curve", "best_step", "last_miou", "epochs", "keep", "val_interval"):
        del content[name]
    result = TrainResult.from_dict(content)
    assert (result.curve, result.config.keep, result.kept_step) == ((), "last", 7)


def test_table_names_the_kept_step(run, scenes, call, scores):
    scores += [10.0, 30.0, 20.0]
    options = ("--steps", 5, "--batch", 2, "--val-interval", 2)
    done = call("lgc-train", run, "--data", scenes, *options)
    assert done.out.splitlines()[-1] == "step         4 of 5, the best of 3 validations; last (step 5): 20.00"
    assert "step 4 of 5: mIoU 30.00 % on val (best)\nstep 5 of 5: mIoU 20.00 % on val\n" in done.err
    again = call("lgc-train", run, "--data", scenes, *options)
    assert again.out == done.out
    scores += [30.0, 20.0]
    done = call("lgc-train", run, "--data", scenes, *options[:4], "--keep", "last", "--out", run.with_name("last"))
    assert done.out.splitlines()[-1] == "step         5 of 5, the last of 2 validations; best (step 4): 30.00"


def test_epochs_replace_steps(run, scenes, call):
    options = ("--epochs", 2, "--batch", 3, "--json")
    content = json.loads(call("lgc-train", run, "--data", scenes, *options).out)
    assert (content["steps"], content["epochs"], content["images"]) == (4, 2.0, 8)
    refused = call("lgc-train", run, "--data", scenes, *options, "--steps", 4).refusal("lgc-train")
    assert refused == "--steps can only be used without --epochs"
    refused = call("lgc-train", run, "--data", scenes, "--evaluate", "--epochs", 2).refusal("lgc-train")
    assert refused == "--epochs can only be used without --evaluate"
