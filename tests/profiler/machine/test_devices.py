"""Devices, CUDA diagnosis, the default device, the fingerprint on a CPU, and pinning."""

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
    """Return a function that makes torch see the given number of GPUs."""

    def simulate(number):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "init", raise_no_driver)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {'AB'[index]}")

    return simulate


def raise_no_driver(message="Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"):
    raise RuntimeError(message)


def test_cpu_is_always_available():
    assert list_devices()["cpu"]
    assert check_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "", "cuda:x", "mps"])
def test_unknown_device_lists_available_devices(device, gpus):
    gpus(2)
    with pytest.raises(DeviceError) as caught:
        check_device(device)
    message = str(caught.value)
    assert f"no device {device!r} on this machine; available: cpu (" in message
    assert "cuda:0 (GPU A), cuda:1 (GPU B)" in message


def test_missing_gpu_gives_reason(gpus, monkeypatch):
    gpus(0)
    reason = r"torch cannot use CUDA: Found no NVIDIA driver on your system; its CUDA 13\.0 needs driver 580 or later"
    with pytest.raises(DeviceError, match=rf"no device 'cuda:0' on this machine \({reason}\); available: cpu"):
        check_device("cuda:0")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"\(this torch is a CPU build; install a CUDA build of torch\)"):
        check_device("cuda")


OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver by downloading"
)


@pytest.mark.parametrize(("cuda", "driver", "required"), [("12.8", 11070, "525.60.13"), ("13.0", 12080, "580")])
def test_old_driver_message_gives_required_version(gpus, monkeypatch, cuda, driver, required):
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", lambda: raise_no_driver(OLD_DRIVER.format(driver)))
    assert diagnose_cuda(Device("cuda:0")) == (
        f"torch cannot use CUDA: The NVIDIA driver on your system is too old (found version {driver}); "
        f"its CUDA {cuda} needs driver {required} or later"
    )


@pytest.mark.parametrize("cuda", ["13.0", "14.0"])
def test_hidden_gpu_is_not_a_driver_problem(gpus, monkeypatch, cuda):
    gpus(0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", lambda: raise_no_driver("No CUDA GPUs are available"))
    assert diagnose_cuda(Device("cuda:0")) == "torch cannot use CUDA: No CUDA GPUs are available"


def test_visible_gpu_does_not_initialize_cuda(gpus):
    gpus(1)  # `init` raises
    assert diagnose_cuda(Device("cuda:0")) is None


def test_cuda_means_first_gpu(gpus):
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
        (2, ["cpu"], "cpu", "its latency table is of a CPU"),
        (1, ["cuda:0"], "cuda:0", None),
        (2, ["cuda:3", "cpu", "cuda:1"], "cuda:1", None),
        (2, ["cuda:1", "cuda:0"], "cuda:1", None),
        (0, ["cuda:0"], "cpu", f"the table's device cuda:0 is not present ({NO_DRIVER})"),
        (1, ["cpu", "cuda:1"], "cpu", "the table's device cuda:1 is not present (there is no cuda:1, only cuda:0)"),
        (0, [], "cpu", None),
        (1, [], "cpu", "the device of its latency table is unknown"),
    ],
)
def test_default_device_is_gpu_of_table(gpus, number, tables, device, reason):
    gpus(number)
    assert default_device([Device(name) for name in tables]) == (device, reason)


def test_fingerprint_describes_cpu_and_backend():
    environment = fingerprint(Target("cpu", "torch"), get_backend("torch"))
    assert environment["device_name"] == list_devices()["cpu"]
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["cpu"]["cores"] == os.cpu_count()
    assert environment["settings"] == get_backend("torch").settings(Target("cpu", "torch"))
    assert {"lgc", "python", "system", "tf32"} <= set(environment)
    assert json.loads(json.dumps(environment)) == environment


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_affinity_is_restored_after_an_error():
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
