"""TensorRT backend without a GPU; runs on a GPU are in tests/gpu."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lgc.device import Device
from lgc.errors import BackendUnavailableError, FileFormatError, MeasurementError
from lgc.lut.target import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.error_translation import OutOfMemoryError
from lgc.profiler.backends.trt import backend as trt
from lgc.profiler.backends.trt.loader import Library


@pytest.fixture
def backend():
    return get_backend("tensorrt")


@pytest.fixture
def rtx(monkeypatch):
    monkeypatch.setattr(trt, "diagnose_pycuda", lambda hint: None)
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__={"SM89": 89}))
    library = Library(module, "TensorRT-RTX", "1.7.1", can_build_without_gpu=True)
    monkeypatch.setattr(trt, "load_tensorrt", lambda: library)


@pytest.fixture
def gpus(monkeypatch):
    """Simulate GPUs of these compute capabilities in torch."""

    def pretend(*capabilities):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU of {capabilities[index]}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])

    return pretend


def test_cpu_is_unsupported(backend):
    assert backend.diagnose(Device("cpu")) == "TensorRT needs a CUDA device"


def test_missing_library_is_reported(backend, monkeypatch):
    def missing():
        raise BackendUnavailableError("TensorRT is not installed")

    monkeypatch.setattr(trt, "load_tensorrt", missing)
    assert backend.diagnose(Device("cuda:0")) == "TensorRT is not installed"


def test_cpu_build_of_torch_is_reported(backend, rtx, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch is a CPU build; install a CUDA build" in backend.diagnose(Device("cuda:0"))


def test_missing_gpu_is_reported(backend, rtx, gpus):
    gpus()
    assert "torch cannot use CUDA: " in backend.diagnose(Device("cuda:0"))


def test_unknown_index_lists_devices(backend, rtx, gpus):
    gpus((8, 9), (8, 9))
    reason = backend.diagnose(Device("cuda:2"))
    assert reason == "there is no cuda:2, only cuda:0, cuda:1"


def test_only_supported_devices_are_available(backend, rtx, gpus):
    gpus((8, 9), (9, 0))
    assert backend.diagnose(Device("cuda:0")) is None
    assert "not this device's 9.0; install full TensorRT" in backend.diagnose(Device("cuda:1"))


def test_missing_pycuda_is_reported(backend, rtx, gpus, monkeypatch):
    gpus((8, 9))
    monkeypatch.setattr(trt, "diagnose_pycuda", lambda hint: f"pycuda is not installed: {hint}")
    assert backend.diagnose(Device("cuda:0")) == 'pycuda is not installed: pip install "lgc[tensorrt]"'


def test_versions_name_flavour_and_torch(backend, rtx):
    versions = backend.versions()
    assert versions["TensorRT-RTX"] == "1.7.1"
    assert versions["torch"] == torch.__version__


def test_engine_file_is_checked_before_device(backend, tmp_path):
    with pytest.raises(FileFormatError, match=r"no such file: .*x\.engine"):
        backend.open(tmp_path / "x.engine", "cpu")


def test_engines_are_cached_in_memory(monkeypatch):
    calls = []

    def build(model, precision, rejection):
        calls.append((model, precision))
        return "engine"

    monkeypatch.setattr(trt, "load_or_build_engine", build)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    trt._load_engine.cache_clear()
    workload = Workload("file", ((1, 3, 8, 8),), None, file=b"model")
    target = Target("cuda:0", "tensorrt", "fp16")
    assert [trt.get_engine(workload, target) for _ in range(2)] == ["engine"] * 2
    assert calls == [(b"model", "fp16")]
    trt._load_engine.cache_clear()


class Loads:
    """Simulated engine cache and runtime; `compile()` compiles a workload with them.

    Attributes:
        cached: True if the engine is in the cache on disk.
        rejections: rejection that each build was given.
        errors: engine -> error of loading it.
        loaded: engines that were loaded, in order.
    """

    def __init__(self):
        self.cached, self.rejections, self.errors, self.loaded = True, [], {}, []

    def engine(self, model, precision, rejection):
        self.rejections.append(rejection)
        if rejection is None:
            return SimpleNamespace(data="cached", cached=self.cached, remarks=())
        return SimpleNamespace(data="built", cached=False, remarks=(rejection,))

    def runner(self, library, engine, device):
        self.loaded.append(engine.data)
        if engine.data in self.errors:
            raise self.errors[engine.data]
        return engine

    def compile(self):
        workload = Workload("file", ((1, 3, 8, 8),), None, file=b"model")
        return get_backend("tensorrt").compile(workload, Target("cuda:0", "tensorrt"))


@pytest.fixture
def loads(monkeypatch, rtx):
    simulated = Loads()
    monkeypatch.setattr(trt.TensorRTBackend, "_require_available", lambda self, device: None)
    monkeypatch.setattr(trt, "load_or_build_engine", simulated.engine)
    monkeypatch.setattr(trt, "EngineRunner", simulated.runner)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    trt._load_engine.cache_clear()
    yield simulated
    trt._load_engine.cache_clear()


def test_cached_engine_is_used(loads):
    assert loads.compile().cached
    assert loads.rejections == [None]


def test_rejected_cached_engine_is_rebuilt_once(loads):
    loads.errors["cached"] = MeasurementError("TensorRT rejects the engine")
    assert loads.compile().remarks == ("TensorRT rejects the engine",)
    assert loads.compile().data == "built"
    assert loads.rejections == [None, "TensorRT rejects the engine"]
    assert loads.loaded == ["cached", "built", "built"]


@pytest.mark.parametrize("cached", [True, False])
def test_rejected_new_engine_is_an_error(loads, cached):
    loads.cached = cached
    loads.errors |= {"cached": MeasurementError("the first"), "built": MeasurementError("the second")}
    with pytest.raises(MeasurementError, match="the second" if cached else "the first"):
        loads.compile()
    assert loads.loaded == (["cached", "built"] if cached else ["cached"])


def test_out_of_memory_keeps_cached_engine(loads):
    loads.errors["cached"] = OutOfMemoryError("not enough GPU memory")
    with pytest.raises(OutOfMemoryError):
        loads.compile()
    assert loads.loaded == ["cached"]


def test_compile_rejects_cpu(backend):
    workload = Workload("conv", ((1, 3, 8, 8),), lambda: nn.Conv2d(3, 3, 1))
    with pytest.raises(BackendUnavailableError, match="backend tensorrt cannot run on cpu: TensorRT needs a CUDA"):
        backend.compile(workload, Target("cpu", "tensorrt"))
