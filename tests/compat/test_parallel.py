"""Runs of two processes with a batch each, by commit 3ed29be, are resumed; `make_parallel.py` made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..search.processes import run_worker
from .test_compat import EXACT, differences, read, unpack

SEARCH = ["lgc-search", "--lut", "tables/torch.lut", "--data", "scenes", "--json"]
TRAIN = ["lgc-train", "parallel/run", "--data", "scenes", "--json"]
COMMANDS = {
    "finished": ["lgc-train", "finished", "--data", "scenes", "--json", "--batch", "1", "--warm-up", "5"],
    "train": [*TRAIN, "--batch", "1", "--warm-up", "5"],
    "search": [*SEARCH, "--out", "searched"],
}
"""Name -> command. The search, unlike the training, leaves out what it began with."""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Run the commands in two processes; return the folder, and (exit code, stdout, stderr) by name."""
    folder = unpack(tmp_path_factory.mktemp("parallel") / "files")
    for name in ("finished", "searched"):
        shutil.copytree(folder / "parallel/run", folder / name)
    shutil.copy(folder / "parallel/train-result.json", folder / "finished")
    (folder / "commands.json").write_text(json.dumps([*COMMANDS.values()]))
    out, _ = run_worker(2, Path(__file__).with_name("command_worker.py"), folder / "commands.json", cwd=folder)
    return folder, dict(zip(COMMANDS, json.loads(out), strict=True))


def read_metrics(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("stage", ["search", "train"])
def test_batch_per_process_is_resumed(resumed, stage):
    folder, done = resumed
    code, out, err = done[stage]
    assert code == 0, err
    steps = {"search": 80, "train": 400}[stage]  # a batch of 1 for both processes would need twice as many
    assert json.loads(out)["steps"] == steps
    run = folder / {"search": "searched", "train": "parallel/run"}[stage]
    own = {
        "search": "batch 2 (1 per process)",
        "train": "optimiser 'sgd', lr 0.01, weight_decay 0.0005, balanced False, aux_heads 'single', keep 'last', "
        "batch 2 (1 per process)",
    }[stage]
    assert f"{run.relative_to(folder)} keeps the settings that it began with: {own}" in err
    old, new = (read_metrics(path) for path in (folder / f"parallel/{stage}.jsonl", run / f"{stage}.jsonl"))
    assert [record["step"] for record in old] == [record["step"] for record in new]
    for name in {"search": ("weight_lr", "temperature"), "train": ("lr",)}[stage]:  # the views are drawn otherwise now
        assert [record[name] for record in old] == pytest.approx([record[name] for record in new], rel=1e-9), name


def test_result_has_the_whole_batch(resumed):
    result = json.loads(resumed[1]["train"][1])
    assert (result["batch"], result["batch_per_process"], result["processes"]) == (2, 1, 2)
    assert result["sync_bn"] is True


def test_finished_training_prints_its_result(resumed):
    folder, done = resumed
    code, out, err = done["finished"]
    assert code == 0, err
    assert (
        differences(
            read(folder / "parallel/train-result.json"), json.loads(out) | {"weights": "run/weights.safetensors"}, EXACT
        )
        == []
    )


def test_another_batch_is_refused(resumed, call):
    folder, _ = resumed
    refused = call("lgc-train", folder / "parallel/run", "--data", folder / "scenes", "--batch", 4)
    assert "holds a different run (batch 1, not 4; processes 2, not 1)" in refused.refusal("lgc-train")
