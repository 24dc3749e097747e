"""The comparison of a GPU's losses with a CPU's, tested on CPUs: equal runs pass, different ones fail."""

from __future__ import annotations

import json

import pytest

from lgc.search.config import SearchConfig
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from .runs import read_losses, require_like_losses


@pytest.fixture
def searched(street, scenes, tmp_path):
    """Search in a few steps and return the run folder: `searched(name, **settings)`."""

    def make(name, precision="fp32", **settings):
        common = {"steps": 4, "batch": 4, "warm_up": 0.5, "samples": 4, "finalists": 2, "trials": 0}
        common |= {"weight_lr": 0.001, "weight_lr_end": 0.0001}
        search(street, scenes, tmp_path / name, SearchConfig(**common | settings), precision=precision)
        return tmp_path / name

    return make


@pytest.fixture
def trained(run, scenes, tmp_path):
    """Train in a few steps and return the folder: `trained(name, **settings)`."""

    def make(name, **settings):
        config = TrainConfig(**{"steps": 4, "batch": 4, "lr": 0.003} | settings)
        train(run, scenes, config, out=tmp_path / name)
        return tmp_path / name

    return make


def test_equal_searches_have_equal_losses(searched):
    first, other = searched("first"), searched("other")
    require_like_losses(first, other, "search")
    assert [list(steps) for steps in read_losses(first, "search").values()] == [[0, 1, 2, 3], [2, 3]]


def test_bf16_and_fp32_losses_are_similar(searched, trained):
    require_like_losses(searched("half", precision="bf16"), searched("full"), "search", "bf16")
    require_like_losses(trained("half2", precision="bf16"), trained("full2"), "train", "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_different_seed_has_different_losses(searched, trained, precision):
    with pytest.raises(AssertionError, match="differs by"):
        require_like_losses(searched("first", seed=1), searched("other"), "search", precision)
    with pytest.raises(AssertionError, match="differs by"):
        require_like_losses(trained("first2", seed=1), trained("other2"), "train", precision)


def test_training_without_updates_has_different_losses(trained):
    with pytest.raises(AssertionError, match=r"loss of step [123] differs by"):
        require_like_losses(trained("still", lr=1e-9), trained("moving", lr=0.01), "train")


def test_missing_losses_fail_the_comparison(tmp_path):
    for name, steps in (("none", 0), ("short", 1), ("whole", 2)):
        (tmp_path / name).mkdir()
        lines = (json.dumps({"step": step, "loss": 2.0, "aux_loss": 2.0}) for step in range(steps))
        (tmp_path / name / "train.jsonl").write_text("\n".join(lines))
    require_like_losses(tmp_path / "whole", tmp_path / "whole", "train")
    with pytest.raises(AssertionError):
        require_like_losses(tmp_path / "short", tmp_path / "whole", "train")
    with pytest.raises(AssertionError, match="has no losses"):
        require_like_losses(tmp_path / "none", tmp_path / "none", "train")
