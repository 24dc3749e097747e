"""Searches of spaces whose widths are searched: by evolution and at random, from the table to the trained network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lgc.errors import UsageError
from lgc.lut.predictor import Predictor
from lgc.models.nets.network import LGCNet
from lgc.models.space.lgcnet import LGCNetArchitecture, LGCNetSpace
from lgc.search.config import SearchConfig
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.initial_weights import initialise
from lgc.search.training.train import train

from ..spaces import SLIM
from .runs import KilledError, kill_at, load_checkpoint, read_log

CONFIG = SearchConfig(steps=6, batch=2, finalists=4, trials=2)


@pytest.fixture
def slim(predict) -> Predictor:
    """Predictor of a space with searched widths from random latencies."""
    return predict(LGCNetSpace.check({**SLIM, "classes": 11}, "slim"))


def target_at(predictor: Predictor, share: float) -> float:
    fastest, slowest = predictor.range_ms
    return fastest + share * (slowest - fastest)


@pytest.mark.parametrize("strategy", [None, "evolution", "random", "gradient"])
def test_result_has_widths_and_meets_target(slim, scenes, tmp_path, strategy):
    target = target_at(slim, 0.5)
    config = CONFIG.model_copy(update={"targets_ms": ((target,),)} | ({"strategy": strategy} if strategy else {}))
    result = search(slim, scenes, tmp_path / "run", config)
    architecture = LGCNetArchitecture.load(result.architecture)
    assert result.predicted_ms == pytest.approx(slim.predict(architecture))
    assert 0.5 * target < result.predicted_ms <= target
    assert result.strategy == (strategy or "random")
    assert result.widths == architecture.widths
    assert [*result.widths] == ["stem", "level0", "level1", "fusion"]
    assert result.head_channels == architecture.head_width in (8, 12)
    assert sum(result.operators.values()) == slim.space.edges
    assert {"skip", "pool_pyramid", "sep_conv_3x3"} <= set(result.operators)


def test_killed_search_resumes(slim, scenes, tmp_path, eager_checkpoints):
    whole = search(slim, scenes, tmp_path / "whole", CONFIG)
    with pytest.raises(KilledError):
        search(slim, scenes, tmp_path / "killed", CONFIG, on_step=kill_at(4))
    resumed = search(slim, scenes, tmp_path / "killed", CONFIG)
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")
    own, other = (LGCNetArchitecture.load(each.architecture) for each in (resumed, whole))
    assert (own.choices, resumed.loss_after) == (other.choices, whole.loss_after)


def test_result_trains(slim, scenes: Path, tmp_path):
    result = search(slim, scenes, tmp_path / "run", CONFIG)
    trained = train(tmp_path / "run", scenes, TrainConfig(steps=4, batch=2))
    assert dataclasses.is_dataclass(trained)
    assert trained.weights.exists()
    assert result.architecture.parent == trained.weights.parent


def test_training_starts_from_the_supernet(slim, scenes, tmp_path):
    result = search(slim, scenes, tmp_path / "run", CONFIG)
    trained = train(tmp_path / "run", scenes, TrainConfig(steps=1, batch=2, lr=1e-9, ema=0, init="supernet"))
    assert trained.from_scratch == ()
    stem = load_file(trained.weights)["stem.1.conv.weight"]
    narrow = [int(channels) for channels in result.widths["stem"].split("-")] + [int(result.widths["level0"])]
    wide = load_checkpoint(tmp_path / "run")["net"]["stem.1.module.conv.weight"]
    assert list(stem.shape[:2]) == narrow[1::-1]
    torch.testing.assert_close(stem, wide[: narrow[1], : narrow[0]], rtol=0, atol=1e-7)


def test_supernet_of_another_space_is_no_start(slim, predict, scenes, tmp_path):
    search(slim, scenes, tmp_path / "run", CONFIG)
    other = LGCNetSpace.check({**SLIM, "classes": 11, "head_channels": 16}, "slim")
    source = tmp_path / "run" / "search.ckpt"
    with pytest.raises(UsageError, match="supernet of a different space: train with --init scratch"):
        initialise(LGCNet(other, other.sample(0)), source, 11)
    fewer = LGCNetSpace.check({**SLIM, "classes": 4}, "slim")
    renamed = source.rename(tmp_path / "pretrained.pt")
    transfer = initialise(LGCNet(fewer, fewer.sample(0)), renamed, 4)
    assert transfer.random_parts == ("head.1",)
    assert set(transfer.classifiers.values()) == {11}


def test_initial_weights_of_other_geometry_are_reported(scenes, tmp_path):
    content = {**SLIM, "classes": 11}
    for geometry in (1, 2):
        space = LGCNetSpace.check({**content, "geometry": geometry}, "slim")
        (tmp_path / str(geometry)).mkdir()
        space.sample(0).save(tmp_path / str(geometry) / "architecture.json")
    weights = train(tmp_path / "1", scenes, TrainConfig(steps=2, batch=2)).weights
    lines: list[str] = []
    train(tmp_path / "2", scenes, TrainConfig(steps=2, batch=2, init=str(weights)), log=lines.append)
    (line,) = (line for line in lines if "geometry" in line)
    assert "was trained in geometry 1, this network has geometry 2" in line
