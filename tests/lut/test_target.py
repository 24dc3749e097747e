import pytest

from lgc.errors import UsageError
from lgc.lut import Target


def test_differences_start_with_the_own_value():
    mine = Target("cuda:0", "tensorrt", "fp16", 1)
    assert mine.differences(mine) == []
    assert mine.differences(Target("cpu", "tensorrt", "fp16", 1)) == ["device cuda:0, not cpu"]
    assert mine.differences(Target("cpu", "torch", "fp32", 2)) == [
        "device cuda:0, not cpu",
        "backend tensorrt, not torch",
        "precision fp16, not fp32",
        "threads 1, not 2",
    ]


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "CPU", "cpu:0", "cuda:0 "])
def test_device_is_cpu_or_cuda(device):
    with pytest.raises(UsageError, match="is neither 'cpu' nor 'cuda:N'"):
        Target(device, "torch")


def test_device_names_are_canonical():
    assert Target("cuda", "torch") == Target("cuda:0", "torch")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(threads):
    with pytest.raises(UsageError, match="threads must be at least 1"):
        Target("cpu", "torch", threads=threads)


def test_only_cpu_targets_show_threads():
    assert str(Target("cpu", "onnxruntime")) == "cpu, onnxruntime, fp32, 1 thread"
    assert str(Target("cpu", "torch", threads=2)) == "cpu, torch, fp32, 2 threads"
    assert str(Target("cuda:1", "tensorrt", "fp16")) == "cuda:1, tensorrt, fp16"
