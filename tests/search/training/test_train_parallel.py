"""Training by several processes under torchrun equals training by one."""

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

from ..runs import load_checkpoint, read_log, require_equal_tensors

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
        *(tmp_path / "worker.py", run, "--data", scenes, "--steps", 5, "--batch", 4, "--lr", 0.05, "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: only the first process prints
    assert (result["processes"], result["batch"], result["batch_per_process"]) == (2, 4, 2)
    whole = train(run, scenes, TrainConfig(steps=5, batch=4, lr=0.05), out=tmp_path / "whole")
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
