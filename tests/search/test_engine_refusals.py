"""Searches that are refused or fail, and the files that they leave."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

from lgc.errors import DataError, FileFormatError, OutputError, TrainingError, UsageError
from lgc.models.space.protocol import Architecture
from lgc.search.data.datasets import load_dataset
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.engine import list_inactive_targets, search
from lgc.search.selection.strategies import PASSES_PER_STEP, count_halving_passes
from lgc.search.training.losses import SegmentationLoss

from .runs import change, find_target, load_checkpoint, read_log, require_equal_runs


def test_finished_search_is_not_repeated(street, scenes, short, tmp_path):
    first = search(street, scenes, tmp_path / "run", short)
    assert search(street, scenes, tmp_path / "run", short, on_step=lambda *_: pytest.fail("searched again")) == first
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = search(street, scenes, tmp_path / "moved", short)
    assert moved == replace(first, architecture=tmp_path / "moved" / "architecture.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 1}, "seed 0, not 1"), ({"fusion": "fixed"}, "fusion 'searched', not 'fixed'"), ({"steps": 7}, "steps")],
)
def test_different_search_is_not_overwritten(street, scenes, short, tmp_path, changes, message):
    search(street, scenes, tmp_path / "run", short)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=message):
        search(street, scenes, tmp_path / "run", change(short, **changes))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_different_table_is_a_different_search(street_space, predict, scenes, short, tmp_path):
    search(predict(street_space, 0), scenes, tmp_path / "run", short)
    with pytest.raises(OutputError, match="latency"):
        search(predict(street_space, 1), scenes, tmp_path / "run", short)


def test_folder_with_other_files_is_refused(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="is not empty and is not a search run"):
        search(street, scenes, out, short)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_damaged_checkpoint_is_named(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    search(street, scenes, out, short)
    (out / "search-result.json").unlink()
    whole = (out / "search.ckpt").read_bytes()
    (out / "search.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"search\.ckpt"):
        search(street, scenes, out, short)


@pytest.mark.parametrize("change_result", [lambda content: {}, lambda content: content | {"operators": [1, 2]}])
def test_other_result_file_is_refused(street, scenes, short, tmp_path, change_result):
    search(street, scenes, tmp_path / "run", short)
    file = tmp_path / "run" / "search-result.json"
    file.write_text(json.dumps(change_result(json.loads(file.read_text()))))
    with pytest.raises(FileFormatError, match=r"search-result\.json is not a result of this stage: delete it"):
        search(street, scenes, tmp_path / "run", short)


def test_data_with_other_classes_are_refused(predictor, scenes, short, tmp_path):
    with pytest.raises(DataError, match="has 11 classes, the network's space mini has 3"):
        search(predictor, scenes, tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


def test_two_halves_need_two_images(street, short, tmp_path):
    write_scenes(tmp_path / "one", "camvid-segnet", {"train": 1, "val": 1, "test": 0}, (32, 32), 0)
    with pytest.raises(DataError, match="at least 2 training images"):
        search(street, tmp_path / "one", tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


def test_out_of_range_target_is_refused_first(street, tmp_path, short):
    settings = change(short, targets_ms=((find_target(street, 0.5),), (find_target(street, -0.5),)))
    with pytest.raises(UsageError, match="below the fastest"):
        search(street, tmp_path / "nowhere", tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_settings_can_make_target_infeasible(street, scenes, short, tmp_path):
    """The target is in the space's range, but below that of a fixed fusion cell."""
    target = street.predict(street.fastest)
    result = search(street, scenes, tmp_path / "run", change(short, targets_ms=((target,),)))
    assert result.predicted_ms == pytest.approx(target)
    fixed = change(short, targets_ms=((target,),), fusion="fixed")
    with pytest.raises(UsageError, match=f"the nearest has .* ms for a target of {target:.3f} ms"):
        search(street, scenes, tmp_path / "out", fixed)
    with pytest.raises(UsageError, match=r"the nearest has .* FPS for a target of 50 FPS"):
        search(street, scenes, tmp_path / "out", change(fixed, targets_fps=((50.0,),)))
    assert not (tmp_path / "out").exists()


def test_settings_can_make_targets_inactive(street, short):
    """The slowest architecture has the slowest fusion cell, not the fixed one."""
    settings = change(short, targets_ms=((street.predict(street.slowest),),))
    assert list_inactive_targets([street], settings) == []
    (line,) = list_inactive_targets([street], change(settings, fusion="fixed"))
    low, high = (
        float(value) for value in re.findall(r"([\d.]+) (?:to|ms in)", line.split(" predicts ")[1].split(";")[0])
    )
    assert low >= street.range_ms[0]
    assert high < street.range_ms[1] - 1e-3


