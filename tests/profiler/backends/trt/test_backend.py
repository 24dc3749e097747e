"""The TensorRT backend's answers; what needs a GPU is in tests/gpu."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lgc.device import Device
from lgc.errors import BackendUnavailableError, FileFormatError, MeasurementError
from lgc.lut.target import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.error_translation import ShortMemoryError
from lgc.profiler.backends.trt import backend as trt
from lgc.profiler.backends.trt.loader import Library


@pytest.fixture
def backend():
    return get_backend("tensorrt")


@pytest.fixture
def rtx(monkeypatch):
    monkeypatch.setattr(trt, "pycuda_missing", lambda: None)
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__={"SM89": 89}))
    library = Library(module, "TensorRT-RTX", "1.7.1", can_build_without_gpu=True)
    monkeypatch.setattr(trt, "load_tensorrt", lambda: library)


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that torch sees GPUs of these compute capabilities."""

    def pretend(*capabilities):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU of {capabilities[index]}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])

    return pretend


def test_cpu_is_no_device(backend):
    assert backend.unavailable(Device("cpu")) == "TensorRT needs a CUDA device"


def test_library_is_missing(backend, monkeypatch):
    def missing():
        raise BackendUnavailableError("TensorRT is not installed")

    monkeypatch.setattr(trt, "load_tensorrt", missing)
    assert backend.unavailable(Device("cuda:0")) == "TensorRT is not installed"


def test_torch_for_the_cpu(backend, rtx, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch is a CPU build; install a CUDA build" in backend.unavailable(Device("cuda:0"))


def test_no_gpu(backend, rtx, gpus):
    gpus()
    assert "torch cannot use CUDA: " in backend.unavailable(Device("cuda:0"))


def test_no_such_index_names_those_there(backend, rtx, gpus):
    gpus((8, 9), (8, 9))
    reason = backend.unavailable(Device("cuda:2"))
    assert reason == "there is no cuda:2, only cuda:0, cuda:1"


def test_available_only_on_devices_that_the_library_serves(backend, rtx, gpus):
    gpus((8, 9), (9, 0))
    assert backend.unavailable(Device("cuda:0")) is None
    assert "not this device's 9.0; install full TensorRT" in backend.unavailable(Device("cuda:1"))


def test_pycuda_is_missing(backend, rtx, gpus, monkeypatch):
    gpus((8, 9))
    monkeypatch.setattr(trt, "pycuda_missing", lambda: "pycuda is not installed: mend")
    assert backend.unavailable(Device("cuda:0")) == "pycuda is not installed: mend"


def test_versions(backend, rtx):
    versions = backend.versions()
    assert versions["TensorRT-RTX"] == "1.7.1"
    assert versions["torch"] == torch.__version__


def test_an_engine_is_read_before_the_device_is_looked_at(backend, tmp_path):
    with pytest.raises(FileFormatError, match="is no engine but nothing: there is no such file"):
        backend.open(tmp_path / "x.engine", "cpu")


def test_engines_of_a_workload_are_kept_in_memory_and_on_the_disk(monkeypatch):
    calls = []

    def build(model, precision, refused):
        calls.append((model, precision))
        return "engine"

    monkeypatch.setattr(trt, "cached_engine", build)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    trt._engine.cache_clear()
    workload = Workload("file", ((1, 3, 8, 8),), None, file=b"model")
    target = Target("cuda:0", "tensorrt", "fp16")
    assert [trt.engine_for(workload, target) for _ in range(2)] == ["engine"] * 2
    assert calls == [(b"model", "fp16")]
    trt._engine.cache_clear()


class Loads:
    """Stands for engines and runners: `loads.compile()` is a compilation, `works` says by engine what the runtime does.

    Attributes:
        kept: whether the engine is on the disk.
        refused: what the builds were told of engines that did not load.
        works: engine -> the error of loading it, if there is one.
    """

    def __init__(self):
        self.kept, self.refused, self.works, self.loaded = True, [], {}, []

    def engine(self, model, precision, refused):
        self.refused.append(refused)
        if refused is None:
            return SimpleNamespace(data="kept", cached=self.kept, remarks=())
        return SimpleNamespace(data="built", cached=False, remarks=(refused,))

    def runner(self, library, engine, device):
        self.loaded.append(engine.data)
        if engine.data in self.works:
            raise self.works[engine.data]
        return engine

    def compile(self):
        workload = Workload("file", ((1, 3, 8, 8),), None, file=b"model")
        return get_backend("tensorrt").compile(workload, Target("cuda:0", "tensorrt"))


@pytest.fixture
def loads(monkeypatch, rtx):
    simulated = Loads()
    monkeypatch.setattr(trt.TensorRTBackend, "_require", lambda self, device: None)
    monkeypatch.setattr(trt, "cached_engine", simulated.engine)
    monkeypatch.setattr(trt, "EngineRunner", simulated.runner)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    trt._engine.cache_clear()
    yield simulated
    trt._engine.cache_clear()


def test_a_kept_engine_that_loads_is_taken(loads):
    assert loads.compile().cached
    assert loads.refused == [None]


def test_a_kept_engine_that_does_not_load_is_built_anew_once(loads):
    loads.works["kept"] = MeasurementError("TensorRT refuses the engine")
    assert loads.compile().remarks == ("TensorRT refuses the engine",)
    assert loads.compile().data == "built"
    assert loads.refused == [None, "TensorRT refuses the engine"]
    assert loads.loaded == ["kept", "built", "built"]


@pytest.mark.parametrize("kept", [True, False])
def test_an_engine_just_built_that_does_not_load_is_refused(loads, kept):
    loads.kept = kept
    loads.works |= {"kept": MeasurementError("the first"), "built": MeasurementError("the second")}
    with pytest.raises(MeasurementError, match="the second" if kept else "the first"):
        loads.compile()
    assert loads.loaded == (["kept", "built"] if kept else ["kept"])


def test_an_engine_for_which_memory_is_short_is_kept(loads):
    loads.works["kept"] = ShortMemoryError("too little GPU memory")
    with pytest.raises(ShortMemoryError):
        loads.compile()
    assert loads.loaded == ["kept"]


def test_compile_refuses_other_devices(backend):
    workload = Workload("conv", ((1, 3, 8, 8),), lambda: nn.Conv2d(3, 3, 1))
    with pytest.raises(BackendUnavailableError, match="backend tensorrt cannot run on cpu: TensorRT needs a CUDA"):
        backend.compile(workload, Target("cpu", "tensorrt"))
