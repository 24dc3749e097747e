"""Training by several processes under torchrun equals training by one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lgc.errors import UsageError
from lgc.models import SearchSpace
from lgc.search.training.config import TrainConfig, divide_batch
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.train import train

from ..processes import run_worker
from ..runs import load_checkpoint, read_log, require_equal_tensors

FOLDER = Path(__file__).parent
WORKER = """
import os, sys, torch
from lgc.search.training import train as training
from lgc.tools.train import main

real = training.run_training
def run_and_save(trainer, *rest):
    real(trainer, *rest)
    torch.save(trainer.snapshot(), f"{sys.argv[1]}/rank{os.environ['RANK']}.pt")
training.run_training = run_and_save
sys.argv[0] = "lgc-train"
main()
"""


def torchrun(*arguments, folder):
    """Run a command in two processes over the loopback device; torchrun's own files go to `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    launcher += ("--master-addr", "127.0.0.1", "--master-port", str(port))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(folder)}
    return subprocess.run(
        [*launcher, *map(str, arguments)], capture_output=True, text=True, timeout=240, env=environment, check=False
    )


def test_two_process_training_equals_single_process(run, scenes, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    done = torchrun(
        *(tmp_path / "worker.py", run, "--data", scenes, "--steps", 5, "--batch", 4, "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: only the first process prints
    assert (result["processes"], result["batch"], result["batch_per_process"]) == (2, 4, 2)
    whole = train(run, scenes, TrainConfig(steps=5, batch=4), out=tmp_path / "whole")
    logs = [read_log(folder, "train") for folder in (run, tmp_path / "whole")]
    for name in ("loss", "aux_loss", "lr"):
        double, single = ([record[name] for record in log] for log in logs)
        assert double == pytest.approx(single, abs=1e-4), name
    assert logs[0][0]["loss"] != pytest.approx(logs[0][-1]["loss"], abs=1e-3)  # the training changes the loss
    assert evaluate_run(run, scenes).per_class == result["per_class"]  # scored by a single process
    ranks = [torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for part in ("trainee", "mean"):
        require_equal_tensors(ranks[0][part], ranks[1][part])
    reference = load_checkpoint(tmp_path / "whole", "train")["trainee"]
    for name, value in ranks[0]["trainee"].items():
        assert torch.allclose(value, reference[name], atol=2e-3), name
    assert result["pixel_accuracy"] == pytest.approx(whole.pixel_accuracy, abs=2)


LOCAL = ("--steps", 6, "--batch", 12, "--no-sync-bn", "--crop", "32x32")


@pytest.fixture(scope="module")
def trained(mini_space, scenes, tmp_path_factory):
    """Train by the worker in one to three processes; return its folders by the number of processes, and stderr."""
    folder = tmp_path_factory.mktemp("parallel")
    run = folder / "run"
    run.mkdir()
    content = {**mini_space.model_dump(mode="json"), "name": "street", "classes": 11}
    mini_space.check(content, "street").sample(0).save(run / "architecture.json")
    large = folder / "large"
    large.mkdir()
    SearchSpace.load("tiny").sample(0).save(large / "architecture.json")
    commands = {
        "defaults": (None,),
        "uneven": (None, "--batch", 3),
        "few": (None, "--batch", 6, "--no-sync-bn"),
        "local": (None, *LOCAL),
        "killed": (3, *LOCAL),
        "resumed": (None, "--out", "killed"),
    }
    err = ""
    all_runs = ((2, run, commands), (1, run, ("defaults", "few")), (3, large, ("local", "killed", "resumed")))
    for processes, run, names in all_runs:
        out = folder / str(processes)
        out.mkdir()
        lines = [
            (name, killed_at, [*map(str, (run, "--data", scenes, "--out", name, *words))])
            for name, (killed_at, *words) in commands.items()
            if name in names
        ]
        (out / "commands.json").write_text(json.dumps(lines))
        err += run_worker(processes, FOLDER / "train_worker.py", out, out / "commands.json", cwd=out)[1]
    return folder, err


def read_rank(folder, name, rank):
    """Return the worker's record of a command in a process, and its last state."""
    state = torch.load(folder / f"{name}-rank{rank}.pt", weights_only=True)
    return json.loads((folder / f"{name}-rank{rank}.json").read_text()), state


def test_processes_share_the_default_batch(trained):
    folder, _ = trained
    ranks, (single, _) = (
        [read_rank(folder / "2", "defaults", rank)[0] for rank in (0, 1)],
        read_rank(folder / "1", "defaults", 0),
    )
    assert [record["code"] for record in (*ranks, single)] == [0, 0, 0]
    shares = [[len(images) for images in record["images"]] for record in (*ranks, single)]
    assert shares == [[4] * 4, [4] * 4, [8] * 4]
    assert [first + second for first, second in zip(*(record["images"] for record in ranks), strict=True)] == single[
        "images"
    ]
    logs = [read_log(folder / count / "defaults", "train") for count in ("2", "1")]
    for name in ("step", "lr"):
        assert [record[name] for record in logs[0]] == [record[name] for record in logs[1]]
    assert [record["loss"] for record in logs[0]] == pytest.approx([record["loss"] for record in logs[1]], abs=1e-4)


def test_uneven_batch_names_the_nearest(trained):
    folder, err = trained
    assert [read_rank(folder / "2", "uneven", rank)[0]["code"] for rank in (0, 1)] == [2, 2]
    assert err.count("--batch 3 cannot be divided equally among 2 processes: use --batch 2 or 4") == 2
    assert not (folder / "2" / "uneven").exists()


def test_local_norms_need_four_images(trained):
    folder, err = trained
    assert [read_rank(folder / "2", "few", rank)[0]["code"] for rank in (0, 1)] == [2, 2]
    assert err.count("--no-sync-bn needs at least 4 images per process, but --batch 6 gives 3 to each of 2") == 2
    assert "use --batch 8 or more" in err
    assert read_rank(folder / "1", "few", 0)[0]["code"] == 0  # of a single process, all norms are local


def test_local_norms_save_the_same_statistics(trained):
    folder, _ = trained
    (_, first), (_, second) = (read_rank(folder / "2", "local", rank) for rank in (0, 1))
    for part in ("trainee", "mean"):
        require_equal_tensors(first[part], second[part])


@pytest.mark.parametrize("processes", [2, 3])  # only the sum of three or more depends on its order
def test_parallel_training_is_resumed_as_begun(trained, processes):
    folder, err = trained
    settings = f"batch 12 ({12 // processes} per process), crop [32, 32], sync_bn False"
    assert f"killed keeps the settings that it began with: {settings}" in err
    assert "resumed at step 3 of 6" in err
    folder /= str(processes)
    for rank in range(processes):
        (whole, whole_state), (resumed, state) = (read_rank(folder, name, rank) for name in ("local", "resumed"))
        assert (resumed["code"], resumed["images"]) == (0, whole["images"][3:])
        for part in ("trainee", "mean"):
            require_equal_tensors(state[part], whole_state[part])
    assert read_log(folder / "killed", "train") == read_log(folder / "local", "train")


@pytest.mark.parametrize(
    ("batch", "processes", "nearest"), [(8, 3, "6 or 9"), (2, 4, "4"), (4, 4, None), (9, 3, None), (1, 1, None)]
)
def test_batch_is_divided_equally(batch, processes, nearest):
    if nearest is None:
        assert divide_batch(batch, processes) * processes == batch
        return
    with pytest.raises(UsageError, match=f"--batch {batch} cannot .* {processes} processes: use --batch {nearest}$"):
        divide_batch(batch, processes)
