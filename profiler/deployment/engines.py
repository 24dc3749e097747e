"""TensorRT engines of an exported network, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...files import ensure_folder
from ...lut.target import Target
from ..backends import Workload, require_backend
from .latency import TargetResult

if TYPE_CHECKING:
    from ..backends.trt.engine import Engine

TENSORRT = "tensorrt"


class EngineSource(Protocol):
    """Network that an engine is built from."""

    @property
    def stem(self) -> str:
        """Stem of its file names."""

    @property
    def scope(self) -> str:
        """Scope of its output."""

    def workload(self, scope: str | None = None, precision: str = "fp32") -> Workload:
        """Return its ONNX model as a workload; backends convert it to fp16 and bf16."""


def build_target_engine(network: EngineSource, folder: Path, target: Target) -> tuple[Path, tuple[str, ...]]:
    """Write the engine that `time_network` runs on `target`, and return its path and remarks.

    Raises:
        BackendUnavailableError: TensorRT or the GPU is not available on this machine.
        MeasurementError: TensorRT rejects the network.
    """
    from ..backends.trt.backend import get_engine

    require_backend(target)
    engine = get_engine(network.workload(precision=target.precision), target)
    return write_engine(network, engine, folder), engine.remarks


def build_engine_ahead(
    network: EngineSource, folder: Path, precision: str, compute_capability: str | None
) -> TargetResult:
    """Build an engine without running it, for a GPU that this machine may not have.

    Args:
        network: network to build.
        folder: output folder.
        precision: precision of the engine.
        compute_capability: compute capability of the GPU, e.g. `8.9`; None for the builder's default.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed; the message has the install command.
        MeasurementError: TensorRT rejects the network.
    """
    from ..backends.trt.engine import get_device_capability
    from ..backends.trt.engine_cache import load_or_build_engine

    model = network.workload(precision=precision).onnx
    engine = load_or_build_engine(model, precision=precision, compute_capability=compute_capability)
    path = write_engine(network, engine, folder)
    reason = "this machine has no NVIDIA GPU" if get_device_capability() is None else "built for another GPU"
    summary = (
        f"built ahead of time with {engine.flavour} {engine.version} for compute capability "
        f"{engine.compute_capability}: {len(engine.layers)} layers, {len(engine.fusions)} of them fused, "
        f"{len(engine.data) / 1e6:.1f} MB; not run: {reason}"
    )
    device = f"sm_{_format_capability(engine)}"
    note = "; ".join([summary, *engine.remarks])
    return TargetResult(TENSORRT, device, precision, network.scope, engine=str(path), note=note)


def write_engine(network: EngineSource, engine: Engine, folder: Path) -> Path:
    """Write a serialised engine and its description, named by network, precision and compute capability."""
    from ..backends.trt.engine_files import write_engine_files

    path = ensure_folder(folder) / f"{network.stem}-{engine.precision}-sm{_format_capability(engine)}.engine"
    write_engine_files(engine, path)
    return path


def _format_capability(engine: Engine) -> str:
    return engine.compute_capability.replace(".", "")
