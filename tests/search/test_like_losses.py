"""The comparison of a GPU's losses with a CPU's, tried out on CPUs: equal runs pass, others do not."""

from __future__ import annotations

import json

import pytest

from lgc.search.config import SearchConfig
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from .runs import losses_of, require_like_losses


@pytest.fixture
def searched(street, scenes, tmp_path):
    """Searches in a few steps: `searched(name, **settings)`, the run folder."""

    def make(name, precision="fp32", **settings):
        common = {"steps": 4, "batch": 4, "warm_up": 0.5, "samples": 4, "finalists": 2, "trials": 0}
        common |= {"weight_lr": 0.001, "weight_lr_end": 0.0001}
        search(street, scenes, tmp_path / name, SearchConfig(**common | settings), precision=precision)
        return tmp_path / name

    return make


@pytest.fixture
def trained(run, scenes, tmp_path):
    """Trains in a few steps: `trained(name, **settings)`, the folder."""

    def make(name, **settings):
        config = TrainConfig(**{"steps": 4, "batch": 4, "lr": 0.003} | settings)
        train(run, scenes, config, out=tmp_path / name)
        return tmp_path / name

    return make


def test_equal_searches_have_like_losses(searched):
    one, other = searched("one"), searched("other")
    require_like_losses(one, other, "search")
    assert [list(steps) for steps in losses_of(one, "search").values()] == [[0, 1, 2, 3], [2, 3]]


def test_bf16_losses_are_like_fp32s(searched, trained):
    require_like_losses(searched("half", precision="bf16"), searched("full"), "search", "bf16")
    require_like_losses(trained("half2", precision="bf16"), trained("full2"), "train", "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_another_seed_has_other_losses(searched, trained, precision):
    with pytest.raises(AssertionError, match="differs by"):
        require_like_losses(searched("one", seed=1), searched("other"), "search", precision)
    with pytest.raises(AssertionError, match="differs by"):
        require_like_losses(trained("one2", seed=1), trained("other2"), "train", precision)


def test_training_without_updates_has_other_losses(trained):
    with pytest.raises(AssertionError, match=r"loss of step [123] differs by"):
        require_like_losses(trained("still", lr=1e-9), trained("moving", lr=0.01), "train")


def test_missing_losses_are_unlike(tmp_path):
    for name, steps in (("none", 0), ("short", 1), ("whole", 2)):
        (tmp_path / name).mkdir()
        lines = (json.dumps({"step": step, "loss": 2.0, "aux_loss": 2.0}) for step in range(steps))
        (tmp_path / name / "train.jsonl").write_text("\n".join(lines))
    require_like_losses(tmp_path / "whole", tmp_path / "whole", "train")
    with pytest.raises(AssertionError):
        require_like_losses(tmp_path / "short", tmp_path / "whole", "train")
    with pytest.raises(AssertionError, match="has no losses"):
        require_like_losses(tmp_path / "none", tmp_path / "none", "train")
