"""Backends `onnxruntime` and `onnxruntime-tensorrt`: the ONNX graph under one of ONNX Runtime's execution providers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from ....device import Device
from ....errors import MeasurementError
from ....lut.target import Target
from ..base import PIXELS, LayerTime, Workload, warm_up
from ..error_translation import ort_failures
from ..precision import cast_model
from .layers import layer_times
from .session import (
    CPU,
    CUDA,
    CUDA_OPTIONS,
    TENSORRT,
    load_tensorrt_library,
    missing,
    numpy_type,
    open_session,
    settings_of,
    tensorrt_missing,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OnnxRuntimeBackend:
    """ONNX Runtime's own kernels: its CPU provider, or its CUDA provider with the graph captured as a CUDA graph."""

    name = "onnxruntime"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """On a CPU fp32, on a GPU fp16 too; int8 for models that are quantised.

        bf16 is missing since the CUDA provider convolves it from ONNX's operator set 22 on only, and pools it never.
        """
        return ("fp32", "int8") if device.is_cpu else ("fp32", "fp16", "int8")

    def unavailable(self, device: Device) -> str | None:
        """Return None if the provider of `device` loads and the device is there, else the reason and the mend."""
        return missing(CPU if device.is_cpu else CUDA, device)

    def versions(self) -> dict[str, str]:
        """Version of ONNX Runtime."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def settings(self, target: Target) -> dict[str, str]:
        """Provider, optimisation, threads, binding, clock; on a GPU memory, CUDA graph, TF32, algorithms, layout."""
        return settings_of(CPU if target.device.is_cpu else CUDA, target.threads)

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Open a session on the target's device, and on no other; see `OnnxRuntimeRunner` for the errors."""
        if target.device.is_cpu:
            return OnnxRuntimeRunner(workload, cast_model(workload.onnx, target.precision), target, CPU, {})
        # Without TF32 cuDNN gets no tensor cores at all, not for float16 either, where nothing is left in float32.
        settings = {
            **CUDA_OPTIONS,
            "device_id": str(target.device.ordinal),
            "use_tf32": str(int(target.precision == "fp16")),
        }
        return OnnxRuntimeRunner(workload, cast_model(workload.onnx, target.precision), target, CUDA, settings)


class OnnxRuntimeTensorRTBackend:
    """ONNX Runtime's TensorRT provider, alone: with one node on the CUDA or CPU provider there is no session.

    fp16 is the provider's own option, on the float32 model. It builds weakly typed networks, in which TensorRT refuses
    float16 tensors unless that option is on, and with it picks the type of each layer by speed: converting the model
    would only add casts. Strongly typed networks are what the backend `tensorrt` builds.
    """

    name = "onnxruntime-tensorrt"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """fp32, with TF32 off, and fp16."""
        return ("fp32", "fp16")

    def unavailable(self, device: Device) -> str | None:
        """None if the provider, the device and the TensorRT that the provider is built for are there."""
        if device.is_cpu:
            return "TensorRT needs a CUDA device"
        return missing(TENSORRT, device) or tensorrt_missing()

    def versions(self) -> dict[str, str]:
        """Versions of ONNX Runtime and of the TensorRT library that it uses."""
        import onnxruntime

        number = load_tensorrt_library().getInferLibVersion()  # 101302 is 10.13.2
        tensorrt = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
        return {"onnxruntime": onnxruntime.__version__, "TensorRT": tensorrt}

    def settings(self, target: Target) -> dict[str, str]:
        """Provider, optimisation, threads, binding, clock, the host's memory, CUDA graph and TF32."""
        return settings_of(TENSORRT, target.threads)

    def compile(self, workload: Workload, target: Target) -> OnnxRuntimeRunner:
        """Build the engine on the target's device; see `OnnxRuntimeRunner` for the errors."""
        load_tensorrt_library()  # also turns TF32 off, before the provider is asked for
        settings = {
            "device_id": str(target.device.ordinal),
            "trt_fp16_enable": str(target.precision == "fp16"),  # these options are `True` and `False`, not 1 and 0
            "trt_cuda_graph_enable": "True",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": _timings().name,
        }
        return OnnxRuntimeRunner(workload, workload.onnx, target, TENSORRT, settings)


