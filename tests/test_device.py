"""Devices as values."""

import pickle

import pytest
import torch

from lgc.device import CPU, Device
from lgc.errors import UsageError


@pytest.mark.parametrize(
    ("name", "canonical", "host", "kind", "ordinal"),
    [
        ("cpu", "cpu", None, "cpu", 0),
        ("cuda", "cuda:0", None, "cuda", 0),
        ("cuda:12", "cuda:12", None, "cuda", 12),
        ("cuda:01", "cuda:1", None, "cuda", 1),
        ("ssh://user@board:22/cuda:1", "ssh://user@board:22/cuda:1", "ssh://user@board:22", "cuda", 1),
        ("ssh://board/cpu", "ssh://board/cpu", "ssh://board", "cpu", 0),
    ],
)
def test_names_become_canonical_values(name, canonical, host, kind, ordinal):
    device = Device(name)
    assert (str(device), device.host, device.kind, device.ordinal) == (canonical, host, kind, ordinal)
    assert device.is_cpu == (kind == "cpu")
    assert Device(device) == device


@pytest.mark.parametrize(
    "name", ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "CUDA:0", "ssh:///cpu", "board/cpu"]
)
def test_malformed_names_are_refused(name):
    with pytest.raises(UsageError, match="neither 'cpu' nor 'cuda:N'"):
        Device(name)


def test_threads_count_on_a_cpu_only():
    assert (CPU.num_threads(4), Device("cuda").num_threads(4)) == (4, 1)


def test_other_hosts_are_other_devices():
    assert Device("ssh://board/cpu") != CPU


def test_torch_and_pickle_take_devices():
    assert torch.device(Device("cuda")) == torch.device("cuda", 0)
    copy = pickle.loads(pickle.dumps(Device("cuda:3")))
    assert (type(copy), copy.ordinal) == (Device, 3)
