"""Training with a teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lgc.errors import OutputError
from lgc.models.geometry import Geometry
from lgc.models.images import IMAGENET, Normalisation, normalise_image
from lgc.models.nets.definition import load_definition
from lgc.models.nets.peers import build_peer
from lgc.models.nets.resizing import relocate_logits
from lgc.search.runtime import training_loop
from lgc.search.training import network_trainer
from lgc.search.training.config import TrainConfig
from lgc.search.training.distillation import distillation_loss, load_teacher
from lgc.search.training.train import train

from ..runs import KilledError, kill_at, load_checkpoint, read_log, require_equal_tensors

CONFIG = TrainConfig(steps=6, batch=2)


@pytest.fixture
def teacher(run, scenes, tmp_path) -> Path:
    """A run folder with weights."""
    train(run, scenes, TrainConfig(steps=20, batch=4, optimiser="sgd", lr=0.05), out=tmp_path / "teacher")
    return tmp_path / "teacher"


def learn_from(teacher: Path, **changes: object) -> TrainConfig:
    return TrainConfig(**(CONFIG.model_dump() | {"teacher": str(teacher)} | changes))


def test_loss_is_divergence_of_the_softmaxes():
    student, teacher = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    p, q = (F.softmax(value / 3, dim=1) for value in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(distillation_loss(student, teacher, 3.0), expected, atol=1e-6)
    assert float(distillation_loss(student, student + 5, 1.0)) == pytest.approx(0, abs=1e-6)


def test_teacher_logits_are_resized_to_the_student():
    teacher = torch.randn(1, 3, 2, 2)
    enlarged = F.interpolate(teacher, size=(8, 8), mode="bilinear")
    student = torch.randn(1, 3, 8, 8)
    own = Geometry.HALF_PIXEL
    assert torch.equal(relocate_logits(teacher, own, (16, 16), student, own), enlarged)


def test_teacher_gets_images_in_its_own_normalisation(run, scenes, teacher):
    own = Normalisation((0.1, 0.2, 0.3), (0.5, 0.4, 0.2))
    student = replace(load_definition(run), classes=11, normalisation=own)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *student.input, 3), dtype=np.uint8)
    expected, actual = (
        load_teacher(learn_from(teacher), replace(student, normalisation=each)).network(
            torch.from_numpy(normalise_image(pixels, each))
        )
        for each in (IMAGENET, own)
    )
    assert torch.allclose(expected, actual, atol=1e-4)


def test_student_approaches_its_teacher(run, scenes, teacher):
    train(run, scenes, learn_from(teacher, steps=60, batch=4, optimiser="sgd", lr=0.05, teacher_weight=3.0, seed=1))
    losses = [record["teacher_loss"] for record in read_log(run, "train")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_teacher_stays_frozen(run, scenes, teacher, monkeypatch):
    seen = []
    real = network_trainer.distillation_loss

    def record(logits, targets, temperature):
        seen.append((targets.requires_grad, temperature))
        return real(logits, targets, temperature)

    monkeypatch.setattr(network_trainer, "distillation_loss", record)
    before = (teacher / "weights.safetensors").read_bytes()
    train(run, scenes, learn_from(teacher, temperature=2.0))
    assert seen == [(False, 2.0)] * 6
    assert (teacher / "weights.safetensors").read_bytes() == before
    assert not any("teacher" in name for name in load_checkpoint(run, "train")["trainee"])


def test_resumed_distillation_is_bit_identical(run, scenes, teacher, tmp_path, monkeypatch):
    config = learn_from(teacher, precision="bf16")
    train(run, scenes, config, out=tmp_path / "whole")
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    with pytest.raises(KilledError):
        train(run, scenes, config, out=tmp_path / "cut", on_step=kill_at(4))
    train(run, scenes, config, out=tmp_path / "cut")
    states = [load_checkpoint(tmp_path / name, "train") for name in ("whole", "cut")]
    for part in ("trainee", "mean"):
        require_equal_tensors(states[0][part], states[1][part])
    assert read_log(tmp_path / "whole", "train") == read_log(tmp_path / "cut", "train")


def test_teacher_identifies_the_run(run, scenes, teacher):
    result = train(run, scenes, learn_from(teacher)).as_dict()
    assert (result["teacher"], result["teacher_weight"], result["temperature"]) == (str(teacher), 1.0, 1.0)
    settings = json.loads((run / "train.json").read_text())
    assert settings["teacher"] == str(teacher)
    train(run, scenes, learn_from(teacher))
    train(teacher, scenes, CONFIG, out=teacher.with_name("other"))
    shutil.copy(teacher.with_name("other") / "weights.safetensors", teacher)
    with pytest.raises(OutputError, match=f"teacher_weights '{settings['teacher_weights']}', not"):
        train(run, scenes, learn_from(teacher))


def test_training_without_teacher_has_no_teacher_settings(run, scenes):
    result = train(run, scenes, CONFIG).as_dict()
    settings = json.loads((run / "train.json").read_text())
    assert not {"teacher", "teacher_weight", "temperature"} & {*result, *settings}


def rename_class(teacher: Path) -> None:
    path = teacher / "network.json"
    content = json.loads(path.read_text())
    content["class_names"] = [f"{name}2" for name in content["class_names"]]
    path.write_text(json.dumps(content))


def change_classes(teacher: Path) -> None:
    (teacher / "network.json").unlink()
    path = teacher / "architecture.json"
    content = json.loads(path.read_text())
    content["space"]["classes"] = 19
    path.write_text(json.dumps(content))


def damage_result(teacher: Path) -> None:
    (teacher / "network.json").unlink()
    (teacher / "train-result.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda teacher: (teacher / "weights.safetensors").unlink(), "no weights in the teacher"),
        (change_classes, "has 19 classes, the dataset 11"),
        (rename_class, "has other classes: its class 0 is '"),
        (damage_result, "damaged training result"),
    ],
)
def test_unsuitable_teacher_is_refused(run, scenes, teacher, call, damage, message):
    damage(teacher)
    done = call("lgc-train", run, "--data", scenes, "--steps", 2, "--teacher", teacher)
    assert message in done.refusal("lgc-train")
    assert [path.name for path in run.iterdir()] == ["architecture.json"]


def test_teacher_without_class_names_gives_a_remark(run, scenes, teacher, call):
    for name in ("network.json", "train-result.json"):  # as in runs of earlier versions
        (teacher / name).unlink()
    done = call("lgc-train", run, "--data", scenes, "--steps", 2, "--batch", 2, "--teacher", teacher)
    assert done.code == 0, done.err
    assert "are unknown, assumed: " in done.err


@pytest.mark.parametrize("option", ["--teacher-weight", "--temperature"])
def test_teacher_options_need_a_teacher(run, scenes, call, option):
    done = call("lgc-train", run, "--data", scenes, option, 2)
    assert f"{option} can only be used with --teacher" in done.refusal("lgc-train")


FACTORY = """
import torch
def build(classes):
    return torch.nn.Conv2d(3, classes, 3, padding=1)