class OnnxRuntimeRunner:
    """A session with its inputs and outputs bound to buffers that stay in place, as a CUDA graph needs them.

    On a GPU the first run also captures the graph, after the regular runs that ONNX Runtime wants before it; the
    later ones replay it. All of them have to come from one thread. See `Runner` for the contract.
    """

    remarks: tuple[str, ...] = ()

    def __init__(
        self, workload: Workload, model: bytes, target: Target, provider: str, settings: dict[str, str]
    ) -> None:
        """Open the session and bind its buffers.

        Args:
            workload: gives name and input shapes.
            model: its ONNX model, perhaps converted.
            target: device and threads.
            provider: where all nodes run.
            settings: options of the provider.

        Raises:
            BackendUnavailableError: the provider does not load.
            MeasurementError: ONNX Runtime refuses the model, or there is too little memory.
        """
        self._workload, self._device, self._on_gpu = workload, target.device, provider != CPU
        self._opened = (workload.name, model, provider, settings, target.threads)
        self._session = open_session(workload.name, model, provider, settings, target.threads)
        inputs = workload.inputs()
        with self._failures():
            self._bind(inputs, ("cuda", target.device.ordinal) if self._on_gpu else ("cpu", 0))

    def _bind(self, inputs: Sequence[NDArray[Any]], place: tuple[str, int]) -> None:
        """Allocate inputs and outputs on a device, and tell the session."""
        import onnxruntime

        value = onnxruntime.OrtValue
        self._inputs = [value.ortvalue_from_numpy(array, *place) for array in inputs]
        self._outputs, self._binding = [], self._session.io_binding()
        for argument, given in zip(self._session.get_inputs(), self._inputs, strict=True):
            self._binding.bind_ortvalue_input(argument.name, given)
        for output in self._session.get_outputs():
            self._outputs.append(value.ortvalue_from_shape_and_type(output.shape, numpy_type(output.type), *place))
            self._binding.bind_ortvalue_output(output.name, self._outputs[-1])

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        inputs = self._workload.inputs()
        with self._failures():
            self._fill(inputs)
        warm_up(self, self._device)

    def run(self, repeats: int) -> list[float]:
        """Time runs of the session with the host's clock.

        A run returns when the device is done, replays of CUDA graphs included; only the run option
        `disable_synchronize_execution_providers`, which is not set, would change that. On a GPU, images are copied
        there and results back in every run.
        """
        once, durations = self._once, []
        with self._failures():
            for _ in range(repeats):
                start = time.perf_counter_ns()
                once()
                durations.append((time.perf_counter_ns() - start) / 1e6)
        return durations

    def run_untimed(self, repeats: int) -> None:
        """Run the session `repeats` times; ONNX Runtime waits for each run."""
        once = self._once
        with self._failures():
            for _ in range(repeats):
                once()

    @property
    def _once(self) -> Callable[[], object]:
        """What is timed: a run over the bound buffers with nothing of ours around it, or one with its copies."""
        if self._on_gpu and self._workload.dtype == PIXELS:
            return self._there_and_back
        return partial(self._session.run_with_iobinding, self._binding)

    def _there_and_back(self) -> None:
        self._fill(self._images)
        self._session.run_with_iobinding(self._binding)
        for value in self._outputs:
            value.numpy()

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Copies of the outputs on the host; the inputs stay what they are given."""
        import numpy as np

        with self._failures():
            self._fill(inputs)
            self._session.run_with_iobinding(self._binding)
            return [np.array(value.numpy()) for value in self._outputs]

    def layer_times(self, runs: int) -> list[LayerTime]:
        """Times of the optimised graph's nodes, by ONNX Runtime's own profiler in a session beside this one.

        Raises:
            MeasurementError: on a GPU; or ONNX Runtime fails.
        """
        if self._on_gpu:
            raise MeasurementError("ONNX Runtime tells no layers' times on a GPU, only when they are launched")
        inputs = self._workload.inputs()
        with self._failures():
            return layer_times(*self._opened, inputs, runs)

    def close(self) -> None:
        """Drop session and buffers."""
        del self._binding, self._inputs, self._outputs, self._session

    def _failures(self) -> AbstractContextManager[None]:
        return ort_failures(on_gpu=self._on_gpu)

    @cached_property
    def _images(self) -> list[NDArray[Any]]:
        return self._workload.inputs()

    def _fill(self, inputs: Sequence[NDArray[Any]]) -> None:
        for value, array in zip(self._inputs, inputs, strict=True):
            value.update_inplace(array)


@cache
def _timings() -> tempfile.TemporaryDirectory[str]:
    """A folder for what TensorRT has timed, which its builds in this process share; removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="lgc-tensorrt-")
