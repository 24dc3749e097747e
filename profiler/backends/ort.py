"""Backend `onnxruntime`: the ONNX graph under ONNX Runtime's CPU or CUDA execution provider."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ...errors import BackendUnavailableError, MeasurementError
from ...lut.target import Target
from ..devices import cuda_missing
from .base import Workload, random_inputs, warm_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend:
    """ONNX Runtime with all graph optimisations, inputs and outputs bound to the device."""

    name = "onnxruntime"
    precisions = ("fp32",)

    def unavailable(self, device: str) -> str | None:
        """None if the provider of `device` is built in and the device is there, else the reason."""
        try:
            import onnxruntime
        except ImportError:
            package = "onnxruntime" if device == "cpu" else "onnxruntime-gpu"
            return f"ONNX Runtime is not installed: pip install {package}"
        provider = _PROVIDERS[device.split(":")[0]]
        if provider not in onnxruntime.get_available_providers():
            return f"this ONNX Runtime has no {provider}: pip uninstall onnxruntime && pip install onnxruntime-gpu"
        return None if device == "cpu" else cuda_missing(device)

    def versions(self) -> dict[str, str]:
        """Version of ONNX Runtime."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Open a session on the target's device, and on no other."""
        return OnnxRuntimeRunner(workload, target)


class OnnxRuntimeRunner:
    """A session with its bindings; see `Runner` for the contract."""

    def __init__(self, workload: Workload, target: Target) -> None:
        self._kind, _, index = target.device.partition(":")
        self._index = int(index or 0)
        self._session = _session(workload, target.threads, self._kind, self._index)
        self._shapes = workload.input_shapes
        self._binding = self._bind(random_inputs(self._shapes))

    def prepare(self) -> None:
        """Run until warm."""
        warm_up(self, on_gpu=self._kind == "cuda")

    def run(self, repeats: int) -> list[float]:
        """Time runs of the session with the host's clock; a run ends when its outputs are there."""
        session, binding = self._session, self._binding
        durations = []
        for _ in range(repeats):
            start = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            durations.append((time.perf_counter_ns() - start) / 1e6)
        return durations

    def infer(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.generic]]:
        """Outputs on the host."""
        binding = self._bind(inputs)
        self._session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def close(self) -> None:
        """Drop session and bindings."""
        del self._binding, self._session

    def _bind(self, inputs: Sequence[NDArray[np.float32]]) -> Any:
        """Bind `inputs` and outputs of the model's static shapes to buffers on the device."""
        import numpy as np
        import onnxruntime

        binding = self._session.io_binding()
        for index, array in enumerate(inputs):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._kind, self._index)
            binding.bind_ortvalue_input(f"input_{index}", value)
        for output in self._session.get_outputs():
            dtype = {"tensor(float)": np.float32, "tensor(int64)": np.int64}[output.type]
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, dtype, self._kind, self._index)
            binding.bind_ortvalue_output(output.name, value)
        return binding


def _session(workload: Workload, threads: int, kind: str, index: int) -> Any:
    """An inference session that runs wholly on the provider of `kind`, or an error."""
    import onnxruntime

    _quiet()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings: dict[str, str] = {}
    if kind == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {"device_id": str(index), "use_tf32": "0"}
    try:
        session = onnxruntime.InferenceSession(
            workload.onnx, options, providers=[_PROVIDERS[kind]], provider_options=[settings]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise MeasurementError(f"ONNX Runtime refuses {workload.name}: {str(error).splitlines()[0]}") from error
    if session.get_providers()[0] != _PROVIDERS[kind]:
        raise BackendUnavailableError(
            f"ONNX Runtime could not load {_PROVIDERS[kind]} and fell back to {session.get_providers()[0]}; "
            f"check that its CUDA and cuDNN libraries are installed"
        )
    return session


@cache
def _quiet() -> None:
    """Keep ONNX Runtime's warnings (such as: no GPU found) off the terminal; errors still come."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
