"""Errors of opening an ONNX Runtime session."""

import pytest
import torch
from torch import nn

from lgc.errors import BackendUnavailableError, MeasurementError
from lgc.lut import Target
from lgc.models import OpSpec
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.error_translation import OutOfMemoryError
from lgc.profiler.backends.ort import session as ort_session
from lgc.profiler.backends.ort.loader import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER
from lgc.profiler.backends.ort.session import open_session
from lgc.profiler.timing.workloads import operator_workload

from .... import onnx_files as files

WORKLOAD = Workload("net", ((1, 4, 8, 8),), lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: see tests/gpu")
@pytest.mark.parametrize("provider", [CUDA_PROVIDER, TENSORRT_PROVIDER])
def test_provider_without_libraries_is_unavailable(provider, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {provider}")
    with pytest.raises(BackendUnavailableError, match=rf"cannot load its {provider} \(libcublas.*: cannot open shared"):
        open_session("net", WORKLOAD.onnx, provider, {"device_id": "0"}, 1)
    assert capfd.readouterr().out == ""


def test_rejected_model_is_named():
    with pytest.raises(MeasurementError, match="ONNX Runtime rejects net: "):
        open_session("net", b"no graph", CPU_PROVIDER, {}, 1)


def test_newer_format_names_the_fix():
    with pytest.raises(MeasurementError, match=r"IR version: 99.*: export it with an older IR version"):
        open_session("net", files.make(ir=99).SerializeToString(), CPU_PROVIDER, {}, 1)


def test_out_of_memory_is_not_missing_library(monkeypatch):
    def full(*_):
        raise RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(ort_session, "create_session", full)
    with pytest.raises(OutOfMemoryError, match=r"^not enough GPU memory: ONNX Runtime rejects net: CUBLAS failure 3"):
        open_session("net", WORKLOAD.onnx, CUDA_PROVIDER, {"device_id": "0"}, 1)


def test_internal_bug_is_not_translated(monkeypatch):
    def bug(*_):
        raise TypeError("ours")

    monkeypatch.setattr(ort_session, "create_session", bug)
    with pytest.raises(TypeError, match="ours"):
        open_session("net", WORKLOAD.onnx, CPU_PROVIDER, {}, 1)


def test_invalid_onnx_graph_is_named():
    pytest.importorskip("onnxruntime")
    workload = operator_workload(OpSpec("conv_3x3", 3, 8, 33, 17, 2))
    workload.__dict__["onnx"] = b"no graph"
    with pytest.raises(MeasurementError, match=r"ONNX Runtime rejects .*conv_3x3/c3-8/33x17/s2/b1: "):
        get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))
