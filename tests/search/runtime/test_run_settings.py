"""Settings of run folders: of earlier versions, and of runs that are resumed with fewer options."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lgc.errors import FileFormatError, UsageError
from lgc.search.config import SearchRunConfig
from lgc.search.runtime.fabric import require_equal_settings
from lgc.search.runtime.run_settings import (
    BATCH_PER_PROCESS,
    LEGACY_SETTINGS,
    announce_earlier_version,
    resume_settings,
    upgrade_settings,
)
from lgc.search.training.config import TrainConfig

OLD = {"steps": 9, "batch": 4, "processes": 2, "lr": 0.5, "crop": [16, 32], "space": "a1"}
NEW = {**OLD, "batch": 8, BATCH_PER_PROCESS: 4, "sync_bn": False}


@pytest.fixture
def begin(tmp_path):
    """Store settings of a training that has begun, and return its folder."""

    def store(settings, stage="train"):
        (tmp_path / f"{stage}.json").write_text(json.dumps(settings))
        (tmp_path / f"{stage}.ckpt").touch()
        return tmp_path

    return store


def test_earlier_settings_are_upgraded():
    assert upgrade_settings(OLD, "train") == OLD | {"batch": 8, BATCH_PER_PROCESS: 4} | LEGACY_SETTINGS["train"]
    assert upgrade_settings(NEW, "train") == LEGACY_SETTINGS["train"] | NEW
    assert upgrade_settings({"batch": 3}, "search") == {"batch": 3, BATCH_PER_PROCESS: 3} | LEGACY_SETTINGS["search"]


def test_legacy_settings_are_fields():
    assert {*LEGACY_SETTINGS["train"]} <= {*TrainConfig.model_fields}
    assert {*LEGACY_SETTINGS["search"]} <= {*SearchRunConfig.model_fields}


@pytest.mark.parametrize("stored", [OLD, NEW])
def test_omitted_settings_are_the_runs_own(begin, stored):
    lines = []
    settings = resume_settings(TrainConfig, {"seed": 3}, begin(stored), "train", lines.append)
    config = TrainConfig(**settings)
    assert (config.steps, config.batch, config.lr, config.crop, config.seed) == (9, 8, 0.5, (16, 32), 3)
    assert config.sync_bn is (stored is OLD)
    (line,) = lines
    assert line.startswith(f"{begin(stored)} keeps the settings that it began with: crop [16, 32], optimiser 'sgd', lr")


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("train", "this one's, and gradients are clipped"),
        (
            "search",
            "this one's, its remaining paths lie near the target, and its trials have the recipe of lgc-train",
        ),
    ],
)
def test_run_of_an_earlier_version_is_announced(begin, stage, changes):
    lines = []
    folder = begin(OLD, stage)
    announce_earlier_version(folder, stage, lines.append)
    assert lines == [f"{folder} was begun by an earlier version: its remaining random views are {changes}"]
    announce_earlier_version(begin(NEW | {"halves": "random"}, stage), stage, pytest.fail)
    begin(OLD, stage)
    (folder / f"{stage}-result.json").touch()
    announce_earlier_version(folder, stage, pytest.fail)


@pytest.mark.parametrize(
    ("stored", "given", "batch"), [(OLD, 4, 8), (OLD, 8, 8), (OLD, 5, 5), (NEW, 4, 4), (NEW, 8, 8)]
)
def test_given_batch_is_that_of_its_version(begin, stored, given, batch):
    lines = []
    assert resume_settings(TrainConfig, {"batch": given}, begin(stored), "train", lines.append)["batch"] == batch
    assert ("batch 8 (4 per process)" in lines[-1]) == (batch != given)


def test_new_run_takes_no_stored_settings(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(NEW))  # it was killed before its first checkpoint
    assert resume_settings(TrainConfig, {"lr": 1.0}, tmp_path, "train", pytest.fail) == {"lr": 1.0}


def test_settings_equal_to_defaults_are_not_listed(begin):
    folder = begin({**TrainConfig(steps=9).list_settings(), "processes": 1, BATCH_PER_PROCESS: 8})
    assert TrainConfig(**resume_settings(TrainConfig, {}, folder, "train", pytest.fail)) == TrainConfig(steps=9)


def test_later_defaults_do_not_change_a_run(begin):
    class LaterConfig(TrainConfig):
        seed: int = 9
        balanced: bool = False

    folder, lines = begin({**TrainConfig(steps=9).list_settings(), "processes": 1, BATCH_PER_PROCESS: 8}), []
    config = LaterConfig(**resume_settings(LaterConfig, {}, folder, "train", lines.append))
    assert (config.seed, config.balanced) == (0, True)
    assert lines == [f"{folder} keeps the settings that it began with: seed 0, balanced True"]


def test_targets_of_a_search_are_kept(begin):
    stored = SearchRunConfig(steps=9, targets_ms=((5.0,), (8.0,)), precision="bf16", quantile=0.9)
    folder = begin({**stored.model_dump(mode="json"), BATCH_PER_PROCESS: 16, "processes": 1}, "search")
    assert SearchRunConfig(**resume_settings(SearchRunConfig, {}, folder, "search")) == stored


def test_damaged_settings_are_named(begin):
    folder = begin({})
    (folder / "train.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"train\.json is damaged"):
        resume_settings(TrainConfig, {}, folder, "train")


def test_processes_need_the_same_settings():
    fabric = SimpleNamespace(global_rank=3, broadcast=lambda _: {"lr": 0.5, "steps": 9})
    require_equal_settings({"lr": 0.5, "steps": 9}, fabric)
    with pytest.raises(UsageError, match=r"^process 3 has other settings than the first one \(lr, batch\): all need"):
        require_equal_settings({"steps": 9, "batch": 2, "lr": 0.1}, fabric)
