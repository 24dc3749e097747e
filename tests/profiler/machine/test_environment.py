"""Comparison of fingerprints, and TF32 in them."""

import copy

import pytest

from lgc import precisions
from lgc.lut import Target
from lgc.profiler.machine.environment import _uses_tf32, compare_fingerprints

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


def change(*path, value):
    """Return the fingerprint `H100` with another value under the nested keys `path`."""
    fingerprint = copy.deepcopy(H100)
    entry = fingerprint
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return fingerprint


@pytest.mark.parametrize(
    ("path", "value"),
    [(("gpu", "uuid"), "GPU-2"), (("gpu", "temperature_c"), 40), (("gpu", "sm_clock_mhz"), 345), (("python",), "3.12")],
)
def test_identity_and_state_are_ignored(path, value):
    assert compare_fingerprints(H100, H100) == []
    assert compare_fingerprints(H100, change(*path, value=value)) == []


@pytest.mark.parametrize(
    ("path", "value", "difference"),
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
def test_difference_in_speed_is_reported(path, value, difference):
    assert compare_fingerprints(H100, change(*path, value=value)) == [difference]


@pytest.mark.parametrize(
    ("settings", "differences"),
    [
        ({"tf32": "off", "cudnn_conv_algo_search": "HEURISTIC"}, []),
        (
            {"tf32": "off", "cudnn_conv_algo_search": "EXHAUSTIVE"},
            ["cudnn_conv_algo_search HEURISTIC, not EXHAUSTIVE"],
        ),
        ({"tf32": "off"}, ["cudnn_conv_algo_search HEURISTIC, not unknown"]),
        (None, []),
    ],
)
def test_settings_count_if_both_have_them(settings, differences):
    full = H100 | {"settings": {"tf32": "off", "cudnn_conv_algo_search": "HEURISTIC"}}
    assert compare_fingerprints(full, H100 if settings is None else H100 | {"settings": settings}) == differences


def test_all_differences_are_reported():
    assert len(compare_fingerprints(H100, {"device_name": "AMD EPYC", "tf32": False, "versions": {}})) == 10


def test_tf32_is_what_torch_reports(monkeypatch):
    monkeypatch.setattr(precisions, "disable_tf32", lambda: True)
    assert _uses_tf32(Target("cuda:0", "torch")) is True
    assert _uses_tf32(Target("cuda:0", "onnxruntime")) is False
    assert _uses_tf32(Target("cpu", "torch")) is False
