"""The TensorRT backend: engines of TensorRT or TensorRT-RTX, whichever is installed, on a CUDA device."""

from __future__ import annotations

from functools import lru_cache

from ...errors import BackendUnavailableError
from ...lut.target import Target
from ..devices import cuda_missing
from .base import Runner, Workload
from .trt_engine import Engine, build_engine, refusal
from .trt_loader import load_tensorrt
from .trt_precision import PRECISIONS
from .trt_runner import EngineRunner


class TensorRTBackend:
    """Builds a workload's ONNX into an engine on the device itself, and runs it there."""

    name = "tensorrt"

    def precisions(self, device: str) -> tuple[str, ...]:
        """fp32, fp16 and bf16."""
        return PRECISIONS

    def unavailable(self, device: str) -> str | None:
        """None if engines can be built and run on `device`, else the reason and the mend in one sentence."""
        if not device.startswith("cuda"):
            return "TensorRT needs a CUDA device"
        try:
            library = load_tensorrt()
        except BackendUnavailableError as error:
            return str(error)
        missing = cuda_missing(device)
        if missing is not None:
            return missing
        import torch

        index = int(device.partition(":")[2] or 0)
        return refusal(library, "{}.{}".format(*torch.cuda.get_device_capability(index)))

    def versions(self) -> dict[str, str]:
        """Versions of TensorRT, under its flavour's name, of torch and of its CUDA.

        Raises:
            BackendUnavailableError: TensorRT is not installed.
        """
        import torch

        library = load_tensorrt()
        return {library.flavour: library.version, "torch": str(torch.__version__), "cuda": str(torch.version.cuda)}

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Build `workload` for `target`'s device in its precision and load the engine there.

        Raises:
            BackendUnavailableError: the device or TensorRT is not there.
            MeasurementError: TensorRT refuses the workload.
        """
        reason = self.unavailable(target.device)
        if reason is not None:
            raise BackendUnavailableError(f"backend {self.name} cannot run on {target.device}: {reason}")
        return EngineRunner(load_tensorrt(), engine_for(workload, target), target.device)


def engine_for(workload: Workload, target: Target) -> Engine:
    """The engine of `workload` for `target`'s device, on that device; the last few are kept, so none is built twice.

    Raises:
        BackendUnavailableError: no library that can build it here.
        MeasurementError: TensorRT refuses the workload.
    """
    return _engine(workload.onnx, target)


@lru_cache(maxsize=4)
def _engine(onnx_model: bytes, target: Target) -> Engine:
    import torch

    with torch.cuda.device(target.device):
        return build_engine(onnx_model, precision=target.precision)
