"""Availability of ONNX Runtime's execution providers, and loading of the libraries they need."""

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

from ....device import Device
from ....errors import BackendUnavailableError, MeasurementError
from ...machine.devices import diagnose_cuda
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
"""Lowest severities that ONNX Runtime logs."""


def diagnose_provider(provider: str, device: Device) -> str | None:
    """Return None if `provider` runs on `device`, else the reason and the fix.

    The CUDA provider is loaded for the check, once per process: its libraries may be missing although it is built in.
    """
    try:
        import onnxruntime
    except ImportError:
        return f"ONNX Runtime is not installed: {get_install_hint(provider)}"
    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {provider}: pip uninstall onnxruntime && {get_install_hint(provider)}"
    if provider == CPU_PROVIDER:
        return None
    if provider == CUDA_PROVIDER and _parse_release(onnxruntime.__version__) < _MIN_VERSION_FOR_CUDA_GRAPHS:
        min_version = ".".join(map(str, _MIN_VERSION_FOR_CUDA_GRAPHS))
        return (
            f"ONNX Runtime {onnxruntime.__version__} is too old: replays of its CUDA graphs may read recycled memory; "
            f'pip install --upgrade "onnxruntime-gpu>={min_version}"'
        )
    return diagnose_cuda(device) or (
        diagnose_provider_load(CUDA_PROVIDER, device) if provider == CUDA_PROVIDER else None
    )


def get_install_hint(provider: str) -> str:
    """Return the command that installs ONNX Runtime with `provider`."""
    return f"pip install {'onnxruntime' if provider == CPU_PROVIDER else 'onnxruntime-gpu'}"


def diagnose_tensorrt() -> str | None:
    """Return None if the TensorRT that this ONNX Runtime was built for loads, else the reason and the fix."""
    import torch

    try:
        load_tensorrt_library()
    except OSError as error:
        major, cuda = _get_required_tensorrt(), str(torch.version.cuda).partition(".")[0]
        install = f'pip install "tensorrt-cu{cuda}>={major},<{major + 1}"'
        installed = _get_installed_tensorrt()
        if installed and not installed.startswith(f"{major}."):
            problem, fix = f"but {installed} is installed", f"use --backend tensorrt, or {install}"
        else:
            problem, fix = f"which does not load ({error})", install
        return f"this ONNX Runtime needs TensorRT {major}, {problem}: {fix}"
    return None


@cache
def diagnose_provider_load(provider: str, device: Device) -> str | None:
    """Return None if `provider` loads, else the loader's message and the fix.

    Tried once per process: first with the CUDA libraries that torch has loaded, then also with those of the wheels.
    """
    import onnxruntime
    import torch

    if _probe_provider(provider, device) is None:
        return None
    with redirect_stdout(StringIO()):  # prints the libraries that it does not find
        onnxruntime.preload_dlls()
    reason = _probe_provider(provider, device)
    if reason is None:
        return None
    version, built, torch_cuda = onnxruntime.__version__, onnxruntime.cuda_version, str(torch.version.cuda)
    cuda = built.partition(".")[0]
    fix = f'pip install "onnxruntime-gpu[cuda,cudnn]=={version}"'
    if torch_cuda.partition(".")[0] != cuda:
        fix = (
            f"it is built for CUDA {built}, the installed torch for CUDA {torch_cuda}; install a torch for CUDA "
            f"{cuda}, or CUDA {cuda}'s libraries too: {fix}"
        )
    else:
        fix = f"install the libraries of CUDA {cuda} and cuDNN: {fix}"
    return f"ONNX Runtime {version} cannot load its {provider} ({reason}): {fix}"


def load_tensorrt_library() -> ctypes.CDLL:
    """Return the TensorRT library that ONNX Runtime's provider is linked to.

    TensorRT's wheels keep their libraries off the loader's paths. Importing the package loads them into the process,
    where the provider, loaded later, finds them by name.

    Before that, the environment turns TF32 off, which CUDA's libraries read once, when they are loaded or first used.
    There is no other way: the provider leaves TensorRT's own TF32 flag on.

    Raises:
        OSError: the library does not load.
    """
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with suppress(ImportError, OSError):
        import_module("tensorrt")
    return ctypes.CDLL(f"libnvinfer.so.{_get_required_tensorrt()}")


def create_session(model: bytes, provider: str, settings: dict[str, str], options: Any) -> Any:
    """Return a session on `provider`; `enable_fallback=0` keeps it from retrying on the CPU and printing to stdout."""
    import onnxruntime

    return onnxruntime.InferenceSession(
        model, options, providers=[provider], provider_options=[settings], enable_fallback=0
    )


def _probe_provider(provider: str, device: Device) -> str | None:
    """Return None if a convolution runs on `provider`, else the reason.

    It must run, as the first convolution loads cuDNN. Where only memory is short, the provider works.
    """
    import numpy as np
    import onnxruntime

    settings = {"device_id": str(device.ordinal)}
    try:
        with _silence_errors(), translate_ort_errors(on_gpu=True):
            session = create_session(_make_convolution(), provider, settings, onnxruntime.SessionOptions())
            if session.get_providers()[0] != provider:  # silently on the CPU, as the provider did not load
                return _get_loader_error(provider) or "no reason given"
            session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    except OutOfMemoryError:
        return None
    except MeasurementError as error:
        return _get_loader_error(provider) or str(error)
    return None


def _make_convolution() -> bytes:
    """Return the smallest model that needs cuDNN."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _get_loader_error(provider: str) -> str | None:
    """Return the loader's error for the provider's library, which ONNX Runtime only logs; None if it loads."""
    try:
        ctypes.CDLL(str(_get_provider_library(provider)))
    except OSError as error:
        return str(error)
    return None


def _get_provider_library(provider: str) -> Path:
    import onnxruntime

    return Path(onnxruntime.__file__).with_name("capi") / _PROVIDER_LIBRARIES[provider]


def _parse_release(version: str) -> tuple[int, ...]:
    """Return the major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _get_installed_tensorrt() -> str | None:
    """Return the version of the installed TensorRT package of any major version, or None."""
    with suppress(ImportError, OSError, AttributeError):
        return str(import_module("tensorrt").__version__)
    return None


@cache
def _get_required_tensorrt() -> int:
    """Return the major version of the TensorRT that the provider's library is linked to."""
    library = _get_provider_library(TENSORRT_PROVIDER)
    match = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
    if match is None:
        raise BackendUnavailableError(f"{library} is not linked to TensorRT: reinstall onnxruntime-gpu")
    return int(match[1])


@cache
def silence_warnings() -> None:
    """Stop ONNX Runtime from logging warnings, such as 'no GPU found'; errors are still logged."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ERROR_SEVERITY)


@contextmanager
def _silence_errors() -> Iterator[None]:
    """Stop ONNX Runtime from logging errors inside the context: the caller reports them."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL_SEVERITY)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_ERROR_SEVERITY)
