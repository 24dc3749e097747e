"""Devices, precisions and processes: two of them search as one with twice the batch does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lgc.errors import DeviceError, TrainingError, UnknownNameError, UsageError
from lgc.models import Architecture
from lgc.search.runtime.fabric import (
    GlobalBatchNorm,
    average_gradients,
    explained_memory,
    open_fabric,
    synchronise_norms,
)

HERE = Path(__file__).parent


def run_worker(processes: int, script: str, *words: object) -> tuple[str, str]:
    """Run a worker script in processes that talk over the loopback device; their stdout and stderr, joined.

    They are started as torchrun would start them, without its own process; `test_train_parallel` has torchrun itself.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    environment = {**os.environ, **address, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = []
    for rank in map(str, range(processes)):
        place = {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "none"}
        place |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        command = [sys.executable, str(HERE / script), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment | place, **pipes))
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, outputs
    out, err = map("".join, zip(*outputs, strict=True))
    return out, err


def test_a_normalisation_over_two_processes_is_that_of_the_joined_batch(tmp_path):
    cases = []
    for number, options in enumerate([{}, {"middle": 1}, {"momentum": 0.0}, {"training": False}, {"dtype": "bf16"}]):
        generator = torch.Generator().manual_seed(number)
        plain = nn.BatchNorm2d(4)
        state = {name: value.clone() for name, value in plain.state_dict().items()}
        for name in ("weight", "bias", "running_mean"):
            state[name] = torch.randn(4, generator=generator)
        x = 3 * torch.randn(5, 4, 6, 7, generator=generator) + 10 * torch.arange(4.0).view(1, 4, 1, 1)
        case = {"x": x, "weights": torch.randn(x.shape, generator=generator), "state": state}
        cases.append(case | {"middle": 3, "momentum": 0.1, "training": True} | options)
    cases[-1]["x"] = cases[-1]["x"].bfloat16()
    torch.save(cases, tmp_path / "cases.pt")
    run_worker(2, "norm_worker.py", tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for case, first, second in zip(cases, *ranks, strict=True):
        norm = nn.BatchNorm2d(4, momentum=case["momentum"])
        norm.load_state_dict(case["state"])
        norm.train(case["training"])
        x = case["x"].clone().requires_grad_()
        out = norm(x)
        (out * case["weights"]).sum().backward()
        close = {"rtol": 0.02, "atol": 0.1} if x.dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(torch.cat([first["out"], second["out"]]), out.detach(), **close)
        assert first["out"].dtype == x.dtype
        gradients = [one["gradients"] for one in (first, second)]
        torch.testing.assert_close(torch.cat([one["x"] for one in gradients]), x.grad, **close)
        for name, parameter in norm.named_parameters():
            torch.testing.assert_close(gradients[0][name] + gradients[1][name], parameter.grad, **close)
        for name, value in norm.state_dict().items():
            assert torch.equal(first["state"][name], second["state"][name]), name
            if case["momentum"] or name != "num_batches_tracked":  # without momentum nothing is tracked
                torch.testing.assert_close(first["state"][name], value, **close)


def test_two_processes_search_as_one_with_twice_the_batch(street, scenes, tmp_path):
    """A front of two points, so that all of a search runs in both ways; one trial each."""
    predictor = street
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    targets = [round(low + share * (high - low), 3) for share in (0.3, 0.7)]
    common = ["--lut", predictor.table_path, "--data", scenes, "--steps", 7, "--arch-lr", 0.05, "--json"]
    common += ["--trials", 1]
    common += [word for target in targets for word in ("--target-ms", target)]
    done = {}
    for processes, batch in ((2, 2), (1, 4)):
        (tmp_path / str(processes)).mkdir()
        out = tmp_path / f"run{processes}"
        done[processes] = run_worker(
            processes, "search_worker.py", tmp_path / str(processes), *common, "--batch", batch, "--out", out
        )
    result = json.loads(done[2][0])  # one object: only the first process prints
    assert [one["target_ms"] for one in result["front"]] == targets
    assert done[2][1].count("never verified") == 1
    first, second = (torch.load(tmp_path / "2" / f"rank{rank}.pt") for rank in (0, 1))
    alone = torch.load(tmp_path / "1" / "rank0.pt")
    assert len(first) == len(second) == len(alone) == 3  # the warm-up and two points
    for a, b, c in zip(first, second, alone, strict=True):
        assert torch.equal(a["picks"], b["picks"])
        assert torch.equal(a["picks"], c["picks"])
        assert all(torch.equal(value, b["alphas"][name]) for name, value in a["alphas"].items())
        assert all(torch.equal(value, b["net"][name]) for name, value in a["net"].items())
        for name, value in a["alphas"].items():
            torch.testing.assert_close(value, c["alphas"][name], rtol=0, atol=1e-4)
    assert not torch.equal(first[0]["alphas"]["alpha.0"], first[1]["alphas"]["alpha.0"])
    assert (first[1]["picks"] != first[2]["picks"]).any()
    for name in (".", *(Path(one["architecture"]).parent.name for one in result["front"])):
        logs = [
            [json.loads(line) for line in (tmp_path / run / name / "search.jsonl").read_text().splitlines()]
            for run in ("run2", "run1")
        ]
        assert [record["step"] for record in logs[0]] == [record["step"] for record in logs[1]]
        for key in ("weight_loss", "arch_loss", "load"):
            apart, together = ([record[key] for record in log if key in record] for log in logs)
            assert apart == pytest.approx(together, abs=1e-4), key
    for one in result["front"]:
        assert predictor.predict(Architecture.load(one["architecture"])) <= one["target_ms"]


def test_one_process_changes_nothing():
    fabric, network = open_fabric("cpu"), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    synchronise_norms(network, fabric)
    assert type(network[1]) is nn.BatchNorm2d
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    before = [parameter.grad.clone() for parameter in network.parameters()]
    average_gradients(network.parameters(), fabric)
    assert all(torch.equal(p.grad, kept) for p, kept in zip(network.parameters(), before, strict=True))
    assert fabric.world_size == 1


def test_unknown_precisions_are_listed():
    with pytest.raises(UnknownNameError, match="unknown precision 'fp8'; known: bf16, fp16, fp32"):
        open_fabric("cpu", "fp8")


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="a CPU takes fp32 or bf16"):
        open_fabric("cpu", "fp16")


def test_several_processes_take_a_gpu_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="under torchrun write --device cuda"):
        open_fabric("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="2 processes here, but there are 1 GPUs"):
        open_fabric("cuda:0")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ],
)
def test_running_out_of_memory_is_explained(error):
    advice = r"out of memory; the last checkpoint is kept\. Lower --batch"
    with pytest.raises(TrainingError, match=advice), explained_memory("--batch"):
        raise error


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shapes differ"), explained_memory("--batch"):
        raise RuntimeError("shapes differ")


def test_a_normalisation_of_one_process_in_evaluation_is_torchs():
    norm, plain = GlobalBatchNorm(3).eval(), nn.BatchNorm2d(3).eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(norm(x), plain(x))
