"""The driver's functions by ctypes, and what is said where the driver or pycuda is missing."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from lgc.errors import BackendUnavailableError
from lgc.profiler.backends import cuda_driver, cuda_place

STREAM = 77


def test_the_pause_is_the_c_librarys(monkeypatch):
    slept = []
    kept = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(slept.append)
    monkeypatch.setattr(cuda_driver, "_usleep", lambda: kept)

    def launch(stream, function, argument):
        ctypes.CFUNCTYPE(None, ctypes.c_size_t)(function.value)(argument)
        return 0

    monkeypatch.setattr(cuda_driver, "_cuda", lambda: SimpleNamespace(cuLaunchHostFunc=launch))
    cuda_driver.pause(STREAM, 125)
    assert slept == [125]
    monkeypatch.undo()
    assert cuda_driver._usleep().__name__ == "usleep"


def test_no_driver(monkeypatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda_that_is_not_there.so")
    cuda_driver._cuda.cache_clear()
    with pytest.raises(BackendUnavailableError, match=r"no NVIDIA driver of CUDA 11\.4 or later: libcuda_that"):
        cuda_driver.call("cuGraphLaunch")


def test_pycuda_is_missing(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: None)
    assert cuda_place.pycuda_missing().startswith(
        'pycuda is not installed: pip install "lgc[tensorrt]" (pycuda is comp'
    )


def test_pycuda_does_not_load(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "pycuda is installed but does not load (" in cuda_place.pycuda_missing()


def test_pycuda_is_there(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=None, __path__=[]))
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace())
    assert cuda_place.pycuda_missing() is None
