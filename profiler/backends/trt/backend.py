"""The TensorRT backend: engines of TensorRT or TensorRT-RTX, whichever is installed, on a CUDA device."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ....device import Device
from ....errors import BackendUnavailableError, MeasurementError
from ....lut.target import Target
from ...machine.devices import cuda_missing
from ..base import Runner, Workload
from ..cuda.device import pycuda_missing
from ..error_translation import ShortMemoryError
from ..precision import CAST_PRECISIONS
from .engine import Engine, refusal
from .engine_cache import cached_engine
from .engine_files import read_engine_files, require_runnable
from .loader import load_tensorrt
from .runner import EngineRunner


class TensorRTBackend:
    """Builds a workload's ONNX into an engine on the device itself, and runs it there."""

    name = "tensorrt"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """fp32, fp16, bf16, and int8 for models that are quantised."""
        return CAST_PRECISIONS

    def unavailable(self, device: Device) -> str | None:
        """None if engines can be built and run on `device`, else the reason and the mend in one sentence."""
        if device.kind != "cuda":
            return "TensorRT needs a CUDA device"
        try:
            library = load_tensorrt()
        except BackendUnavailableError as error:
            return str(error)
        missing = cuda_missing(device) or pycuda_missing()
        if missing is not None:
            return missing
        import torch

        index = device.ordinal
        return refusal(library, "{}.{}".format(*torch.cuda.get_device_capability(index)))

    def versions(self) -> dict[str, str]:
        """Versions of TensorRT, under its flavour's name, of torch and of its CUDA.

        Raises:
            BackendUnavailableError: TensorRT is not installed.
        """
        import torch

        library = load_tensorrt()
        return {library.flavour: library.version, "torch": str(torch.__version__), "cuda": str(torch.version.cuda)}

    def settings(self, target: Target) -> dict[str, str]:
        """How engines are built, run and timed: as strongly typed networks, in one CUDA graph, without TF32."""
        return {
            "network": "strongly typed",
            "tf32": "off",
            "cuda_graph": "on",
            "wait": "spinning",
            "clock": "CUDA events",
            "host_memory": "pinned",
        }

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Build `workload` for `target`'s device in its precision and load the engine there.

        An engine from the disk that does not load is built anew, once, unless it is memory that is short.

        Raises:
            BackendUnavailableError: the device or TensorRT is not there.
            MeasurementError: TensorRT refuses the workload.
        """
        self._require(target.device)
        kept = _engine(workload.onnx, target)
        try:
            return EngineRunner(load_tensorrt(), kept.engine, target.device)
        except ShortMemoryError:
            raise
        except MeasurementError as error:
            if not kept.engine.cached:
                raise
            refused = str(error)
        return EngineRunner(load_tensorrt(), kept.build_anew(refused), target.device)

    def open(self, path: Path, device: Device) -> EngineRunner:
        """Load an engine from its two files onto `device`, see `trt_files`; what it is, is the runner's `engine`.

        Raises:
            BackendUnavailableError: the device or TensorRT is not there.
            FileFormatError: the files are damaged, foreign, or do not belong together.
            MismatchError: the engine is of another device or version.
            MeasurementError: TensorRT refuses the engine.
        """
        import torch

        engine = read_engine_files(path)
        self._require(device)
        with torch.cuda.device(device):
            require_runnable(engine, str(path))
        return EngineRunner(load_tensorrt(), engine, device)

    def _require(self, device: Device) -> None:
        reason = self.unavailable(device)
        if reason is not None:
            raise BackendUnavailableError(f"backend {self.name} cannot run on {device}: {reason}")


def engine_for(workload: Workload, target: Target) -> Engine:
    """The engine of `workload` for `target`'s device, from the cache on the disk or built on that device.

    The last few are kept in memory too.

    Raises:
        BackendUnavailableError: no library that can build it here.
        UsageError: the precision is int8, and the workload is not quantised.
        MeasurementError: TensorRT refuses the workload.
    """
    return _engine(workload.onnx, target).engine


class _Kept:
    """The engine of a model for a target, in memory; another takes its place where the runtime refuses it."""

    def __init__(self, onnx_model: bytes, target: Target) -> None:
        self._model, self._target = onnx_model, target
        self.engine = self._get(None)

    def build_anew(self, refused: str) -> Engine:
        """Build the engine without the one on the disk, which was refused in these words."""
        self.engine = self._get(refused)
        return self.engine

    def _get(self, refused: str | None) -> Engine:
        import torch

        with torch.cuda.device(self._target.device):
            return cached_engine(self._model, precision=self._target.precision, refused=refused)


@lru_cache(maxsize=4)
def _engine(onnx_model: bytes, target: Target) -> _Kept:
    return _Kept(onnx_model, target)
