"""A dataset of the user's own, with four classes, is trained, scored and resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

SHORT = ("--steps", 4, "--batch", 2, "--device", "cpu")


@pytest.fixture
def own(mini_space, tmp_path, monkeypatch):
    """Write `own/` with images, labels and lists, and `run/` with an architecture of four classes."""
    monkeypatch.chdir(tmp_path)
    label = np.zeros((32, 32), np.uint8)
    label[:10], label[20:, :15], label[20:, 15:] = 1, 2, 3
    colours = np.array([(90, 90, 90), (100, 150, 250), (200, 30, 30), (30, 200, 30)], np.uint8)
    for folder, pixels in (("images", colours[label]), ("labels", label)):
        (tmp_path / "own" / folder).mkdir(parents=True)
        for name in "abcd":
            Image.fromarray(pixels).save(tmp_path / "own" / folder / f"{name}.png")
    for split, names in (("train", "abc"), ("val", "d")):
        (tmp_path / "own" / f"{split}.txt").write_text("".join(f"{name}.png\n" for name in names))
    content = {**mini_space.model_dump(mode="json"), "name": "own4", "classes": 4}
    (tmp_path / "run").mkdir()
    mini_space.check(content, "own").sample(0).save(tmp_path / "run/architecture.json")
    return tmp_path


def test_own_classes_are_trained_and_scored(own, call):
    done = call("lgc-train", "run", "--data", "own", *SHORT)
    assert done.code == 0, done.err
    assert "own: 4 classes of label values 0-3 in 4 labels; images: train 3, val 1" in done.err
    (own / "own.dataset.yaml").write_text((own / "own.dataset.yaml").read_text().replace("value 2", "fruit"))
    refused = call("lgc-train", "run", "--data", "own", "--evaluate")
    assert "own.dataset.yaml differs from the content of own" in refused.refusal("lgc-train")
    done = call(
        "lgc-train", "run", "--data", "own.dataset.yaml", "--evaluate", "--predictions", "masks", "--device", "cpu"
    )
    assert (done.code, done.err) == (
        0,
        "own: 4 classes of own.dataset.yaml (value 0, value 1, fruit, value 3); images: train 3, val 1\n"
        "warning: the dataset (own) has other classes than run was trained with: fruit instead of value 2\n",
    )
    assert "fruit" in done.out
    assert set(np.unique(Image.open("masks/d.png"))) <= {0, 1, 2, 3}
    inside = call("lgc-train", "run", "--data", "own.dataset.yaml", "--evaluate", "--predictions", "own/new")
    assert "is inside the dataset" in inside.refusal("lgc-train")


def test_changed_description_is_another_training(own, call):
    call("lgc-train", "run", "--data", "own", *SHORT)
    path = own / "own.dataset.yaml"
    assert call("lgc-train", "run", "--data", path, *SHORT, "--out", "out").code == 0
    assert call("lgc-train", "run", "--data", path, *SHORT, "--out", "out").code == 0
    before = path.read_text()
    path.write_text(before.replace("values: [0, 1, 2, 3]", "values: [1, 0, 2, 3]"))
    refusal = call("lgc-train", "run", "--data", path, *SHORT, "--out", "out").refusal("lgc-train")
    assert "the description of the dataset has changed, e.g. classes or label values" in refusal
    done = call("lgc-train", "out", "--data", path, "--evaluate", "--device", "cpu")
    assert "warning: the description of the dataset (own) is not that of the training in out: check" in done.err
    path.write_text(before)
    done = call("lgc-train", "out", "--data", path, "--evaluate", "--device", "cpu")
    assert (done.code, "warning" in done.err) == (0, False)


def relabel(path, other):
    """Save a label anew, of other values and of another size in bytes, or with the content it has."""
    values = np.asarray(Image.open(path))
    Image.fromarray(
        np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape) if other else values
    ).save(path)


@pytest.mark.parametrize("split", ["val", "train"])
def test_changed_labels_are_another_training(own, call, split):
    command = ("lgc-train", "run", "--data", "own", *SHORT)
    assert call(*command).code == 0
    name = {"val": "d", "train": "b"}[split]
    relabel(own / f"own/labels/{name}.png", other=True)
    assert "the images or labels have changed" in call(*command).refusal("lgc-train")


def test_newer_labels_are_said(own, call):
    command = ("lgc-train", "run", "--data", "own", *SHORT)
    first = call(*command)
    assert "has changed since" not in call(*command).err
    relabel(own / "own/labels/d.png", other=False)
    second = call(*command)
    assert (second.code, second.out) == (0, first.out)
    assert "warning: own/labels/d.png has changed since this training began" in second.err


def test_older_trainings_have_no_hash_of_images(own, call):
    command = ("lgc-train", "run", "--data", "own", *SHORT)
    first = call(*command)
    settings = json.loads((own / "run/train.json").read_text())
    assert len(settings.pop("images")) == 2
    (own / "run/train.json").write_text(json.dumps(settings))
    second = call(*command)
    assert (second.code, second.out) == (0, first.out)


def test_other_values_are_other_classes(own, call):
    call("lgc-train", "run", "--data", "own", *SHORT)
    for path in (own / "own/labels").iterdir():
        label = np.asarray(Image.open(path))
        Image.fromarray(label + (label > 1).astype(np.uint8)).save(path)
    (own / "own.dataset.yaml").unlink()
    done = call("lgc-train", "run", "--data", "own", "--evaluate", "--device", "cpu")
    assert "has other classes than run was trained with: value 3 instead of value 2" in done.err
