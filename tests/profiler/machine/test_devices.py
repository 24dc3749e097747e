import json
import os
from contextlib import suppress

import pytest
import torch

from lgc.device import Device
from lgc.errors import DeviceError
from lgc.lut import Target
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.devices import check_device, default_device, diagnose_cuda, list_devices
from lgc.profiler.machine.environment import fingerprint, pinned


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that torch sees so many GPUs."""

    def pretend(number):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "init", refuse)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {'AB'[index]}")

    return pretend


def refuse(words="Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"):
    raise RuntimeError(words)


def test_there_is_always_a_cpu_with_a_name():
    assert list_devices()["cpu"]
    assert check_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "", "cuda:x", "mps"])
def test_no_such_device_names_the_ones_there_are(device, gpus):
    gpus(2)
    with pytest.raises(DeviceError) as caught:
        check_device(device)
    message = str(caught.value)
    assert f"no device {device!r} on this machine; available: cpu (" in message
    assert "cuda:0 (GPU A), cuda:1 (GPU B)" in message


def test_no_gpu_says_why_and_names_the_cpu(gpus, monkeypatch):
    gpus(0)
    why = r"torch cannot use CUDA: Found no NVIDIA driver on your system; its CUDA 13\.0 needs driver 580 or later"
    with pytest.raises(DeviceError, match=rf"no device 'cuda:0' on this machine \({why}\); available: cpu"):
        check_device("cuda:0")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"\(this torch is a CPU build; install a CUDA build of torch\)"):
        check_device("cuda")


OLD = "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver by downloading"


@pytest.mark.parametrize(("cuda", "driver", "needed"), [("12.8", 11070, "525.60.13"), ("13.0", 12080, "580")])
def test_an_old_driver_names_the_needed_one(gpus, monkeypatch, cuda, driver, needed):
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", lambda: refuse(OLD.format(driver)))
    assert diagnose_cuda(Device("cuda:0")) == (
        f"torch cannot use CUDA: The NVIDIA driver on your system is too old (found version {driver}); "
        f"its CUDA {cuda} needs driver {needed} or later"
    )


@pytest.mark.parametrize("cuda", ["13.0", "14.0"])
def test_a_hidden_gpu_blames_no_driver(gpus, monkeypatch, cuda):
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", lambda: refuse("No CUDA GPUs are available"))
    assert diagnose_cuda(Device("cuda:0")) == "torch cannot use CUDA: No CUDA GPUs are available"


def test_cuda_is_not_initialised_to_look(gpus):
    gpus(1)  # whose `init` raises
    assert diagnose_cuda(Device("cuda:0")) is None


def test_cuda_is_the_first_gpu(gpus):
    gpus(2)
    assert check_device("cuda") == "cuda:0"
    assert check_device("cuda:1") == "cuda:1"
    assert diagnose_cuda(Device("cuda:1")) is None
    assert diagnose_cuda(Device("cuda:2")) == "there is no cuda:2, only cuda:0, cuda:1"


NO_DRIVER = "torch cannot use CUDA: Found no NVIDIA driver on your system; its CUDA 13.0 needs driver 580 or later"


@pytest.mark.parametrize(
    ("number", "tables", "device", "reason"),
    [
        (0, ["cpu"], "cpu", None),
        (2, ["cpu"], "cpu", None),
        (1, ["cuda:0"], "cuda:0", None),
        (2, ["cuda:3", "cpu", "cuda:1"], "cuda:1", None),
        (2, ["cuda:1", "cuda:0"], "cuda:1", None),
        (0, ["cuda:0"], "cpu", f"the table's device cuda:0 is not present ({NO_DRIVER})"),
        (1, ["cpu", "cuda:1"], "cpu", "the table's device cuda:1 is not present (there is no cuda:1, only cuda:0)"),
        (0, [], "cpu", None),
        (1, [], "cpu", "the device of its latency table is unknown"),
    ],
)
def test_default_device_is_the_tables_gpu(gpus, number, tables, device, reason):
    gpus(number)
    assert default_device([Device(name) for name in tables]) == (device, reason)


def test_the_fingerprint_says_what_a_latency_depends_on():
    found = fingerprint(Target("cpu", "torch"), get_backend("torch"))
    assert found["device_name"] == list_devices()["cpu"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["cpu"]["cores"] == os.cpu_count()
    assert found["settings"] == get_backend("torch").settings(Target("cpu", "torch"))
    assert {"lgc", "python", "system", "tf32"} <= set(found)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
def test_pinning_ends_with_its_block_even_by_an_error():
    before = os.sched_getaffinity(0)
    inside = []
    with suppress(ZeroDivisionError), pinned(Target("cpu", "torch")) as cores:
        inside = [os.sched_getaffinity(0), set(cores)]
        raise ZeroDivisionError
    assert inside == [{max(before)}] * 2
    assert os.sched_getaffinity(0) == before
    with pinned(Target("cuda:0", "torch")) as cores:
        assert cores == []
        assert os.sched_getaffinity(0) == before
