"""A simulated GPU for the tests of ONNX Runtime."""

import pytest
import torch

from lgc.profiler.backends.ort import loader as ort_loader
from lgc.profiler.backends.ort.loader import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER


@pytest.fixture
def gpu(monkeypatch):
    """Simulate a GPU and an ONNX Runtime with its three providers."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(ort_loader, "diagnose_cuda", lambda device: None)
    monkeypatch.setattr(ort_loader, "_get_required_tensorrt", lambda: 10)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")  # restored at the end
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("onnxruntime.__version__", "1.31.1")
    monkeypatch.setattr("onnxruntime.cuda_version", "13.0")
    ort_loader.diagnose_provider_load.cache_clear()
    yield
    ort_loader.diagnose_provider_load.cache_clear()
