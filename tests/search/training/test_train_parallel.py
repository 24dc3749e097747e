"""Several processes under torchrun train as one process with the whole batch does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from lgc.search.training.config import TrainConfig
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.train import train

WORKER = """
import os, sys, torch
from lgc.search.training import train as training
from lgc.tools.train import main

real = training.optimise
def kept(descent, *rest):
    seconds = real(descent, *rest)
    torch.save(descent.snapshot(), f"{sys.argv[1]}/rank{os.environ['RANK']}.pt")
    return seconds
training.optimise = kept
sys.argv[0] = "lgc-train"
main()
"""


def torchrun(*words):
    """Run a command in two processes that talk over the loopback device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    launcher += ("--master-addr", "127.0.0.1", "--master-port", str(port))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*launcher, *map(str, words)], capture_output=True, text=True, timeout=240, env=environment, check=False
    )


def test_two_processes_equal_one_with_twice_the_batch(run, scenes, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    done = torchrun(
        *(tmp_path / "worker.py", run, "--data", scenes, "--steps", 5, "--batch", 2, "--lr", 0.05, "--json")
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: only the first process prints
    assert result["processes"] == 2
    whole = train(run, scenes, TrainConfig(steps=5, batch=4, lr=0.05), out=tmp_path / "whole")
    logs = [
        [json.loads(line) for line in (f / "train.jsonl").read_text().splitlines()] for f in (run, tmp_path / "whole")
    ]
    for name in ("loss", "aux_loss", "lr"):
        apart, together = ([record[name] for record in log] for log in logs)
        assert apart == pytest.approx(together, abs=1e-4), name
    assert logs[0][0]["loss"] != pytest.approx(logs[0][-1]["loss"], abs=1e-3)  # it is on its way
    assert evaluate_run(run, scenes)["per_class"] == result["per_class"]  # one process counts what two counted
    ranks = [torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for part in ("trainee", "mean"):
        assert all(torch.equal(value, ranks[1][part][name]) for name, value in ranks[0][part].items())
    alone = torch.load(tmp_path / "whole" / "train.ckpt", weights_only=True)["trainee"]
    for name, value in ranks[0]["trainee"].items():
        assert torch.allclose(value, alone[name], atol=2e-3), name
    assert result["pixel_accuracy"] == pytest.approx(whole["pixel_accuracy"], abs=2)