"""


def test_factory_of_a_teacher_is_named_again(run, scenes, call, tmp_path):
    (tmp_path / "own.py").write_text(FACTORY)
    network, teacher = f"{tmp_path}/own.py:build", tmp_path / "teacher"
    short = ("--data", scenes, "--steps", 2, "--batch", 2)
    new = call("lgc-train", "--network", network, "--input", "32x32", *short, "--out", teacher)
    assert new.code == 0, new.err
    assert "--teacher-network" in call("lgc-train", run, *short, "--teacher", teacher).refusal("lgc-train")
    named = call("lgc-train", run, *short, "--teacher", teacher, "--teacher-network", network)
    assert named.code == 0, named.err
    again = ("--network", network, "--input", "32x32", "--out", tmp_path / "student", "--teacher", teacher)
    assert call("lgc-train", *short, *again).code == 0


def test_peer_starts_from_another_programs_file(scenes, call, tmp_path):
    weights = build_peer("fast-scnn", 19).state_dict()
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "w.pth")
    options = ("--input", "32x32", "--data", scenes, "--steps", 1, "--batch", 2, "--init", tmp_path / "w.pth")
    done = call("lgc-train", "--network", "peer:fast-scnn", *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "(its entry 'model', prefix 'module.' removed, 2 of its tensors unused)" in done.err
    assert "(2; 19 classes in the file)" in done.err
