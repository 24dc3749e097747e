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

from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import TrainConfig
from lgc.search.training.losses import SegmentationLoss

from ..common import trees
from ..common.paired_timing import compare_rounds, time_in_turns
from . import clipping, comparators, page, street, views_process
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


@pytest.mark.parametrize("ohem", [True, False])
@pytest.mark.parametrize("scale", [1.0, 40.0])  # few or most pixels are easy
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0])])
def test_bare_loop_has_lgcs_loss(ohem: bool, scale: float, weights: torch.Tensor | None):
    torch.manual_seed(0)
    labels = torch.randint(3, (2, 32, 32))
    logits = scale * nn.functional.one_hot(labels[:, ::8, ::8], 3).movedim(-1, 1) + torch.randn(2, 3, 4, 4)
    labels[0, :16] = 255
    loop = BareLoop(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), TrainConfig(steps=10, ohem=ohem), weights, False)
    expected = SegmentationLoss(ohem, weights=weights)([logits], labels)[0]
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
