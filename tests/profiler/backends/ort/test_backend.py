"""ONNX Runtime's providers: what they are asked for, and what is said where one is missing. GPUs: see tests/gpu."""

import mmap
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lgc.device import Device
from lgc.errors import BackendUnavailableError, MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.error_translation import ShortMemoryError
from lgc.profiler.backends.ort import backend as ort
from lgc.profiler.backends.ort import session as ort_session
from lgc.profiler.backends.ort.session import CPU, CUDA, TENSORRT, open_session

WORKLOAD = Workload("net", ((1, 4, 8, 8),), lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
HALF = onnx.TensorProto.FLOAT16


class OpenedError(Exception):
    """Stops a runner at its session and carries what the session was to be."""


@pytest.fixture
def opened(monkeypatch):
    """What a session is asked to be: `opened(backend, device, precision)` gives model, provider and settings."""

    def stop(name, model, provider, settings, threads):
        raise OpenedError(onnx.load_from_string(model), provider, settings)

    monkeypatch.setattr(ort, "open_session", stop)
    monkeypatch.setattr(ort, "load_tensorrt_library", lambda: None)

    def ask(backend, device, precision="fp32"):
        with pytest.raises(OpenedError) as caught:
            get_backend(backend).compile(WORKLOAD, Target(device, backend, precision))
        return caught.value.args

    return ask


def half_weights(model):
    return [tensor.data_type == HALF for tensor in model.graph.initializer]


def test_the_cpu_provider_has_no_settings(opened):
    model, provider, settings = opened("onnxruntime", "cpu")
    assert (provider, settings) == (CPU, {})
    assert not any(half_weights(model))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_cuda_provider_captures_a_graph_without_tf32(opened, precision):
    model, provider, settings = opened("onnxruntime", "cuda:1", precision)
    assert provider == CUDA
    assert settings == {
        "device_id": "1",
        "use_tf32": "1" if precision == "fp16" else "0",  # off, it would forbid float16 its tensor cores
        "enable_cuda_graph": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "0",
    }
    assert all(half_weights(model)) == (precision == "fp16")
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_tensorrt_provider_gets_the_float32_model_and_a_switch(opened, monkeypatch, precision):
    model, provider, settings = opened("onnxruntime-tensorrt", "cuda:0", precision)
    assert provider == TENSORRT
    assert not any(half_weights(model))
    assert settings.pop("trt_timing_cache_path")
    assert settings == {
        "device_id": "0",
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_cuda_graph_enable": "True",
        "trt_timing_cache_enable": "True",
    }


def test_settings_tell_how_cudnn_chooses(opened):
    options = opened("onnxruntime", "cuda:0")[2]
    told = get_backend("onnxruntime").settings(Target("cuda:0", "onnxruntime"))
    for name in ("cudnn_conv_algo_search", "prefer_nhwc"):
        assert told[name] == options[name]
        assert name not in get_backend("onnxruntime-tensorrt").settings(Target("cuda:0", "onnxruntime-tensorrt"))


def test_the_provider_knows_its_options(opened):
    library = ort_session._library(CUDA)
    if not library.exists():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    options = opened("onnxruntime", "cuda:0")[2]
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for word in [*options, options["cudnn_conv_algo_search"]]:
            assert content.find(b"\0" + word.encode() + b"\0") >= 0, word


def test_tf32_is_off_before_anything_of_tensorrt_is_loaded(gpu, monkeypatch):
    loaded = []

    def note(name):
        loaded.append((name, os.environ["NVIDIA_TF32_OVERRIDE"]))
        return SimpleNamespace(getInferLibVersion=lambda: 101302)

    def stop(*_):
        loaded.append(("session", os.environ["NVIDIA_TF32_OVERRIDE"]))
        raise OpenedError

    monkeypatch.setattr(ort_session, "import_module", note)
    monkeypatch.setattr(ort_session.ctypes, "CDLL", note)
    monkeypatch.setattr(ort, "open_session", stop)
    backend = get_backend("onnxruntime-tensorrt")
    once = [("tensorrt", "0"), ("libnvinfer.so.10", "0")]
    for ask in (lambda: backend.unavailable(Device("cuda:0")), backend.versions):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
        ask()
        assert loaded == once
        loaded.clear()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(OpenedError):
        backend.compile(WORKLOAD, Target("cuda:0", "onnxruntime-tensorrt"))
    assert loaded == [*once, ("session", "0")]


def test_builds_share_a_folder_of_timings(opened):
    folders = {opened("onnxruntime-tensorrt", "cuda:0")[2]["trt_timing_cache_path"] for _ in range(2)}
    assert len(folders) == 1
    assert Path(*folders).is_dir()


def test_precisions_depend_on_the_device():
    backend = get_backend("onnxruntime")
    assert backend.precisions(Device("cpu")) == ("fp32", "int8")
    assert backend.precisions(Device("cuda:0")) == ("fp32", "fp16", "int8")
    assert get_backend("onnxruntime-tensorrt").precisions(Device("cuda:0")) == ("fp32", "fp16")


def test_tensorrt_is_not_for_the_cpu():
    assert get_backend("onnxruntime-tensorrt").unavailable(Device("cpu")) == "TensorRT needs a CUDA device"


@pytest.fixture
def gpu(monkeypatch):
    """Pretends a GPU, and an ONNX Runtime with its three providers."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort_session, "cuda_missing", lambda device: None)
    monkeypatch.setattr(ort_session, "_wanted_tensorrt", lambda: 10)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")  # given back at the end
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("onnxruntime.__version__", "1.31.1")
    monkeypatch.setattr("onnxruntime.cuda_version", "13.0")
    ort_session.load_failure.cache_clear()
    yield
    ort_session.load_failure.cache_clear()


@pytest.fixture
def sessions(gpu, monkeypatch):
    """Sessions that are opened, as `Sessions` describes them."""
    made = Sessions()
    monkeypatch.setattr(ort_session, "_session", made.open)
    monkeypatch.setattr("onnxruntime.preload_dlls", made.preload)
    monkeypatch.setattr(ort_session.ctypes, "CDLL", cannot_open)
    return made


class Sessions:
    """Stands in for ONNX Runtime's sessions.

    Attributes:
        works: whether the provider's libraries are in the process.
        preloaded: whether they are once they are preloaded.
        error: what running raises.
        opened: providers of the sessions opened, with their options.
    """

    def __init__(self):
        self.works, self.preloaded, self.error, self.opened = True, False, None, []

    def open(self, model, provider, settings, options):
        self.opened.append((provider, settings))
        found = [provider, CPU] if self.works else [CPU]
        return SimpleNamespace(get_providers=lambda: found, run=self.run)

    def run(self, outputs, inputs):
        if self.error is not None:
            raise self.error

    def preload(self):
        print("Failed to load libcublasLt.so.13")
        self.works = self.preloaded


def test_a_provider_that_loads_is_tried_once(sessions):
    for _ in range(2):
        assert get_backend("onnxruntime").unavailable(Device("cuda:1")) is None
    assert sessions.opened == [(CUDA, {"device_id": "1"})]


def test_libraries_of_the_wheels_are_loaded_too(sessions, capsys):
    sessions.works, sessions.preloaded = False, True
    assert get_backend("onnxruntime").unavailable(Device("cuda:0")) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cuda", ["13.0", "12.8"])
def test_a_provider_that_does_not_load_says_why(sessions, monkeypatch, capsys, cuda):
    sessions.works = False
    monkeypatch.setattr(torch.version, "cuda", cuda)
    reason = get_backend("onnxruntime").unavailable(Device("cuda:0"))
    assert reason.startswith(
        "ONNX Runtime 1.31.1 cannot load its CUDAExecutionProvider "
        "(libonnxruntime_providers_cuda.so: cannot open shared object file): "
    )
    assert reason.endswith('pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"')
    assert ("it is built for CUDA 13.0, the torch installed for CUDA 12.8; install a torch for CUDA 13" in reason) == (
        cuda == "12.8"
    )
    assert capsys.readouterr().out == ""


def test_a_missing_cudnn_shows_in_the_first_convolution(sessions, monkeypatch):
    sessions.error = RuntimeError("cuDNN is not available")
    sessions.preloaded = True
    monkeypatch.setattr(ort_session.ctypes, "CDLL", lambda name: None)
    assert "cannot load its CUDAExecutionProvider (ONNX Runtime: cuDNN is not available): install" in get_backend(
        "onnxruntime"
    ).unavailable(Device("cuda:0"))


def test_short_memory_is_no_missing_library(sessions):
    sessions.error = RuntimeError("CUDA failure 2: out of memory")
    assert get_backend("onnxruntime").unavailable(Device("cuda:0")) is None


def test_what_replays_recycled_memory_is_refused(sessions, monkeypatch):
    monkeypatch.setattr("onnxruntime.__version__", "1.30.2")
    reason = get_backend("onnxruntime").unavailable(Device("cuda:0"))
    assert reason.startswith("ONNX Runtime 1.30.2 is too old, replays of its CUDA graphs may read recycled memory: ")
    assert reason.endswith('pip install --upgrade "onnxruntime-gpu>=1.31"')
    assert get_backend("onnxruntime").unavailable(Device("cpu")) is None
    assert sessions.opened == []


def cannot_open(name):
    raise OSError(f"{Path(name).name}: cannot open shared object file")


def test_a_missing_tensorrt_names_the_command_for_the_version_that_is_wanted(gpu, monkeypatch):
    monkeypatch.setattr(ort_session.ctypes, "CDLL", cannot_open)
    reason = get_backend("onnxruntime-tensorrt").unavailable(Device("cuda:0"))
    assert reason.startswith("this ONNX Runtime needs TensorRT 10, which does not load (libnvinfer.so.10: cannot open")
    assert reason.endswith('pip install "tensorrt-cu13>=10,<11"')


def test_another_tensorrt_than_the_wanted_is_named(gpu, monkeypatch):
    monkeypatch.setattr(ort_session.ctypes, "CDLL", cannot_open)
    monkeypatch.setattr(ort_session, "import_module", lambda name: SimpleNamespace(__version__="11.4.0.5"))
    assert get_backend("onnxruntime-tensorrt").unavailable(Device("cuda:0")) == (
        "this ONNX Runtime needs TensorRT 10, installed is 11.4.0.5: take --backend tensorrt, "
        'or pip install "tensorrt-cu13>=10,<11"'
    )


def test_with_the_library_tensorrt_is_available_and_has_its_version(gpu, monkeypatch):
    library = SimpleNamespace(getInferLibVersion=lambda: 101302)
    monkeypatch.setattr(ort_session.ctypes, "CDLL", lambda name: library)
    backend = get_backend("onnxruntime-tensorrt")
    assert backend.unavailable(Device("cuda:0")) is None
    assert backend.versions()["TensorRT"] == "10.13.2"


def test_the_wanted_tensorrt_is_read_from_the_provider(monkeypatch, tmp_path):
    (tmp_path / "capi").mkdir()
    library = tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so"
    monkeypatch.setattr("onnxruntime.__file__", str(tmp_path / "__init__.py"))
    library.write_bytes(b"\x7fELF\0libcublas.so.13\0libnvinfer.so.11\0libnvonnxparser.so.11\0")
    ort_session._wanted_tensorrt.cache_clear()
    assert ort_session._wanted_tensorrt() == 11
    library.write_bytes(b"\x7fELF")
    ort_session._wanted_tensorrt.cache_clear()
    with pytest.raises(BackendUnavailableError, match="linked to no TensorRT; reinstall onnxruntime-gpu"):
        ort_session._wanted_tensorrt()
    ort_session._wanted_tensorrt.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: see tests/gpu")
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_provider_without_its_libraries_is_no_fault_of_the_model_and_never_the_cpu(provider, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {provider}")
    with pytest.raises(BackendUnavailableError, match=rf"cannot load its {provider} \(libcublas.*: cannot open shared"):
        open_session("net", WORKLOAD.onnx, provider, {"device_id": "0"}, 1)
    assert capfd.readouterr().out == ""


def test_a_model_that_is_refused_is_a_measurement_error_in_its_name():
    with pytest.raises(MeasurementError, match="ONNX Runtime refuses net: "):
        open_session("net", b"no graph", CPU, {}, 1)


def test_inputs_stay_in_place_and_outputs_are_copies():
    runner = get_backend("onnxruntime").compile(WORKLOAD, Target("cpu", "onnxruntime"))
    places = [value.data_ptr() for value in (*runner._inputs, *runner._outputs)]
    (first,) = runner.infer([np.ones((1, 4, 8, 8), np.float32)])
    kept = first.copy()
    runner.infer([np.full((1, 4, 8, 8), -3, np.float32)])
    assert np.array_equal(first, kept)
    assert [value.data_ptr() for value in (*runner._inputs, *runner._outputs)] == places
    runner.prepare()
    assert runner._inputs[0].numpy().std() > 0.1


LARGE = 2**20


def expanding():
    """A model that makes a tensor of 4 TiB of its one input."""
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1]), ("y", []))
    )
    nodes = [
        onnx.helper.make_node("Expand", ["x", "shape"], ["large"], "/large/Expand"),
        onnx.helper.make_node("ReduceSum", ["large"], ["y"], "sum", keepdims=0),
    ]
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [LARGE, LARGE])
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], [shape])
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_too_little_memory_for_what_is_between():
    workload = Workload("large", ((1,),), None, file=expanding())
    runner = get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
    for work in (runner.prepare, lambda: runner.run(1), lambda: runner.infer(workload.inputs())):
        with pytest.raises(ShortMemoryError, match=r"^too little memory: ONNX Runtime: .*/large/Expand") as caught:
            work()
        assert "\n" not in str(caught.value)


def test_too_little_memory_for_an_output(monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr("onnxruntime.OrtValue.ortvalue_from_shape_and_type", full)
    with pytest.raises(ShortMemoryError, match=r"^too little memory: ONNX Runtime: CUDA failure 2: out of memory"):
        get_backend("onnxruntime").compile(WORKLOAD, Target("cpu", "onnxruntime"))


def test_too_little_memory_for_a_session_is_no_missing_library(monkeypatch):
    def full(*_):
        raise RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(ort_session, "_session", full)
    with pytest.raises(ShortMemoryError, match=r"^too little GPU memory: ONNX Runtime refuses net: CUBLAS failure 3"):
        open_session("net", WORKLOAD.onnx, CUDA, {"device_id": "0"}, 1)


def test_a_bug_of_ours_is_not_taken_for_the_models_fault(monkeypatch):
    def bug(*_):
        raise TypeError("ours")

    monkeypatch.setattr(ort_session, "_session", bug)
    with pytest.raises(TypeError, match="ours"):
        open_session("net", WORKLOAD.onnx, CPU, {}, 1)


def test_inputs_of_the_wrong_size_are_a_measurement_error():
    runner = get_backend("onnxruntime").compile(WORKLOAD, Target("cpu", "onnxruntime"))
    with pytest.raises(MeasurementError, match=r"^ONNX Runtime: The input size of numpy arrays does not match"):
        runner.infer([np.zeros((1, 4, 8, 9), np.float32)])


def test_layers_that_fail_are_a_measurement_error():
    workload = Workload("large", ((1,),), None, file=expanding())
    runner = get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
    with pytest.raises(ShortMemoryError, match=r"^too little memory: ONNX Runtime: "):
        runner.layer_times(1)
