"""Sessions of ONNX Runtime that run wholly on one execution provider, and what each provider needs to be there."""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import BackendUnavailableError, MeasurementError
from ..devices import cuda_missing
from .failure import ShortMemoryError, ort_errors, ort_failures

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

_LIBRARIES = {CUDA: "CUDA and cuDNN", TENSORRT: "CUDA, cuDNN and TensorRT"}


def missing(provider: str, device: str) -> str | None:
    """None if ONNX Runtime has `provider` and `device` is there, else the reason and the mend."""
    try:
        import onnxruntime
    except ImportError:
        package = "onnxruntime" if provider == CPU else "onnxruntime-gpu"
        return f"ONNX Runtime is not installed: pip install {package}"
    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {provider}: pip uninstall onnxruntime && pip install onnxruntime-gpu"
    return None if provider == CPU else cuda_missing(device)


def tensorrt_missing() -> str | None:
    """None if the TensorRT is there that this ONNX Runtime was built for, else the reason and the mend."""
    import torch

    try:
        load_tensorrt_library()
    except OSError as error:
        major, cuda = _wanted_tensorrt(), str(torch.version.cuda).partition(".")[0]
        return (
            f"this ONNX Runtime needs TensorRT {major}, which does not load ({error}): "
            f'pip install "tensorrt-cu{cuda}>={major},<{major + 1}"'
        )
    return None


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
        if provider not in _LIBRARIES or _loads(provider, settings):
            raise
        raise BackendUnavailableError(
            f"ONNX Runtime could not load {provider}; its log above names the library that is missing. Install "
            f"{_LIBRARIES[provider]} of the versions that it was built for"
        ) from error


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


def _loads(provider: str, settings: dict[str, str]) -> bool:
    """Whether the provider works at all: a session whose provider does not load is silently one on the CPU."""
    import onnxruntime
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    try:
        session = _session(model.SerializeToString(), provider, settings, onnxruntime.SessionOptions())
    except ort_errors():
        return False
    return bool(session.get_providers()[0] == provider)


@cache
def _wanted_tensorrt() -> int:
    """Major version of the TensorRT that the provider's library is linked to."""
    import onnxruntime

    library = Path(onnxruntime.__file__).with_name("capi") / "libonnxruntime_providers_tensorrt.so"
    found = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
    if found is None:
        raise BackendUnavailableError(f"{library} is linked to no TensorRT; reinstall onnxruntime-gpu")
    return int(found[1])


@cache
def silence() -> None:
    """Keep ONNX Runtime's warnings (such as: no GPU found) off the terminal; errors still come."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
