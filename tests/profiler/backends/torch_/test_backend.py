"""Settings of torch's libraries, and the runner for each device."""

import pytest
import torch
from torch import nn

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.torch_ import backend as torch_backend
from lgc.profiler.backends.torch_.runner import EagerRunner


def test_fp32_is_rejected_while_tf32_is_on(monkeypatch):
    monkeypatch.setattr(torch_backend, "disable_tf32", lambda: True)
    monkeypatch.setattr(torch_backend, "CudaGraphRunner", lambda *made_of: made_of)
    workload = Workload("net", ((1, 1, 2, 2),), nn.Identity)
    with pytest.raises(MeasurementError, match="keeps TF32 on, so fp32 would not be fp32"):
        get_backend("torch").compile(workload, Target("cuda:1", "torch"))
    made_of = get_backend("torch").compile(workload, Target("cuda:1", "torch", "fp16"))
    assert made_of == (workload, "fp16", torch.device("cuda:1"))


def test_cudnn_uses_heuristic_algorithms(monkeypatch):
    monkeypatch.setattr(torch_backend, "CudaGraphRunner", lambda *_: None)
    monkeypatch.setattr(torch_backend, "disable_tf32", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    target = Target("cuda:0", "torch")
    get_backend("torch").compile(Workload("net", ((1, 1, 2, 2),), nn.Identity), target)
    assert torch.backends.cudnn.benchmark is False
    assert get_backend("torch").settings(target)["cudnn_benchmark"] == "off"


def test_cpu_module_is_eager_and_contiguous():
    made = get_backend("torch").compile(
        Workload("net", ((1, 4, 6, 6),), lambda: nn.Conv2d(4, 8, 3)), Target("cpu", "torch")
    )
    assert isinstance(made, EagerRunner)
    assert made._module.weight.is_contiguous()
    assert made._inputs[0].is_contiguous()
