"""Availability and loading of ONNX Runtime's execution providers and of the libraries that they need."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from ....errors import BackendUnavailableError, MeasurementError
from ...machine.devices import cuda_missing
from ..error_translation import OutOfMemoryError, translate_ort_errors

CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)


_PROVIDER_LIBRARIES = {
    CUDA_PROVIDER: "libonnxruntime_providers_cuda.so",
    TENSORRT_PROVIDER: "libonnxruntime_providers_tensorrt.so",
}


_MIN_VERSION_FOR_CUDA_GRAPHS = (1, 31)


_ERROR_SEVERITY, _FATAL_SEVERITY = 3, 4
"""Severities from which ONNX Runtime logs."""


def diagnose_provider(provider: str, device: str) -> str | None:
    """Return why `provider` cannot run on `device`, and the mend; None if it can.

    The CUDA provider is loaded for that, once per process: that it is built in says nothing of its libraries.
    """
    try:
        import onnxruntime
    except ImportError:
        package = "onnxruntime" if provider == CPU_PROVIDER else "onnxruntime-gpu"
        return f"ONNX Runtime is not installed: pip install {package}"
    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {provider}: pip uninstall onnxruntime && pip install onnxruntime-gpu"
    if provider == CPU_PROVIDER:
        return None
    if provider == CUDA_PROVIDER and _parse_release(onnxruntime.__version__) < _MIN_VERSION_FOR_CUDA_GRAPHS:
        oldest = ".".join(map(str, _MIN_VERSION_FOR_CUDA_GRAPHS))
        return (
            f"ONNX Runtime {onnxruntime.__version__} is too old, replays of its CUDA graphs may read recycled memory: "
            f'pip install --upgrade "onnxruntime-gpu>={oldest}"'
        )
    return cuda_missing(device) or (
        diagnose_provider_load(CUDA_PROVIDER, device) if provider == CUDA_PROVIDER else None
    )


def diagnose_tensorrt() -> str | None:
    """Return why the TensorRT that this ONNX Runtime was built for does not load, and the mend; None if it does."""
    import torch

    try:
        load_tensorrt_library()
    except OSError as error:
        major, cuda = _get_required_tensorrt(), str(torch.version.cuda).partition(".")[0]
        install = f'pip install "tensorrt-cu{cuda}>={major},<{major + 1}"'
        installed = _get_installed_tensorrt()
        if installed and not installed.startswith(f"{major}."):
            problem, mend = f"installed is {installed}", f"take --backend tensorrt, or {install}"
        else:
            problem, mend = f"which does not load ({error})", install
        return f"this ONNX Runtime needs TensorRT {major}, {problem}: {mend}"
    return None


@cache
def diagnose_provider_load(provider: str, device: str) -> str | None:
    """Return why `provider` does not load, in the loader's words, and the mend; None if it loads.

    It is tried once per process, with the CUDA libraries that torch has loaded, then with those of the wheels too.
    """
    import onnxruntime
    import torch

    if _probe_provider(provider, device) is None:
        return None
    with redirect_stdout(StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    words = _probe_provider(provider, device)
    if words is None:
        return None
    version, built, there = onnxruntime.__version__, onnxruntime.cuda_version, str(torch.version.cuda)
    cuda = built.partition(".")[0]
    mend = f'pip install "onnxruntime-gpu[cuda,cudnn]=={version}"'
    if there.partition(".")[0] != cuda:
        mend = (
            f"it is built for CUDA {built}, the torch installed for CUDA {there}; install a torch for CUDA {cuda}, or "
            f"CUDA {cuda}'s libraries beside it: {mend}"
        )
    else:
        mend = f"install the libraries of CUDA {cuda} and cuDNN: {mend}"
    return f"ONNX Runtime {version} cannot load its {provider} ({words}): {mend}"


def load_tensorrt_library() -> ctypes.CDLL:
    """The library of TensorRT that ONNX Runtime's provider is linked to.

    TensorRT's wheels put their libraries where no loader looks. Importing the package brings them into the process,
    and there the provider, loaded later, finds them by name.

    Before that, TF32 is turned off by the environment, which the libraries of CUDA read once, when they are loaded or
    first used. There is no other way: the provider leaves TensorRT's own flag of it on.

    Raises:
        OSError: it is not there.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with suppress(ImportError, OSError):
        import_module("tensorrt")
    return ctypes.CDLL(f"libnvinfer.so.{_get_required_tensorrt()}")


def create_session(model: bytes, provider: str, settings: dict[str, str], options: Any) -> Any:
    """A session on `provider`; without `enable_fallback` Python would try again on the CPU, and print to stdout."""
    import onnxruntime

    return onnxruntime.InferenceSession(
        model, options, providers=[provider], provider_options=[settings], enable_fallback=0
    )


def _probe_provider(provider: str, device: str) -> str | None:
    """Return why a convolution does not run on `provider`; None if it does.

    It is run, since cuDNN is loaded by the first. Where memory is short, the provider itself works.
    """
    import numpy as np
    import onnxruntime

    settings = {"device_id": device.partition(":")[2]}
    try:
        with _silence_errors(), translate_ort_errors(on_gpu=True):
            session = create_session(_make_convolution(), provider, settings, onnxruntime.SessionOptions())
            if session.get_providers()[0] != provider:  # one whose provider does not load is silently one on the CPU
                return _get_loader_error(provider) or "it gave no reason"
            session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    except OutOfMemoryError:
        return None
    except MeasurementError as error:
        return _get_loader_error(provider) or str(error)
    return None


def _make_convolution() -> bytes:
    """The smallest model that needs cuDNN."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _get_loader_error(provider: str) -> str | None:
    """Return why the provider's library does not load, which ONNX Runtime only logs; None if it does."""
    try:
        ctypes.CDLL(str(_get_provider_library(provider)))
    except OSError as error:
        return str(error)
    return None


def _get_provider_library(provider: str) -> Path:
    import onnxruntime

    return Path(onnxruntime.__file__).with_name("capi") / _PROVIDER_LIBRARIES[provider]


def _parse_release(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _get_installed_tensorrt() -> str | None:
    """Version of the TensorRT package that Python finds, whatever its major."""
    with suppress(ImportError, OSError, AttributeError):
        return str(import_module("tensorrt").__version__)
    return None


@cache
def _get_required_tensorrt() -> int:
    """Major version of the TensorRT that the provider's library is linked to."""
    library = _get_provider_library(TENSORRT_PROVIDER)
    found = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
    if found is None:
        raise BackendUnavailableError(f"{library} is linked to no TensorRT; reinstall onnxruntime-gpu")
    return int(found[1])


@cache
def silence_warnings() -> None:
    """Keep ONNX Runtime's warnings (such as: no GPU found) off the terminal; errors still come."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ERROR_SEVERITY)


@contextmanager
def _silence_errors() -> Iterator[None]:
    """Context in which ONNX Runtime logs no errors: the caller says what failed."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL_SEVERITY)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_ERROR_SEVERITY)
