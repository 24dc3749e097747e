"""Backends `onnxruntime` and `onnxruntime-tensorrt`: an ONNX graph on one of ONNX Runtime's execution providers."""

from __future__ import annotations

import tempfile
from functools import cache

from ....device import Device
from ....lut.target import Target
from ..base import Workload
from ..precision import cast_model
from .loader import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    diagnose_provider,
    diagnose_tensorrt,
    get_install_hint,
    load_tensorrt_library,
)
from .runner import NO_LAYERS_ON_GPU, OnnxRuntimeRunner
from .session import CUDA_PROVIDER_OPTIONS, describe_settings


class OnnxRuntimeBackend:
    """ONNX Runtime's own kernels: the CPU provider, or the CUDA provider with the graph captured as a CUDA graph."""

    name = "onnxruntime"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Return fp32, on a GPU also fp16, and int8 for quantised models.

        bf16 is missing: the CUDA provider convolves it only from ONNX's operator set 22 onwards, and never pools it.
        """
        return ("fp32", "int8") if device.is_cpu else ("fp32", "fp16", "int8")

    def install_hint(self, device: Device) -> str:
        """Return the command that installs ONNX Runtime for `device`."""
        return get_install_hint(CPU_PROVIDER if device.is_cpu else CUDA_PROVIDER)

    def diagnose(self, device: Device) -> str | None:
        """Return None if the provider of `device` loads and the device exists, else the reason and the fix."""
        return diagnose_provider(CPU_PROVIDER if device.is_cpu else CUDA_PROVIDER, device)

    def diagnose_layers(self, device: Device) -> str | None:
        """Return None on a CPU; on a GPU the reason."""
        return None if device.is_cpu else f"{NO_LAYERS_ON_GPU}; use tensorrt"

    def versions(self) -> dict[str, str]:
        """Return the version of ONNX Runtime."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def settings(self, target: Target) -> dict[str, str]:
        """Return provider, optimisation, threads, binding, clock; on a GPU memory, CUDA graph, TF32, cuDNN options."""
        return describe_settings(CPU_PROVIDER if target.device.is_cpu else CUDA_PROVIDER, target.threads)

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Open a session on the target's device and on no other; see `OnnxRuntimeRunner` for the errors."""
        model = cast_model(workload.onnx, target.precision)
        if target.device.is_cpu:
            return OnnxRuntimeRunner(workload, model, target, CPU_PROVIDER, {})
        # Without TF32 cuDNN uses no tensor cores, not even for float16, where nothing is left in float32.
        tf32 = str(int(target.precision == "fp16"))
        settings = {**CUDA_PROVIDER_OPTIONS, "device_id": str(target.device.ordinal), "use_tf32": tf32}
        return OnnxRuntimeRunner(workload, model, target, CUDA_PROVIDER, settings)


class OnnxRuntimeTensorRTBackend:
    """ONNX Runtime's TensorRT provider alone: a node on the CUDA or CPU provider is an error.

    fp16 is the provider's own option, on the float32 model. The provider builds weakly typed networks. In these,
    TensorRT rejects float16 tensors without the option and picks each layer's type by speed with it, so converting the
    model would only add casts. The backend `tensorrt` builds strongly typed networks.
    """

    name = "onnxruntime-tensorrt"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Return fp32, with TF32 off, and fp16."""
        return ("fp32", "fp16")

    def install_hint(self, device: Device) -> str:
        """Return the command that installs ONNX Runtime with its GPU providers."""
        return get_install_hint(TENSORRT_PROVIDER)

    def diagnose(self, device: Device) -> str | None:
        """Return None if provider, device and the provider's TensorRT are available, else the reason and the fix."""
        if device.is_cpu:
            return "TensorRT needs a CUDA device"
        return diagnose_provider(TENSORRT_PROVIDER, device) or diagnose_tensorrt()

    def diagnose_layers(self, device: Device) -> str | None:
        """Return the reason: the provider runs on a GPU only."""
        return f"{NO_LAYERS_ON_GPU}; use tensorrt"

    def versions(self) -> dict[str, str]:
        """Return the versions of ONNX Runtime and of its TensorRT library."""
        import onnxruntime

        number = load_tensorrt_library().getInferLibVersion()  # 101302 is 10.13.2
        tensorrt = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
        return {"onnxruntime": onnxruntime.__version__, "TensorRT": tensorrt}

    def settings(self, target: Target) -> dict[str, str]:
        """Return provider, optimisation, threads, binding, clock, host memory, CUDA graph and TF32."""
        return describe_settings(TENSORRT_PROVIDER, target.threads)

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Build the engine on the target's device; see `OnnxRuntimeRunner` for the errors."""
        load_tensorrt_library()  # also turns TF32 off, before the provider is loaded
        settings = {
            "device_id": str(target.device.ordinal),
            "trt_fp16_enable": str(target.precision == "fp16"),  # these options are `True` and `False`, not 1 and 0
            "trt_cuda_graph_enable": "True",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": _make_timing_folder().name,
        }
        return OnnxRuntimeRunner(workload, workload.onnx, target, TENSORRT_PROVIDER, settings)


@cache
def _make_timing_folder() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of TensorRT's timing cache, shared by this process's builds and removed at its end."""
    return tempfile.TemporaryDirectory(prefix="lgc-tensorrt-")
