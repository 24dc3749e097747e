"""The statistics and pages of the benchmark of training, and its other implementations of the same work."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lgc.models.geometry import Geometry
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import TrainConfig
from lgc.search.training.losses import ohem_loss, upsampled_loss

from ..common.paired_timing import compare_rounds, time_in_turns
from . import clipping, comparators, forms, geometry, page, recipe, recipe_page, street, trees, views_process
from .bare_loop import BareLoop


def test_turns_alternate_in_order():
    order: list[str] = []
    programs = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    assert time_in_turns(programs, 3) == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    assert "".join(order) == "abbaab"


def test_interval_holds_the_median():
    assert compare_rounds([2.0, 4.0, 6.0], [1.0, 1.0, 1.0]) == {"ratio": 4.0, "ratio_low": 2.0, "ratio_high": 6.0}
    ratios = compare_rounds([float(value) for value in range(1, 21)], [1.0] * 20)
    assert ratios == {"ratio": 10.5, "ratio_low": 6.0, "ratio_high": 15.0}  # order statistics 6 and 15: 95.9 %


def test_interval_of_three_seeds():
    estimate = recipe_page.estimate_mean([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # Student's t, 2 degrees of freedom
    assert estimate == pytest.approx({"mean": 2.0, "low": 2 - half, "high": 2 + half}, rel=1e-6)
    assert recipe_page.estimate_mean([1.5]) == {"mean": 1.5, "low": None, "high": None}


def test_differences_are_paired_by_seed():
    def row(name: str, seed: int, miou: float) -> dict[str, object]:
        scores = {"miou": miou, "pixel_accuracy": 80.0}
        return {"recipe": name, "network": "net", "seed": seed, "val": scores, "test": scores}

    trainings = [row("baseline", 0, 30.0), row("baseline", 1, 40.0), row("default", 1, 42.0), row("default", 0, 31.0)]
    summary = recipe_page.summarise(trainings)["net"]
    assert summary["default"]["test_miou"]["difference"]["mean"] == 1.5
    assert "difference" not in summary["baseline"]["test_miou"]
    rows = recipe_page._table("test", {"net": summary})
    assert "| net | default | 42.00, 31.00 | 36.50 | +1.50 (-4.85 to +7.85) | 80.00 | +0.00 (+0.00 to +0.00) |" in rows


@pytest.mark.parametrize("build", [forms.build_separable, forms.build_residual])
def test_forms_have_two_auxiliary_outputs(build):
    network, images = build(11), torch.zeros(2, 3, 64, 96)
    shapes = {name: tuple(logits.shape) for name, logits in network(images).items()}
    assert shapes == {"out": (2, 11, 8, 12), "aux_16": (2, 11, 4, 6), "aux_32": (2, 11, 2, 3)}
    assert network.eval()(images).shape == (2, 11, 8, 12)


@pytest.mark.parametrize("ohem", [True, False])
@pytest.mark.parametrize("scale", [1.0, 40.0])  # few or most pixels are easy
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0])])
def test_bare_loop_has_lgcs_loss(ohem: bool, scale: float, weights: torch.Tensor | None):
    torch.manual_seed(0)
    labels = torch.randint(3, (2, 32, 32))
    logits = scale * nn.functional.one_hot(labels[:, ::8, ::8], 3).movedim(-1, 1) + torch.randn(2, 3, 4, 4)
    labels[0, :16] = 255
    loop = BareLoop(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), TrainConfig(steps=10, ohem=ohem), weights, False)
    expected = (ohem_loss if ohem else upsampled_loss)(logits, labels, weights=weights)
    assert float(loop.compute_loss(logits, labels)) == pytest.approx(float(expected), rel=1e-5)


def test_pillow_views_are_normalised_crops():
    random.seed(0)
    image, label = Image.new("RGB", (48, 32), (124, 116, 104)), Image.new("L", (48, 32), 3)
    pixels, classes = comparators.PillowTransform((32, 48), (32, 48))((image, label))
    assert (pixels.shape, pixels.dtype) == ((3, 32, 48), torch.float32)
    assert (classes.shape, classes.dtype) == ((32, 48), torch.int64)
    assert {*classes.unique().tolist()} <= {3, 255}
    assert float(pixels.abs().max()) < 1.5


@pytest.mark.parametrize("layout", ["cityscapes", "camvid-segnet"])
def test_comparators_read_lgcs_classes(layout: str, tmp_path: Path):
    write_scenes(tmp_path / "data", layout, {"train": 2, "val": 0, "test": 0}, (32, 64))
    folder = street.decode(tmp_path / "data", tmp_path / "arrays")
    files, values = views_process.list_files(tmp_path / "data")
    for (_, path), label in zip(files, np.load(folder / "labels.npy"), strict=True):
        with Image.open(path) as file:
            np.testing.assert_array_equal(values[np.asarray(file)], label)


def test_missing_data_is_refused(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("sys.argv", ["recipe", "--data", str(tmp_path / "none"), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match="pass its folder with --data"):
        recipe.main()
    assert not (tmp_path / "work").exists()


def test_geometries_are_paired_by_seed():
    case = next(iter(geometry.CASES))
    scores = {(1, 0): 30.0, (1, 1): 32.0, (2, 0): 33.0, (2, 1): 37.0, (1, 2): 99.0}
    trainings = [
        {"case": case, "geometry": own, "seed": seed, **{split: {"miou": value} for split in recipe.SPLITS}}
        for (own, seed), value in scores.items()
    ]
    row = geometry.summarise(trainings)[case]
    assert row["seeds"] == [0, 1]
    assert (row["test"]["1"], row["test"]["2"]) == ([30.0, 32.0], [33.0, 37.0])
    assert row["test"]["difference"]["mean"] == 4.0


def test_upsampling_of_both_geometries_runs():
    for own in Geometry:
        assert geometry.make_graph(2, 4, (30, 48), own)() > 0


def test_another_recipe_needs_a_commit():
    assert recipe.read_recipes([], ["adamw=HEAD --lr 1e-3"]) == {"adamw": ("HEAD", ("--lr", "1e-3"))}
    with pytest.raises(SystemExit, match="NAME=COMMIT"):
        recipe.read_recipes([], ["adamw"])


def test_changed_settings_are_refused(tmp_path: Path):
    recipe.keep(tmp_path / "settings.json", {"epochs": 30})
    recipe.keep(tmp_path / "settings.json", {"epochs": 30})
    with pytest.raises(SystemExit, match="choose another --work"):
        recipe.keep(tmp_path / "settings.json", {"epochs": 29})


def test_trainings_of_a_result_are_taken_over(tmp_path: Path):
    setting = recipe.Setting(tmp_path, tmp_path / "work", (192, 256), 8, 30, 1, trees.REPOSITORY)
    row = {"recipe": "sgd", "network": "fast-scnn", "seed": 1, "test": {"miou": 40.0}}
    result = {"settings": setting.list_settings(), "recipes": {"sgd": {"commit": "a1", "options": []}}}
    recipe.take_over({**result, "trainings": [row]}, setting)
    training = recipe.Training("sgd", "fast-scnn", 1)
    assert json.loads((setting.work / f"{training.name}.json").read_text()) == row
    assert recipe.run_training(training, setting).endswith("finished before")
    with pytest.raises(SystemExit, match="choose another --work"):
        recipe.take_over({**result, "settings": {"epochs": 29}, "trainings": []}, setting)


def test_gradient_norms_are_described(tmp_path: Path):
    lines = [json.dumps({"step": step, "gradient_norm": float(step + 1)}) for step in range(200)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    norms = recipe.describe_norms(tmp_path / "train.jsonl")
    assert norms == {"median": 100.5, "p99": 198.0, "max": 200.0}
    row = {"network": "net", "recipe": "sgd", "gradient_norm": norms}
    assert recipe_page._list_norms([row, row])[-2] == "| net | sgd | 100.5 | 198.0 | 200.0 |"
    (tmp_path / "train.jsonl").write_text('{"step": 0}\n')
    assert recipe.describe_norms(tmp_path / "train.jsonl") is None


def test_gradients_of_clipped_trainings_are_the_same(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(clipping, "STEPS", 2)
    write_scenes(tmp_path, "camvid-segnet", {"train": 2, "val": 0, "test": 0}, (32, 64))
    norms = [
        clipping.train(tmp_path, optimiser="sgd", precision="fp32", clipped=clipped, seed=0)[0]
        for clipped in (True, False)
    ]
    assert norms[0] == norms[1] > 0
    row = {"optimiser": "sgd", "precision": "bf16", "clipped": False, "median": 2e4, "max": 3.5e11, "failed": 1}
    part = {"network": "net", "size": [32, 32], "batch": 2, "steps": 100, "seeds": 16, "rows": [row]}
    assert "| sgd | bf16 | no | 2.0e+04 | 3.5e+11 | 1 of 16 |" in page._clipping(part)


def test_locked_training_is_left_alone(tmp_path: Path):
    with recipe.lock(tmp_path / "a.lock") as held:
        assert held is not None
        with recipe.lock(tmp_path / "a.lock") as second:
            assert second is None


def test_checkout_is_importable_as_lgc(tmp_path: Path):
    folder = trees.link_checkout(tmp_path)
    assert (folder / "lgc" / "version.py").exists()
    assert trees.link_checkout(tmp_path) == folder


def test_page_marks_unequal_bits():
    row = {"processes": 1, "cache": "off", "workers": 0, "killed_at": 9, "steps": 40}
    compared = {
        "updates": [40, 40],
        "images_seen": [320, 320],
        "learning_rates_equal": True,
        "views_equal": False,
        "largest_loss_difference": 0.001,
    }
    rows = [row | {"resumed_equal": True, "equal_to_first": False}]
    lines = page._resume({"size": [96, 128], "batch": 8, "rows": rows, "processes": compared})
    assert "| 1 | off | 0 | 9 of 40 | yes | **no** |" in lines
    assert json.dumps(lines).count("views of each step equal: **no**") == 1
