"""Runners of torch modules; the CUDA graph is simulated on the CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.torch_ import runner as torch_runner

SHORT = r"^not enough GPU memory: torch: CUDA out of memory\. Tried to allocate 2 GiB; reduce the input size"


def full(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


class Replayed:
    """Simulated CudaGraph that runs the work again at each replay."""

    def __init__(self, work, device):
        self.work, self.device, self.closed, self.waited = work, device, False, False
        self.result = work()

    def replay(self):
        with torch.inference_mode():
            self.result = self.work()

    def synchronize(self):
        self.waited = True

    def time(self, repeats):
        self.replay()
        return [1.0] * repeats

    def replay_batch(self, repeats):
        self.replay()

    def close(self):
        self.closed = True


@pytest.fixture
def runner(monkeypatch):
    """Return a function that makes a CudaGraphRunner on the CPU: `runner(module, *shapes, precision="fp32")`."""
    monkeypatch.setattr(torch_runner, "CudaGraph", Replayed)

    def make(module, *shapes, precision="fp32"):
        return torch_runner.CudaGraphRunner(Workload("net", shapes, lambda: module), precision, torch.device("cpu"))

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_modules_and_images_are_channels_last(runner, precision):
    made = runner(nn.Conv2d(4, 8, 3), (1, 4, 6, 6), precision=precision)
    for tensor in (made._module.weight, *made._inputs):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert str(tensor.dtype) == f"torch.{torch_runner.TORCH_DTYPES[precision]}"


def test_inference_replays_over_fixed_inputs(runner):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    made = runner(module, (1, 3, 5, 7))
    places = [tensor.data_ptr() for tensor in made._inputs]
    ones, twos = (np.full((1, 3, 5, 7), value, np.float32) for value in (1, 2))
    first, second = (made.infer([image])[0] for image in (ones, twos))
    with torch.inference_mode():
        np.testing.assert_allclose(first, module(torch.from_numpy(ones)).numpy(), atol=1e-6)
    assert not np.array_equal(first, second)
    assert made._graph.waited
    assert first.flags.c_contiguous
    assert first.dtype == np.float32
    assert [tensor.data_ptr() for tensor in made._inputs] == places


def test_prepare_refills_inputs(runner):
    made = runner(nn.Identity(), (1, 2, 3, 3))
    made.prepare()
    first = made._inputs[0].clone()
    assert first.std() > 0
    made.infer([np.zeros((1, 2, 3, 3), np.float32)])
    assert made._inputs[0].abs().sum() == 0
    made.prepare()
    assert torch.equal(made._inputs[0], first)
    assert made.run(4) == [1.0] * 4


def test_inputs_and_outputs_keep_their_order(runner):
    class Pair(nn.Module):
        def forward(self, x, y):
            return x + y, (x * y).argmax(1)

    made = runner(Pair(), (1, 2, 2, 2), (1, 2, 2, 2), precision="fp16")
    total, labels = made.infer([np.ones((1, 2, 2, 2), np.float32), np.ones((1, 2, 2, 2), np.float32)])
    assert (total == 2).all()
    assert (total.dtype, labels.dtype) == (np.float32, np.int64)
    graph = made._graph
    made.close()
    assert graph.closed


def test_out_of_memory_during_warm_up(runner, monkeypatch):
    made = runner(nn.Identity(), (1, 1, 2, 2))

    for name in ("time", "replay_batch"):
        monkeypatch.setattr(made._graph, name, full)
    for work in (made.prepare, lambda: made.run(1)):
        with pytest.raises(MeasurementError, match=SHORT):
            work()


@pytest.mark.parametrize(
    ("owner", "name"), [(torch_runner, "_allocate_input"), (nn.Module, "to"), (torch_runner, "CudaGraph")]
)
def test_out_of_memory_during_construction(runner, monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(MeasurementError, match=SHORT):
        torch_runner.CudaGraphRunner(Workload("net", ((1, 1, 2, 2),), nn.Identity), "fp32", torch.device("cpu"))


def test_out_of_memory_while_filling_inputs(runner, monkeypatch):
    made = runner(nn.Identity(), (1, 1, 2, 2))
    monkeypatch.setattr(made, "_fill", full)
    for work in (made.prepare, lambda: made.infer([np.zeros((1, 1, 2, 2), np.float32)])):
        with pytest.raises(MeasurementError, match=SHORT):
            work()


def test_failing_build_is_not_translated(runner):
    def build():
        raise RuntimeError("Error(s) in loading state_dict")

    with pytest.raises(RuntimeError, match="loading state_dict"):
        torch_runner.CudaGraphRunner(Workload("net", ((1, 1, 2, 2),), build), "fp32", torch.device("cpu"))


def test_torch_uses_target_threads():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    for threads in (1, 2):
        runner = get_backend("torch").compile(Workload("spy", ((1, 1),), Spy), Target("cpu", "torch", threads=threads))
        runner.run(2)
        assert set(seen) == {threads}
        seen.clear()


def test_failing_torch_module_is_an_error():
    workload = Workload("mismatch", ((1, 3, 8, 8),), lambda: nn.Conv2d(4, 4, 1))
    runner = get_backend("torch").compile(workload, Target("cpu", "torch"))
    for work in (runner.prepare, lambda: runner.run(1), lambda: runner.infer(workload.inputs())):
        with pytest.raises(MeasurementError, match=r"^torch: Given groups=1, weight of size"):
            work()


def test_torch_out_of_memory_is_an_error():
    class Large(nn.Module):
        def forward(self, x):
            return x.new_zeros(2**45)

        def to(self, *_):
            return self.forward(torch.zeros(1))

    with pytest.raises(MeasurementError, match=r"^not enough memory: torch: .*can't allocate memory"):
        get_backend("torch").compile(Workload("large", ((1, 1),), Large), Target("cpu", "torch"))
