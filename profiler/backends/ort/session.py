"""Sessions of ONNX Runtime that run wholly on one execution provider, and what each provider needs to be there."""

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
from ...machine.devices import cuda_missing
from ..error_translation import ShortMemoryError, ort_failures

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

CUDA_OPTIONS = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0"}
"""Options of the CUDA provider, the same for every graph.

cuDNN chooses a convolution's algorithm by the shapes alone, as it does for torch: the same in a probe as in a network.
"""

_LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
_OLDEST_FOR_CUDA_GRAPHS = (1, 31)
_ERRORS, _FATAL = 3, 4
"""Severities from which ONNX Runtime logs."""


def missing(provider: str, device: Device) -> str | None:
    """Return why `provider` cannot run on `device`, and the mend; None if it can.

    The CUDA provider is loaded for that, once per process: that it is built in says nothing of its libraries.
    """
    try:
        import onnxruntime
    except ImportError:
        package = "onnxruntime" if provider == CPU else "onnxruntime-gpu"
        return f"ONNX Runtime is not installed: pip install {package}"
    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {provider}: pip uninstall onnxruntime && pip install onnxruntime-gpu"
    if provider == CPU:
        return None
    if provider == CUDA and _release(onnxruntime.__version__) < _OLDEST_FOR_CUDA_GRAPHS:
        oldest = ".".join(map(str, _OLDEST_FOR_CUDA_GRAPHS))
        return (
            f"ONNX Runtime {onnxruntime.__version__} is too old, replays of its CUDA graphs may read recycled memory: "
            f'pip install --upgrade "onnxruntime-gpu>={oldest}"'
        )
    return cuda_missing(device) or (load_failure(CUDA, device) if provider == CUDA else None)


def tensorrt_missing() -> str | None:
    """Return why the TensorRT that this ONNX Runtime was built for does not load, and the mend; None if it does."""
    import torch

    try:
        load_tensorrt_library()
    except OSError as error:
        major, cuda = _wanted_tensorrt(), str(torch.version.cuda).partition(".")[0]
        install = f'pip install "tensorrt-cu{cuda}>={major},<{major + 1}"'
        installed = _installed_tensorrt()
        if installed and not installed.startswith(f"{major}."):
            problem, mend = f"installed is {installed}", f"take --backend tensorrt, or {install}"
        else:
            problem, mend = f"which does not load ({error})", install
        return f"this ONNX Runtime needs TensorRT {major}, {problem}: {mend}"
    return None


@cache
def load_failure(provider: str, device: Device) -> str | None:
    """Return why `provider` does not load, in the loader's words, and the mend; None if it loads.

    It is tried once per process, with the CUDA libraries that torch has loaded, then with those of the wheels too.
    """
    import onnxruntime
    import torch

    if _probe(provider, device) is None:
        return None
    with redirect_stdout(StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    words = _probe(provider, device)
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
    return ctypes.CDLL(f"libnvinfer.so.{_wanted_tensorrt()}")


def open_session(
    name: str, model: bytes, provider: str, settings: dict[str, str], threads: int, profile: Path | None = None
) -> Any:
    """A session of `model` with all optimisations and all its nodes on `provider`.

    Args:
        name: of the model, for messages.
        model: serialised ONNX.
        provider: `CPU`, `CUDA` or `TENSORRT`.
        settings: the provider's options.
        threads: CPU threads inside an operator.
        profile: folder for the runtime's own profile, and for the graph as it runs it, `optimised.onnx`.

    Raises:
        BackendUnavailableError: the provider is built in, but its libraries do not load.
        MeasurementError: ONNX Runtime refuses the model, would run a part of it elsewhere, or has too little memory.
    """
    import onnxruntime

    silence()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "profile")
        options.optimized_model_filepath = str(profile / "optimised.onnx")
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        with ort_failures(on_gpu=provider != CPU, what=f"ONNX Runtime refuses {name}"):
            return _session(model, provider, settings, options)
    except ShortMemoryError:  # it would fail the probe too
        raise
    except MeasurementError as error:
        reason = None if provider == CPU else load_failure(provider, Device(f"cuda:{settings['device_id']}"))
        if reason is None:
            raise
        raise BackendUnavailableError(reason) from error


