"""Options and models that ONNX Runtime's providers get; runs on a GPU are in tests/gpu."""

import mmap
import os
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from torch import nn

from lgc.device import Device
from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.ort import backend as ort
from lgc.profiler.backends.ort import loader as ort_loader
from lgc.profiler.backends.ort import runner as ort_runner
from lgc.profiler.backends.ort.loader import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER

WORKLOAD = Workload("net", ((1, 4, 8, 8),), lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
HALF = onnx.TensorProto.FLOAT16


class OpenedError(Exception):
    """Error that stops a runner at its session and carries the session's arguments."""


@pytest.fixture
def opened(monkeypatch):
    """Return the arguments of a session: `opened(backend, device, precision)` gives model, provider and settings."""

    def stop(name, model, provider, settings, threads, profile):
        raise OpenedError(onnx.load_from_string(model), provider, settings)

    monkeypatch.setattr(ort_runner, "open_session", stop)
    monkeypatch.setattr(ort, "load_tensorrt_library", lambda: None)

    def ask(backend, device, precision="fp32"):
        with pytest.raises(OpenedError) as caught:
            get_backend(backend).compile(WORKLOAD, Target(device, backend, precision))
        return caught.value.args

    return ask


def half_weights(model):
    return [tensor.data_type == HALF for tensor in model.graph.initializer]


def test_cpu_provider_has_no_settings(opened):
    model, provider, settings = opened("onnxruntime", "cpu")
    assert (provider, settings) == (CPU_PROVIDER, {})
    assert not any(half_weights(model))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_provider_captures_graph_without_tf32(opened, precision):
    model, provider, settings = opened("onnxruntime", "cuda:1", precision)
    assert provider == CUDA_PROVIDER
    assert settings == {
        "device_id": "1",
        "use_tf32": "1" if precision == "fp16" else "0",  # without TF32, float16 gets no tensor cores
        "enable_cuda_graph": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "0",
    }
    assert all(half_weights(model)) == (precision == "fp16")
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_provider_gets_float32_model_and_option(opened, monkeypatch, precision):
    model, provider, settings = opened("onnxruntime-tensorrt", "cuda:0", precision)
    assert provider == TENSORRT_PROVIDER
    assert not any(half_weights(model))
    assert settings.pop("trt_timing_cache_path")
    assert settings == {
        "device_id": "0",
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_cuda_graph_enable": "True",
        "trt_timing_cache_enable": "True",
    }


def test_settings_name_cudnn_options(opened):
    options = opened("onnxruntime", "cuda:0")[2]
    settings = get_backend("onnxruntime").settings(Target("cuda:0", "onnxruntime"))
    for name in ("cudnn_conv_algo_search", "prefer_nhwc"):
        assert settings[name] == options[name]
        assert name not in get_backend("onnxruntime-tensorrt").settings(Target("cuda:0", "onnxruntime-tensorrt"))


def test_provider_library_knows_options(opened):
    library = ort_loader._get_provider_library(CUDA_PROVIDER)
    if not library.exists():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    options = opened("onnxruntime", "cuda:0")[2]
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for word in [*options, options["cudnn_conv_algo_search"]]:
            assert content.find(b"\0" + word.encode() + b"\0") >= 0, word


def test_tf32_is_off_before_tensorrt_loads(gpu, monkeypatch):
    loaded = []

    def note(name):
        loaded.append((name, os.environ["NVIDIA_TF32_OVERRIDE"]))
        return SimpleNamespace(getInferLibVersion=lambda: 101302)

    def stop(*_):
        loaded.append(("session", os.environ["NVIDIA_TF32_OVERRIDE"]))
        raise OpenedError

    monkeypatch.setattr(ort_loader, "import_module", note)
    monkeypatch.setattr(ort_loader.ctypes, "CDLL", note)
    monkeypatch.setattr(ort_runner, "open_session", stop)
    backend = get_backend("onnxruntime-tensorrt")
    once = [("tensorrt", "0"), ("libnvinfer.so.10", "0")]
    for ask in (lambda: backend.diagnose(Device("cuda:0")), backend.versions):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
        ask()
        assert loaded == once
        loaded.clear()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(OpenedError):
        backend.compile(WORKLOAD, Target("cuda:0", "onnxruntime-tensorrt"))
    assert loaded == [*once, ("session", "0")]


def test_builds_share_timing_folder(opened):
    folders = {opened("onnxruntime-tensorrt", "cuda:0")[2]["trt_timing_cache_path"] for _ in range(2)}
    assert len(folders) == 1
    assert Path(*folders).is_dir()


def test_precisions_depend_on_the_device():
    backend = get_backend("onnxruntime")
    assert backend.precisions(Device("cpu")) == ("fp32", "int8")
    assert backend.precisions(Device("cuda:0")) == ("fp32", "fp16", "int8")
    assert get_backend("onnxruntime-tensorrt").precisions(Device("cuda:0")) == ("fp32", "fp16")


def test_tensorrt_does_not_run_on_cpu():
    assert get_backend("onnxruntime-tensorrt").diagnose(Device("cpu")) == "TensorRT needs a CUDA device"
