"""Backend `tensorrt`: engines of TensorRT or TensorRT-RTX, whichever is installed, on a CUDA device."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ....device import Device
from ....errors import BackendUnavailableError, MeasurementError
from ....lut.target import Target
from ....precisions import EXPORT_PRECISIONS
from ...machine.devices import diagnose_cuda
from ..base import Runner, Workload
from ..cuda.device import diagnose_pycuda
from ..error_translation import OutOfMemoryError
from .engine import Engine, diagnose_capability
from .engine_cache import load_or_build_engine
from .engine_files import read_engine_files, require_runnable
from .loader import INSTALL_FULL, get_install_hint, load_tensorrt
from .runner import EngineRunner


class TensorRTBackend:
    """Backend that builds a workload's ONNX model into an engine on the device and runs it there."""

    name = "tensorrt"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Return fp32, fp16, bf16, and int8 for quantised models."""
        return EXPORT_PRECISIONS

    def install_hint(self, device: Device) -> str:
        """Return the command that installs full TensorRT on this machine."""
        return get_install_hint()

    def diagnose(self, device: Device) -> str | None:
        """Return None if engines can be built and run on `device`, else the reason and the fix in one sentence."""
        if device.kind != "cuda":
            return "TensorRT needs a CUDA device"
        try:
            library = load_tensorrt()
        except BackendUnavailableError as error:
            return str(error)
        reason = diagnose_cuda(device) or diagnose_pycuda(INSTALL_FULL)
        if reason is not None:
            return reason
        import torch

        index = device.ordinal
        return diagnose_capability(library, "{}.{}".format(*torch.cuda.get_device_capability(index)))

    def diagnose_layers(self, device: Device) -> str | None:
        """Return None: TensorRT reports layer times."""
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of TensorRT, under the name of its flavour, of torch and of torch's CUDA.

        Raises:
            BackendUnavailableError: TensorRT is not installed.
        """
        import torch

        library = load_tensorrt()
        return {library.flavour: library.version, "torch": str(torch.__version__), "cuda": str(torch.version.cuda)}

    def settings(self, target: Target) -> dict[str, str]:
        """Return how engines are built, run and timed: strongly typed, without TF32, as one CUDA graph."""
        return {
            "network": "strongly typed",
            "tf32": "off",
            "cuda_graph": "on",
            "wait": "spinning",
            "clock": "CUDA events",
            "host_memory": "pinned",
        }

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Build `workload` for the target's device in the target's precision, and load the engine there.

        A cached engine that does not load is rebuilt once, unless memory is short.

        Raises:
            BackendUnavailableError: the device or TensorRT is unavailable.
            MeasurementError: TensorRT rejects the workload.
        """
        self._require_available(target.device)
        cached = _load_engine(workload.onnx, target)
        try:
            return EngineRunner(load_tensorrt(), cached.engine, target.device)
        except OutOfMemoryError:
            raise
        except MeasurementError as error:
            if not cached.engine.cached:
                raise
            rejection = str(error)
        return EngineRunner(load_tensorrt(), cached.rebuild(rejection), target.device)

    def open(self, path: Path, device: Device) -> EngineRunner:
        """Load an engine from its two files onto `device`, see `engine_files`; the runner's `engine` describes it.

        Raises:
            BackendUnavailableError: the device or TensorRT is unavailable.
            FileFormatError: the files are damaged or foreign, or do not belong together.
            MismatchError: the engine was built for another device or version.
            MeasurementError: TensorRT rejects the engine.
        """
        import torch

        engine = read_engine_files(path)
        self._require_available(device)
        with torch.cuda.device(device):
            require_runnable(engine, str(path))
        return EngineRunner(load_tensorrt(), engine, device)

    def _require_available(self, device: Device) -> None:
        reason = self.diagnose(device)
        if reason is not None:
            raise BackendUnavailableError(f"backend {self.name} cannot run on {device}: {reason}")


def get_engine(workload: Workload, target: Target) -> Engine:
    """Return the engine of `workload` for the target's device, from memory, from the cache on disk, or built there.

    Memory holds the last few engines.

    Raises:
        BackendUnavailableError: no library on this machine can build it.
        UsageError: the precision is int8 and the workload is not quantised.
        MeasurementError: TensorRT rejects the workload.
    """
    return _load_engine(workload.onnx, target).engine


class _CachedEngine:
    """Engine of a model for a target, kept in memory; replaced where the runtime rejects it."""

    def __init__(self, onnx_model: bytes, target: Target) -> None:
        self._model, self._target = onnx_model, target
        self.engine = self._get(None)

    def rebuild(self, rejection: str) -> Engine:
        """Build the engine again, without the file on disk.

        Args:
            rejection: the runtime's error about that file.
        """
        self.engine = self._get(rejection)
        return self.engine

    def _get(self, rejection: str | None) -> Engine:
        import torch

        with torch.cuda.device(self._target.device):
            return load_or_build_engine(self._model, precision=self._target.precision, rejection=rejection)


@lru_cache(maxsize=4)
def _load_engine(onnx_model: bytes, target: Target) -> _CachedEngine:
    return _CachedEngine(onnx_model, target)
