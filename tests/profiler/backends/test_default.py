"""Default backend of a device."""

import pytest
import torch

from lgc.device import Device
from lgc.errors import BackendUnavailableError
from lgc.profiler.backends.default import default_backend


def test_default_backend_is_first_available(without):
    assert default_backend(Device("cpu")) == "onnxruntime"
    without("onnxruntime")
    assert default_backend(Device("cpu")) == "torch"


def test_no_default_backend_gives_every_reason(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendUnavailableError, match=r"no backend runs on cuda:0: tensorrt: .*; torch: .*CPU build"):
        default_backend(Device("cuda:0"))
