"""Devices, precisions and processes: two processes equal one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lgc.errors import DeviceError, TrainingError, UnknownNameError, UsageError
from lgc.models import Architecture
from lgc.search.runtime.fabric import (
    GlobalBatchNorm,
    average_gradients,
    explain_out_of_memory,
    open_fabric,
    synchronise_norms,
)

from ..processes import run_worker
from ..runs import find_target, read_log, require_equal_tensors

FOLDER = Path(__file__).parent


def test_two_process_normalisation_equals_joined_batch(tmp_path):
    cases = []
    kinds = [{}, {"middle": 1}, {"momentum": 0.0}, {"momentum": None}, {"training": False}, {"dtype": "bf16"}]
    for number, options in enumerate(kinds):
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
    run_worker(2, FOLDER / "norm_worker.py", tmp_path)
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
        gradients = [results["gradients"] for results in (first, second)]
        torch.testing.assert_close(torch.cat([part["x"] for part in gradients]), x.grad, **close)
        for name, parameter in norm.named_parameters():
            torch.testing.assert_close(gradients[0][name] + gradients[1][name], parameter.grad, **close)
        for name, value in norm.state_dict().items():
            assert torch.equal(first["state"][name], second["state"][name]), name
            torch.testing.assert_close(first["state"][name], value, **close)


def test_local_statistics_are_averaged(tmp_path):
    run_worker(2, FOLDER / "statistics_worker.py", tmp_path)
    (first, averaged, _), (second, other, sent) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    local, frozen, own = ("1.running_mean", "5.running_mean"), "3.running_mean", "2.scale"
    assert [first[name] for name in (*local, frozen)] == [0, 0, 0]
    assert [second[name] for name in (*local, frozen)] == pytest.approx([0.9, 0.9, 1])  # not the first process's
    assert (first[own], second[own]) == (0, 0)  # the first process's, as DistributedDataParallel does
    for state in (averaged, other):
        assert [state[name] for name in local] == pytest.approx([0.45, 0.45])
    assert (averaged[frozen], other[frozen]) == (0, 1)
    assert averaged["1.running_var"] == other["1.running_var"] == pytest.approx(0.45)
    assert {name: value for name, value in sent.items() if "num_batches" not in name and value != 1} == {}


@pytest.mark.slow
def test_two_process_search_equals_single_process(street, scenes, tmp_path):
    """A front of two points covers all parts of a search."""
    targets = [round(find_target(street, share), 3) for share in (0.3, 0.7)]
    common = ["--lut", street.table_path, "--data", scenes, "--steps", 7, "--arch-lr", 0.05, "--json"]
    common += ["--trials", 1]
    common += [part for target in targets for part in ("--target-ms", target)]
    done = {}
    for processes in (2, 1):
        (tmp_path / str(processes)).mkdir()
        out = tmp_path / f"run{processes}"
        done[processes] = run_worker(
            processes, FOLDER / "search_worker.py", tmp_path / str(processes), *common, "--batch", 4, "--out", out
        )
    result = json.loads(done[2][0])  # one object: only the first process prints
    assert [point["target_ms"] for point in result["front"]] == targets
    assert done[2][1].count("is not verified") == 1
    first, second = (torch.load(tmp_path / "2" / f"rank{rank}.pt") for rank in (0, 1))
    single = torch.load(tmp_path / "1" / "rank0.pt")
    assert len(first) == len(second) == len(single) == 3  # the warm-up and two points
    for a, b, c in zip(first, second, single, strict=True):
        assert torch.equal(a["choices"], b["choices"])
        assert torch.equal(a["choices"], c["choices"])
        for part in ("alphas", "net"):
            require_equal_tensors(a[part], b[part])
        # Gradients, not parameters: Adam makes a whole step of the rounding error in a gradient near 0.
        for moments, other in zip(a["arch"]["state"].values(), c["arch"]["state"].values(), strict=True):
            mean, expected = moments["exp_avg"], other["exp_avg"]
            torch.testing.assert_close(mean, expected, rtol=0, atol=0.01 * float(expected.abs().max()))
    assert not torch.equal(first[0]["alphas"]["alpha.0"], first[1]["alphas"]["alpha.0"])
    assert (first[1]["choices"] != first[2]["choices"]).any()
    for name in (".", *(Path(point["architecture"]).parent.name for point in result["front"])):
        logs = [read_log(tmp_path / run / name) for run in ("run2", "run1")]
        assert [record["step"] for record in logs[0]] == [record["step"] for record in logs[1]]
        for key in ("weight_loss", "arch_loss", "load"):
            double, single_log = ([record[key] for record in log if key in record] for log in logs)
            assert double == pytest.approx(single_log, abs=1e-4), key
    for point in result["front"]:
        assert street.predict(Architecture.load(point["architecture"])) <= point["target_ms"]


def test_single_process_changes_nothing():
    fabric, network = open_fabric("cpu"), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    synchronise_norms(network, fabric)
    assert type(network[1]) is nn.BatchNorm2d
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    before = [parameter.grad.clone() for parameter in network.parameters()]
    average_gradients(network.parameters(), fabric)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(network.parameters(), before, strict=True))
    assert fabric.world_size == 1


class NormAct(nn.BatchNorm2d):
    """Batch normalisation with an activation, as timm's."""

    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("norm", "device", "is_known"),
    [
        (NormAct, "cpu", False),
        (NormAct, "cuda", False),
        (nn.BatchNorm1d, "cpu", False),
        (nn.BatchNorm1d, "cuda", True),
        (nn.SyncBatchNorm, "cpu", False),
        (nn.BatchNorm2d, "cpu", True),
        (nn.BatchNorm2d, "cuda", True),
    ],
)
def test_unknown_norms_are_refused(norm, device, is_known):
    network = nn.Sequential(nn.Sequential(norm(4)))
    fabric = SimpleNamespace(world_size=2, device=torch.device(device))
    if is_known:
        synchronise_norms(network, fabric)
        assert type(network[0][0]) is (GlobalBatchNorm if device == "cpu" else nn.SyncBatchNorm)
        return
    with pytest.raises(
        UsageError, match=rf"^0\.0 is a .*{norm.__name__}, a batch normalisation that cannot .* 2 processes"
    ):
        synchronise_norms(network, fabric)
    assert type(network[0][0]) is norm
    synchronise_norms(network, SimpleNamespace(world_size=1, device=torch.device(device)))


def test_unknown_precisions_are_listed():
    with pytest.raises(UnknownNameError, match="unknown precision 'fp8'; known: bf16, fp16, fp32"):
        open_fabric("cpu", "fp8")


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="choose fp32 or bf16 on a CPU"):
        open_fabric("cpu", "fp16")


def test_each_process_needs_its_own_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="under torchrun use --device cuda"):
        open_fabric("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="2 processes, but this machine has 1 GPUs"):
        open_fabric("cuda:0")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_running_out_of_memory_is_explained(error):
    advice = r"out of memory; the last checkpoint, if any, is kept\. Lower --batch"
    with pytest.raises(TrainingError, match=advice), explain_out_of_memory("--batch"):
        raise error


def test_other_errors_are_not_translated():
    with pytest.raises(RuntimeError, match="shapes differ"), explain_out_of_memory("--batch"):
        raise RuntimeError("shapes differ")


def test_evaluation_mode_equals_torchs_normalisation():
    norm, plain = GlobalBatchNorm(3).eval(), nn.BatchNorm2d(3).eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(norm(x), plain(x))