@pytest.mark.parametrize("strategy", ["gradient", "random", "evolution"])
def test_inactive_target_leaves_the_loss(street, scenes, short, tmp_path, strategy):
    """The result does not depend on the target."""
    low, high = street.range_ms
    settings = change(short, targets_ms=((2 * high,),), strategy=strategy)
    results = [
        search(street, scenes, tmp_path / name, change(settings, **changes))
        for name, changes in (("a", {}), ("b", {"targets_ms": ((3 * high,),)}))
    ]
    first, second = (Architecture.load(result.architecture).choices for result in results)
    assert first == second
    assert results[0].target_ms == 2 * high
    assert low <= results[0].predicted_ms <= high


def test_contradicting_targets_are_refused_first(street_space, predict, scenes, short, tmp_path):
    """Each device's fastest architecture is slow on the other device."""
    content = {**street_space.model_dump(mode="json"), "operators": ["max_pool_3x3", "sep_conv_3x3"]}
    predictors = [predict(street_space.check(content, "street"), seed) for seed in (0, 1)]
    targets = tuple(predictor.predict(predictor.fastest) for predictor in predictors)
    with pytest.raises(UsageError, match="no architecture meets all targets"):
        search(predictors, scenes, tmp_path / "out", change(short, targets_ms=(targets,)))
    assert not (tmp_path / "out").exists()


def test_different_images_are_a_different_search(street, scenes, short, tmp_path):
    data = copytree(scenes, tmp_path / "data")
    search(street, data, tmp_path / "run", short)
    label = load_dataset(data, "train").pairs[0].label
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(label)
    with pytest.raises(OutputError, match="images"):
        search(street, data, tmp_path / "run", short)


def test_passes_on_crops_count_by_area(street, scenes, short, tmp_path):
    """Evolution spends on whole images the budget of gradients on crops of half the size."""
    passes = {}
    for strategy in ("gradient", "evolution"):
        settings = change(short, strategy=strategy, crop=(16, 32))
        passes[strategy] = search(street, scenes, tmp_path / strategy, settings).passes
    budget = PASSES_PER_STEP * 4 // 2 + count_halving_passes(short.finalists, 2)
    assert passes["gradient"] == budget
    assert budget - 2 < passes["evolution"] <= budget


def test_tables_and_targets_must_match(street, street_space, predictor, predict, scenes, short, tmp_path):
    two = [street, predict(street_space, 1)]
    with pytest.raises(UsageError, match="needs a latency table"):
        search([], scenes, tmp_path / "run", short)
    with pytest.raises(UsageError, match="2 tables need one target per table"):
        search(two, scenes, tmp_path / "run", short)
    with pytest.raises(UsageError, match="2 tables, but targets: 1"):
        search(two, scenes, tmp_path / "run", change(short, targets_ms=((1.0,),)))
    with pytest.raises(UsageError, match=r"share one space: .*street-0\.lut \(space street\), .* \(space mini\)"):
        search([street, predictor], scenes, tmp_path / "run", change(short, targets_ms=((1.0, 1.0),)))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "loss of the weights is nan at step 2"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"Lower --batch or --crop"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), r"Lower --batch or --crop"),
    ],
)
def test_failed_search_keeps_its_checkpoint(street, scenes, short, tmp_path, monkeypatch, error, message):
    real, calls = SegmentationLoss.__call__, []

    def broken(*arguments):
        calls.append(arguments)
        if len(calls) == 3 and error is not None:
            raise error
        return [real(*arguments)[0] * (np.nan if len(calls) == 3 else 1.0)]

    search(street, scenes, tmp_path / "whole", short)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationLoss, "__call__", broken)
        with pytest.raises(TrainingError, match=message):
            search(street, scenes, tmp_path / "run", short)
    state = load_checkpoint(tmp_path / "run")
    assert state["step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in state["net"].values())
    assert [record["step"] for record in read_log(tmp_path / "run")] == [0, 1]
    search(street, scenes, tmp_path / "run", short)
    require_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_finalization_out_of_memory_is_explained(street, scenes, short, tmp_path, monkeypatch):
    def exhaust_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lgc.search.selection.strategies.halve", exhaust_memory)
    with pytest.raises(TrainingError, match="Lower --batch or --crop"):
        search(street, scenes, tmp_path / "run", short)
    assert load_checkpoint(tmp_path / "run")["step"] == short.steps
