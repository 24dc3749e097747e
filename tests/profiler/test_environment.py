"""When two fingerprints are of equal devices, and that TF32 is asked after, not assumed."""

import copy

import pytest
import torch

from lgc.lut import Target
from lgc.profiler.backends import eager
from lgc.profiler.environment import _tf32, same_device

H100 = {
    "device_name": "NVIDIA H100 80GB HBM3",
    "tf32": False,
    "python": "3.11.7",
    "versions": {"torch": "2.13.0", "cuda": "13.0"},
    "gpu": {
        "uuid": "GPU-1",
        "driver": "580.65.06",
        "sm_clock_mhz": 1410,
        "max_sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "max_memory_clock_mhz": 2619,
        "power_limit_w": 700.0,
        "temperature_c": 61,
        "memory_mib": 81559,
        "persistence": True,
        "ecc": True,
        "mig": False,
    },
}


def changed(*path, value):
    found = copy.deepcopy(H100)
    entry = found
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [(("gpu", "uuid"), "GPU-2"), (("gpu", "temperature_c"), 40), (("gpu", "sm_clock_mhz"), 345), (("python",), "3.12")],
)
def test_what_a_device_has_of_its_own_does_not_count(path, value):
    assert same_device(H100, H100) == []
    assert same_device(H100, changed(*path, value=value)) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("device_name",), "NVIDIA H200", "device NVIDIA H100 80GB HBM3, not NVIDIA H200"),
        (("tf32",), True, "TF32 off, not on"),
        (("gpu", "driver"), "570.1", "driver 580.65.06, not 570.1"),
        (("gpu", "max_sm_clock_mhz"), 1755, "highest SM clock 1980 MHz, not 1755 MHz"),
        (("gpu", "max_memory_clock_mhz"), None, "highest memory clock 2619 MHz, not unknown"),
        (("gpu", "power_limit_w"), 350.0, "power limit 700.0 W, not 350.0 W"),
        (("gpu", "memory_mib"), 40960, "memory 81559 MiB, not 40960 MiB"),
        (("gpu", "mig"), True, "MIG off, not on"),
        (("gpu", "ecc"), False, "ECC on, not off"),
        (("versions", "torch"), "2.12.0", "torch 2.13.0, not 2.12.0"),
        (("versions", "cudnn"), "91002", "cudnn unknown, not 91002"),
    ],
)
def test_what_decides_the_speed_is_said_in_words(path, value, sentence):
    assert same_device(H100, changed(*path, value=value)) == [sentence]


def test_several_differences_are_all_said():
    assert len(same_device(H100, {"device_name": "AMD EPYC", "tf32": False, "versions": {}})) == 10


def test_torchs_own_word_on_tf32_is_taken(monkeypatch):
    monkeypatch.setattr(eager, "forbid_tf32", lambda: True)
    assert _tf32(Target("cuda:0", "torch")) is True
    assert _tf32(Target("cuda:0", "onnxruntime")) is False
    assert _tf32(Target("cpu", "torch")) is False


def test_tf32_is_turned_off_and_read_back():
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = True
        assert eager.forbid_tf32() is False
        assert [place.allow_tf32 for place in places] == [False, False]
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
