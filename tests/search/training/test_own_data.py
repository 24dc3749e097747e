"""A dataset of the user's own, with four classes, is trained, scored and resumed."""

from __future__ import annotations

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
    (own / "own.dataset.yaml").write_text((own / "own.dataset.yaml").read_text().replace("class 2", "fruit"))
    refused = call("lgc-train", "run", "--data", "own", "--evaluate")
    assert "own.dataset.yaml differs from the content of own" in refused.refusal("lgc-train")
    done = call(
        "lgc-train", "run", "--data", "own.dataset.yaml", "--evaluate", "--predictions", "masks", "--device", "cpu"
    )
    assert (done.code, done.err) == (
        0,
        "warning: the dataset (own) has other classes than run was trained with: fruit instead of class 2\n",
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
    path.write_text(path.read_text().replace("values: [0, 1, 2, 3]", "values: [1, 0, 2, 3]"))
    assert "dataset" in call("lgc-train", "run", "--data", path, *SHORT, "--out", "out").refusal("lgc-train")
