"""Sessions of ONNX Runtime that run all nodes on one execution provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....device import Device
from ....errors import BackendUnavailableError, MeasurementError
from ....models.onnx.ort_probe import IR_FIX, mentions_ir
from ..error_translation import OutOfMemoryError, translate_ort_errors
from .layers import OPTIMISED_FILE
from .loader import CPU_PROVIDER, CUDA_PROVIDER, create_session, diagnose_provider_load, silence_warnings

CUDA_PROVIDER_OPTIONS = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "0"}
"""Options of the CUDA provider, the same for every graph.

cuDNN chooses a convolution's algorithm by the shapes alone, as it does for torch: the same for an operator alone as in
a network.
"""


def open_session(
    name: str, model: bytes, provider: str, settings: dict[str, str], threads: int, profile: Path | None = None
) -> Any:
    """Return a session of `model` with all optimisations and with all nodes on `provider`.

    Args:
        name: name of the model, for messages.
        model: serialised ONNX model.
        provider: `CPU_PROVIDER`, `CUDA_PROVIDER` or `TENSORRT_PROVIDER`.
        settings: options of the provider.
        threads: CPU threads inside an operator.
        profile: folder for the runtime's profile and its optimised graph, `optimised.onnx`.

    Raises:
        BackendUnavailableError: the provider is built in, but its libraries do not load.
        MeasurementError: ONNX Runtime rejects the model or would run a part of it on another provider, or memory is
            short.
    """
    import onnxruntime

    silence_warnings()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "profile")
        options.optimized_model_filepath = str(profile / OPTIMISED_FILE)
    if provider != CPU_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        with translate_ort_errors(on_gpu=provider != CPU_PROVIDER, summary=f"ONNX Runtime rejects {name}"):
            return create_session(model, provider, settings, options)
    except OutOfMemoryError:  # the diagnosis would run out of memory too
        raise
    except MeasurementError as error:
        if mentions_ir(str(error)):
            raise MeasurementError(f"{error}: {IR_FIX}") from error
        reason = (
            None
            if provider == CPU_PROVIDER
            else diagnose_provider_load(provider, Device(f"cuda:{settings['device_id']}"))
        )
        if reason is None:
            raise
        raise BackendUnavailableError(reason) from error


def describe_settings(provider: str, threads: int) -> dict[str, str]:
    """Return the settings of `open_session` and of `OnnxRuntimeRunner`'s inputs and clock, as text."""
    settings = {
        "provider": f"{provider}, alone",
        "graph_optimization": "all",
        "intra_op_threads": str(threads),
        "inter_op_threads": "1",
        "io_binding": "inputs and outputs",
    }
    if provider == CPU_PROVIDER:
        return {**settings, "clock": "host clock"}
    on_gpu = {"clock": "host clock, launch included", "host_memory": "pageable", "cuda_graph": "on", "tf32": "off"}
    if provider == CUDA_PROVIDER:
        on_gpu |= {name: CUDA_PROVIDER_OPTIONS[name] for name in ("cudnn_conv_algo_search", "prefer_nhwc")}
    return {**settings, **on_gpu}


def get_numpy_dtype(ort_type: str) -> str:
    """Return numpy's name of a tensor type of ONNX Runtime: `tensor(float)` is `float32`.

    Raises:
        MeasurementError: numpy lacks the type.
    """
    known = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
    known |= {name: name for name in ("uint8", "int8", "uint16", "int16", "int32", "int64")}
    name = ort_type.removeprefix("tensor(").removesuffix(")")
    if name not in known:
        raise MeasurementError(f"cannot bind a tensor of type {ort_type}: export it as float32")
    return known[name]
