"""NVIDIA's bindings of the driver: the functions in use, and the diagnosis of missing bindings or pycuda."""

import sys
from types import SimpleNamespace

import pytest

from lgc.errors import BackendUnavailableError, MeasurementError
from lgc.profiler.backends.cuda import device as cuda_place
from lgc.profiler.backends.cuda import driver as cuda_driver

FUNCTIONS = {
    "cuStreamBeginCapture": "(hStream, mode: CUstreamCaptureMode)",
    "cuStreamEndCapture": "(hStream)",
    "cuGraphInstantiate": "(hGraph, unsigned long long flags)",
    "cuGraphLaunch": "(hGraphExec, hStream)",
    "cuGraphExecDestroy": "(hGraphExec)",
    "cuGraphDestroy": "(hGraph)",
}


@pytest.fixture(scope="module")
def bindings():
    return pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bindings_have_every_function(bindings, name):
    assert getattr(bindings, name).__doc__.startswith(name + FUNCTIONS[name])


def test_bindings_have_capture_mode(bindings):
    assert int(bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) == 1
    assert bindings.CUresult(2).name == "CUDA_ERROR_OUT_OF_MEMORY"


def raises(error):
    def function(*arguments):
        raise error

    return function


def test_missing_driver_function_is_named(monkeypatch):
    lacking = SimpleNamespace(cuGraphLaunch=raises(RuntimeError("Function cuGraphLaunch not found")))
    monkeypatch.setattr(cuda_driver, "_import_bindings", lambda: lacking)
    with pytest.raises(BackendUnavailableError, match=r"the NVIDIA driver lacks cuGraphLaunch: Function cuGraph"):
        cuda_driver.call_driver("cuGraphLaunch", 1, 2)


def test_unnamed_error_shows_number(monkeypatch):
    monkeypatch.setattr(cuda_driver, "_import_bindings", lambda: SimpleNamespace(cuGraphLaunch=lambda *_: (12345,)))
    with pytest.raises(MeasurementError, match="cuGraphLaunch failed: CUDA error 12345"):
        cuda_driver.call_driver("cuGraphLaunch", 1, 2)


def test_missing_pycuda_gives_install_hint(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: None)
    assert cuda_place.diagnose_pycuda("pip install it").startswith(
        "pycuda is not installed: pip install it (compiles pycuda"
    )


def test_broken_pycuda_is_reported(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "cannot load pycuda (" in cuda_place.diagnose_pycuda("pip install it")


@pytest.fixture
def pycuda(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=None, __path__=[]))
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace())


def test_missing_bindings_give_install_hint(monkeypatch, pycuda):
    monkeypatch.setattr(cuda_driver, "_import_bindings", raises(ImportError("No module named 'cuda'")))
    reason = cuda_place.diagnose_pycuda("pip install it")
    assert reason == ("cannot load package cuda-bindings (No module named 'cuda'): pip install \"cuda-bindings>=12.6\"")


def test_complete_installation_has_no_diagnosis(monkeypatch, pycuda):
    monkeypatch.setattr(cuda_driver, "_import_bindings", lambda: SimpleNamespace())
    assert cuda_place.diagnose_pycuda("pip install it") is None
