"""Backends `onnxruntime` and `onnxruntime-tensorrt`: the ONNX graph under one of ONNX Runtime's execution providers."""

from __future__ import annotations

import tempfile
from functools import cache

from ....lut.target import Target
from ..base import Workload
from ..precision import cast_model
from .loader import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    diagnose_provider,
    diagnose_tensorrt,
    load_tensorrt_library,
)
from .runner import OnnxRuntimeRunner
from .session import CUDA_PROVIDER_OPTIONS, describe_settings


class OnnxRuntimeBackend:
    """ONNX Runtime's own kernels: its CPU provider, or its CUDA provider with the graph captured as a CUDA graph."""

    name = "onnxruntime"

    def precisions(self, device: str) -> tuple[str, ...]:
        """On a CPU fp32, on a GPU fp16 too; int8 for models that are quantised.

        bf16 is missing since the CUDA provider convolves it from ONNX's operator set 22 on only, and pools it never.
        """
        return ("fp32", "int8") if device == "cpu" else ("fp32", "fp16", "int8")

    def diagnose(self, device: str) -> str | None:
        """Return None if the provider of `device` loads and the device is there, else the reason and the mend."""
        return diagnose_provider(CPU_PROVIDER if device == "cpu" else CUDA_PROVIDER, device)

    def versions(self) -> dict[str, str]:
        """Version of ONNX Runtime."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def settings(self, target: Target) -> dict[str, str]:
        """Provider, optimisation, threads, binding, clock; on a GPU memory, CUDA graph, TF32, algorithms, layout."""
        return describe_settings(CPU_PROVIDER if target.device == "cpu" else CUDA_PROVIDER, target.threads)

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Open a session on the target's device, and on no other; see `OnnxRuntimeRunner` for the errors."""
        if target.device == "cpu":
            return OnnxRuntimeRunner(workload, cast_model(workload.onnx, target.precision), target, CPU_PROVIDER, {})
        # Without TF32 cuDNN gets no tensor cores at all, not for float16 either, where nothing is left in float32.
        settings = {
            **CUDA_PROVIDER_OPTIONS,
            "device_id": target.device.partition(":")[2],
            "use_tf32": str(int(target.precision == "fp16")),
        }
        return OnnxRuntimeRunner(workload, cast_model(workload.onnx, target.precision), target, CUDA_PROVIDER, settings)


class OnnxRuntimeTensorRTBackend:
    """ONNX Runtime's TensorRT provider, alone: with one node on the CUDA or CPU provider there is no session.

    fp16 is the provider's own option, on the float32 model. It builds weakly typed networks, in which TensorRT refuses
    float16 tensors unless that option is on, and with it picks the type of each layer by speed: converting the model
    would only add casts. Strongly typed networks are what the backend `tensorrt` builds.
    """

    name = "onnxruntime-tensorrt"

    def precisions(self, device: str) -> tuple[str, ...]:
        """fp32, with TF32 off, and fp16."""
        return ("fp32", "fp16")

    def diagnose(self, device: str) -> str | None:
        """None if the provider, the device and the TensorRT that the provider is built for are there."""
        if device == "cpu":
            return "TensorRT needs a CUDA device"
        return diagnose_provider(TENSORRT_PROVIDER, device) or diagnose_tensorrt()

    def versions(self) -> dict[str, str]:
        """Versions of ONNX Runtime and of the TensorRT library that it uses."""
        import onnxruntime

        number = load_tensorrt_library().getInferLibVersion()  # 101302 is 10.13.2
        tensorrt = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
        return {"onnxruntime": onnxruntime.__version__, "TensorRT": tensorrt}

    def settings(self, target: Target) -> dict[str, str]:
        """Provider, optimisation, threads, binding, clock, the host's memory, CUDA graph and TF32."""
        return describe_settings(TENSORRT_PROVIDER, target.threads)

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Build the engine on the target's device; see `OnnxRuntimeRunner` for the errors."""
        load_tensorrt_library()  # also turns TF32 off, before the provider is asked for
        settings = {
            "device_id": target.device.partition(":")[2],
            "trt_fp16_enable": str(target.precision == "fp16"),  # these options are `True` and `False`, not 1 and 0
            "trt_cuda_graph_enable": "True",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": _make_timing_folder().name,
        }
        return OnnxRuntimeRunner(workload, workload.onnx, target, TENSORRT_PROVIDER, settings)


@cache
def _make_timing_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for what TensorRT has timed, which its builds in this process share; removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="lgc-tensorrt-")
