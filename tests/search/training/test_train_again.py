"""Repeated commands `lgc-train`: resumed, finished, and continued in another folder."""

from __future__ import annotations

import json

import pytest

from ..runs import KilledError

SHORT = ("--steps", 3, "--batch", 2)


def test_resumed_training_says_at_which_step(run, scenes, call, monkeypatch):
    monkeypatch.setattr("lgc.search.runtime.training_loop.CHECKPOINT_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("lgc.tools.train.make_step_progress", lambda *_: stop)
        with pytest.raises(KilledError):
            call("lgc-train", run, "--data", scenes, *SHORT)
    assert "resumed at step 2 of 3" in call("lgc-train", run, "--data", scenes, *SHORT).err.splitlines()


def stop(step, steps):
    """Stand-in for a `kill` at step 2."""
    if step == 2:
        raise KilledError


def test_finished_training_says_how_to_continue(run, scenes, call, tmp_path):
    assert "resumed" not in call("lgc-train", run, "--data", scenes, *SHORT).err
    more = f"to train its weights further: --init {run}/weights.safetensors --out NEW"
    assert f"{run} is finished: nothing was trained; {more}" in call("lgc-train", run, "--data", scenes, *SHORT).err
    assert call("lgc-train", run, "--data", scenes, *SHORT, "--steps", 4).refusal("lgc-train").endswith(more)
    assert not call("lgc-train", run, "--data", scenes, *SHORT, "--lr", 0.5).refusal("lgc-train").endswith(more)
    options = ("--init", run / "weights.safetensors", "--out", tmp_path / "new", "--json")
    done = call("lgc-train", run, "--data", scenes, *SHORT, *options)
    assert json.loads(done.out)["from_scratch"] == []


def test_omitted_options_are_the_trainings_own(run, scenes, call, monkeypatch):
    monkeypatch.setattr("lgc.search.runtime.training_loop.CHECKPOINT_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("lgc.tools.train.make_step_progress", lambda *_: stop)
        with pytest.raises(KilledError):
            call("lgc-train", run, "--data", scenes, *SHORT, "--lr", 0.5, "--crop", "16x32", "--no-ohem")
    refused = call("lgc-train", run, "--data", scenes, "--lr", 0.4).refusal("lgc-train")
    assert "holds a different run (lr 0.5, not 0.4)" in refused
    resumed = call("lgc-train", run, "--data", scenes, "--json")
    assert resumed.code == 0, resumed.err
    own = f"{run} keeps the settings that it began with: batch 2, crop [16, 32], lr 0.5, ohem False"
    assert own in resumed.err.splitlines()
    assert "resumed at step 2 of 3" in resumed.err
    result = json.loads(resumed.out)
    assert (result["steps"], result["lr"], result["ohem"]) == (3, 0.5, False)
    finished = call("lgc-train", run, "--data", scenes, "--json")
    assert own in finished.err.splitlines()
    assert json.loads(finished.out) == result