def settings_of(provider: str, threads: int) -> dict[str, str]:
    """What `open_session` sets, and how `OnnxRuntimeRunner` feeds and times it, in words."""
    found = {
        "provider": f"{provider}, alone",
        "graph_optimization": "all",
        "intra_op_threads": str(threads),
        "inter_op_threads": "1",
        "io_binding": "inputs and outputs",
    }
    if provider == CPU:
        return {**found, "clock": "host clock"}
    on_gpu = {"clock": "host clock, launch included", "host_memory": "pageable", "cuda_graph": "on", "tf32": "off"}
    if provider == CUDA:
        on_gpu |= {name: CUDA_OPTIONS[name] for name in ("cudnn_conv_algo_search", "prefer_nhwc")}
    return {**found, **on_gpu}


def numpy_type(spelled: str) -> str:
    """Type of a tensor by numpy's name, from ONNX Runtime's: `tensor(float)` is `float32`.

    Raises:
        MeasurementError: a type that numpy lacks.
    """
    known = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
    known |= {name: name for name in ("uint8", "int8", "uint16", "int16", "int32", "int64")}
    name = spelled.removeprefix("tensor(").removesuffix(")")
    if name not in known:
        raise MeasurementError(f"a tensor of type {spelled} cannot be bound; export it as float32")
    return known[name]


def _session(model: bytes, provider: str, settings: dict[str, str], options: Any) -> Any:
    """A session on `provider`; without `enable_fallback` Python would try again on the CPU, and print to stdout."""
    import onnxruntime

    return onnxruntime.InferenceSession(
        model, options, providers=[provider], provider_options=[settings], enable_fallback=0
    )


def _probe(provider: str, device: Device) -> str | None:
    """Return why a convolution does not run on `provider`; None if it does.

    It is run, since cuDNN is loaded by the first. Where memory is short, the provider itself works.
    """
    import numpy as np
    import onnxruntime

    settings = {"device_id": str(device.ordinal)}
    try:
        with _silent(), ort_failures(on_gpu=True):
            session = _session(_convolution(), provider, settings, onnxruntime.SessionOptions())
            if session.get_providers()[0] != provider:  # one whose provider does not load is silently one on the CPU
                return _loaders_words(provider) or "it gave no reason"
            session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    except ShortMemoryError:
        return None
    except MeasurementError as error:
        return _loaders_words(provider) or str(error)
    return None


def _convolution() -> bytes:
    """The smallest model that needs cuDNN."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _loaders_words(provider: str) -> str | None:
    """Return why the provider's library does not load, which ONNX Runtime only logs; None if it does."""
    try:
        ctypes.CDLL(str(_library(provider)))
    except OSError as error:
        return str(error)
    return None


def _library(provider: str) -> Path:
    import onnxruntime

    return Path(onnxruntime.__file__).with_name("capi") / _LIBRARIES[provider]


def _release(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _installed_tensorrt() -> str | None:
    """Version of the TensorRT package that Python finds, whatever its major."""
    with suppress(ImportError, OSError, AttributeError):
        return str(import_module("tensorrt").__version__)
    return None


@cache
def _wanted_tensorrt() -> int:
    """Major version of the TensorRT that the provider's library is linked to."""
    library = _library(TENSORRT)
    found = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
    if found is None:
        raise BackendUnavailableError(f"{library} is linked to no TensorRT; reinstall onnxruntime-gpu")
    return int(found[1])


@cache
def silence() -> None:
    """Keep ONNX Runtime's warnings (such as: no GPU found) off the terminal; errors still come."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_ERRORS)


@contextmanager
def _silent() -> Iterator[None]:
    """Context in which ONNX Runtime logs no errors: the caller says what failed."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_ERRORS)
