"""Availability of ONNX Runtime's providers and of the libraries that they load, on simulated sessions."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lgc.device import Device
from lgc.errors import BackendUnavailableError
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.ort import loader as ort_loader
from lgc.profiler.backends.ort.loader import CPU_PROVIDER, CUDA_PROVIDER


@pytest.fixture
def sessions(gpu, monkeypatch):
    """Simulate ONNX Runtime's sessions, see `Sessions`."""
    made = Sessions()
    monkeypatch.setattr(ort_loader, "create_session", made.open)
    monkeypatch.setattr("onnxruntime.preload_dlls", made.preload)
    monkeypatch.setattr(ort_loader.ctypes, "CDLL", cannot_open)
    return made


class Sessions:
    """Simulated sessions of ONNX Runtime.

    Attributes:
        works: True if the provider's libraries are loaded.
        preloaded: True if they are loaded after preloading.
        error: error that a run raises.
        opened: providers of the opened sessions, with their options.
    """

    def __init__(self):
        self.works, self.preloaded, self.error, self.opened = True, False, None, []

    def open(self, model, provider, settings, options):
        self.opened.append((provider, settings))
        providers = [provider, CPU_PROVIDER] if self.works else [CPU_PROVIDER]
        return SimpleNamespace(get_providers=lambda: providers, run=self.run)

    def run(self, outputs, inputs):
        if self.error is not None:
            raise self.error

    def preload(self):
        print("Failed to load libcublasLt.so.13")
        self.works = self.preloaded


def cannot_open(name):
    raise OSError(f"{Path(name).name}: cannot open shared object file")


def test_provider_is_probed_once(sessions):
    for _ in range(2):
        assert get_backend("onnxruntime").diagnose(Device("cuda:1")) is None
    assert sessions.opened == [(CUDA_PROVIDER, {"device_id": "1"})]


def test_wheel_libraries_are_preloaded(sessions, capsys):
    sessions.works, sessions.preloaded = False, True
    assert get_backend("onnxruntime").diagnose(Device("cuda:0")) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cuda", ["13.0", "12.8"])
def test_provider_load_failure_gives_reason(sessions, monkeypatch, capsys, cuda):
    sessions.works = False
    monkeypatch.setattr(torch.version, "cuda", cuda)
    reason = get_backend("onnxruntime").diagnose(Device("cuda:0"))
    assert reason.startswith(
        "ONNX Runtime 1.31.1 cannot load its CUDAExecutionProvider "
        "(libonnxruntime_providers_cuda.so: cannot open shared object file): "
    )
    assert reason.endswith('pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"')
    assert ("it is built for CUDA 13.0, the installed torch for CUDA 12.8; install a torch for CUDA 13" in reason) == (
        cuda == "12.8"
    )
    assert capsys.readouterr().out == ""


def test_missing_cudnn_fails_first_convolution(sessions, monkeypatch):
    sessions.error = RuntimeError("cuDNN is not available")
    sessions.preloaded = True
    monkeypatch.setattr(ort_loader.ctypes, "CDLL", lambda name: None)
    assert "cannot load its CUDAExecutionProvider (ONNX Runtime: cuDNN is not available): install" in get_backend(
        "onnxruntime"
    ).diagnose(Device("cuda:0"))


def test_out_of_memory_is_not_missing_library(sessions):
    sessions.error = RuntimeError("CUDA failure 2: out of memory")
    assert get_backend("onnxruntime").diagnose(Device("cuda:0")) is None


def test_release_with_unsafe_replays_is_rejected(sessions, monkeypatch):
    monkeypatch.setattr("onnxruntime.__version__", "1.30.2")
    reason = get_backend("onnxruntime").diagnose(Device("cuda:0"))
    assert reason.startswith("ONNX Runtime 1.30.2 is too old: replays of its CUDA graphs may read recycled memory; ")
    assert reason.endswith('pip install --upgrade "onnxruntime-gpu>=1.31"')
    assert get_backend("onnxruntime").diagnose(Device("cpu")) is None
    assert sessions.opened == []


def test_missing_tensorrt_gives_install_command(gpu, monkeypatch):
    monkeypatch.setattr(ort_loader.ctypes, "CDLL", cannot_open)
    reason = get_backend("onnxruntime-tensorrt").diagnose(Device("cuda:0"))
    assert reason.startswith("this ONNX Runtime needs TensorRT 10, which does not load (libnvinfer.so.10: cannot open")
    assert reason.endswith('pip install "tensorrt-cu13>=10,<11"')


def test_wrong_tensorrt_version_is_named(gpu, monkeypatch):
    monkeypatch.setattr(ort_loader.ctypes, "CDLL", cannot_open)
    monkeypatch.setattr(ort_loader, "import_module", lambda name: SimpleNamespace(__version__="11.4.0.5"))
    assert get_backend("onnxruntime-tensorrt").diagnose(Device("cuda:0")) == (
        "this ONNX Runtime needs TensorRT 10, but 11.4.0.5 is installed: use --backend tensorrt, "
        'or pip install "tensorrt-cu13>=10,<11"'
    )


def test_tensorrt_version_comes_from_library(gpu, monkeypatch):
    library = SimpleNamespace(getInferLibVersion=lambda: 101302)
    monkeypatch.setattr(ort_loader.ctypes, "CDLL", lambda name: library)
    backend = get_backend("onnxruntime-tensorrt")
    assert backend.diagnose(Device("cuda:0")) is None
    assert backend.versions()["TensorRT"] == "10.13.2"


def test_required_tensorrt_is_read_from_provider(monkeypatch, tmp_path):
    (tmp_path / "capi").mkdir()
    library = tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so"
    monkeypatch.setattr("onnxruntime.__file__", str(tmp_path / "__init__.py"))
    library.write_bytes(b"\x7fELF\0libcublas.so.13\0libnvinfer.so.11\0libnvonnxparser.so.11\0")
    ort_loader._get_required_tensorrt.cache_clear()
    assert ort_loader._get_required_tensorrt() == 11
    library.write_bytes(b"\x7fELF")
    ort_loader._get_required_tensorrt.cache_clear()
    with pytest.raises(BackendUnavailableError, match="is not linked to TensorRT: reinstall onnxruntime-gpu"):
        ort_loader._get_required_tensorrt()
    ort_loader._get_required_tensorrt.cache_clear()


def test_missing_provider_gives_install_command(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    reason = get_backend("onnxruntime").diagnose(Device("cuda:0"))
    assert reason.startswith("this ONNX Runtime has no CUDAExecutionProvider: ")
    assert "pip install onnxruntime-gpu" in reason


@pytest.mark.parametrize(("device", "package"), [("cpu", "onnxruntime"), ("cuda:0", "onnxruntime-gpu")])
def test_missing_onnx_runtime_gives_install_command(without, device, package):
    without("onnxruntime")
    assert get_backend("onnxruntime").diagnose(Device(device)).endswith(f"pip install {package}")
