"""When two fingerprints are of equal devices, and that TF32 is asked after, not assumed."""

import copy

import pytest
import torch

from lgc.lut import Target
from lgc.profiler.backends.torch_ import backend as eager
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
    assert compare_fingerprints(H100, H100) == []
    assert compare_fingerprints(H100, changed(*path, value=value)) == []


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
    assert compare_fingerprints(H100, changed(*path, value=value)) == [sentence]


@pytest.mark.parametrize(
    ("settings", "sentences"),
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
def test_settings_count_where_both_know_them(settings, sentences):
    known = H100 | {"settings": {"tf32": "off", "cudnn_conv_algo_search": "HEURISTIC"}}
    assert compare_fingerprints(known, H100 if settings is None else H100 | {"settings": settings}) == sentences


def test_several_differences_are_all_said():
    assert len(compare_fingerprints(H100, {"device_name": "AMD EPYC", "tf32": False, "versions": {}})) == 10


def test_torchs_own_word_on_tf32_is_taken(monkeypatch):
    monkeypatch.setattr(eager, "disable_tf32", lambda: True)
    assert _uses_tf32(Target("cuda:0", "torch")) is True
    assert _uses_tf32(Target("cuda:0", "onnxruntime")) is False
    assert _uses_tf32(Target("cpu", "torch")) is False


@pytest.fixture
def fp32_precision():
    """Torch's switches of TF32 that are set by name; given back at the end."""
    places = (torch.backends, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before, matmul = [place.fp32_precision for place in places], torch.get_float32_matmul_precision()
    yield places
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value
    torch.set_float32_matmul_precision(matmul)


def test_tf32_is_turned_off_and_read_back(fp32_precision):
    for place in fp32_precision:
        place.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("high")
    assert eager.disable_tf32() is False
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    assert [place.fp32_precision for place in (cuda.matmul, cudnn.conv, cudnn.rnn)] == ["ieee"] * 3
    assert torch._C._get_cublas_allow_tf32() is False, "cuBLAS's kernels ask so, and it raises where switches disagree"


def test_tf32_that_stays_on_is_reported(fp32_precision, monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert eager.disable_tf32() is True


def test_the_old_switch_of_tf32_is_left_alone(fp32_precision, monkeypatch):
    def old(*_):
        raise AssertionError("the old switch")

    for name in ("_set_cublas_allow_tf32", "_get_cublas_allow_tf32"):
        monkeypatch.setattr(torch._C, name, old)
    for name in ("getter", "setter"):
        monkeypatch.setattr(type(torch.backends.cudnn).__dict__["allow_tf32"], name, old)
    assert eager.disable_tf32() is False
