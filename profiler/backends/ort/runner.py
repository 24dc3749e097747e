"""Runner of an ONNX Runtime session, with its inputs and outputs bound to fixed buffers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import MeasurementError
from ....lut.target import Target
from ..base import IMAGE_DTYPE, Workload, warm_up
from ..error_translation import translate_ort_errors
from .layers import SessionLayerTimer
from .loader import CPU_PROVIDER
from .session import get_numpy_dtype, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_LAYERS_ON_GPU = "ONNX Runtime does not report layer times on a GPU: its profile holds the times of kernel launches"


class OnnxRuntimeRunner:
    """Runner of a session whose inputs and outputs are bound to fixed buffers, as a CUDA graph requires.

    On a GPU the first run captures the graph, after the regular runs that ONNX Runtime requires before it; later runs
    replay it. All runs must come from one thread.
    """

    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        workload: Workload,
        model: bytes,
        target: Target,
        provider: str,
        settings: dict[str, str],
        profile: Path | None = None,
    ) -> None:
        """Open the session and bind its buffers.

        Args:
            workload: source of the name and the input shapes.
            model: ONNX model of the workload, possibly converted.
            target: device and threads.
            provider: execution provider of all nodes.
            settings: options of the provider.
            profile: folder for the runtime's profile and its optimised graph; None to run without the profiler.

        Raises:
            BackendUnavailableError: the provider does not load.
            MeasurementError: ONNX Runtime rejects the model, or memory is short.
        """
        self._workload, self._device, self._on_gpu = workload, target.device, provider != CPU_PROVIDER
        self._arguments = (workload, model, target, provider, settings)
        self._session = open_session(workload.name, model, provider, settings, target.threads, profile)
        inputs = workload.inputs()
        with self._translate_errors():
            self._bind(inputs, ("cuda", target.device.ordinal) if self._on_gpu else ("cpu", 0))

    def _bind(self, inputs: Sequence[NDArray[Any]], device: tuple[str, int]) -> None:
        """Allocate inputs and outputs on a device and bind them to the session."""
        import onnxruntime

        value = onnxruntime.OrtValue
        self._inputs = [value.ortvalue_from_numpy(array, *device) for array in inputs]
        self._outputs, self._binding = [], self._session.io_binding()
        for argument, buffer in zip(self._session.get_inputs(), self._inputs, strict=True):
            self._binding.bind_ortvalue_input(argument.name, buffer)
        for output in self._session.get_outputs():
            dtype = get_numpy_dtype(output.type)
            self._outputs.append(value.ortvalue_from_shape_and_type(output.shape, dtype, *device))
            self._binding.bind_ortvalue_output(output.name, self._outputs[-1])

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        inputs = self._workload.inputs()
        with self._translate_errors():
            self._fill(inputs)
        warm_up(self, self._device)

    def run(self, repeats: int) -> list[float]:
        """Time runs of the session by the host's clock.

        A run returns when the device has finished, also after a replay of a CUDA graph. Only the run option
        `disable_synchronize_execution_providers` would change that, and it is not set. On a GPU each run of images
        includes the copies of the inputs to the device and of the results back.
        """
        run_once, durations = self._run_once, []
        with self._translate_errors():
            for _ in range(repeats):
                start = time.perf_counter_ns()
                run_once()
                durations.append((time.perf_counter_ns() - start) / 1e6)
        return durations

    def run_untimed(self, repeats: int) -> None:
        """Run the session `repeats` times; ONNX Runtime waits for each run."""
        run_once = self._run_once
        with self._translate_errors():
            for _ in range(repeats):
                run_once()

    @property
    def _run_once(self) -> Callable[[], object]:
        """Timed function: the session's own method over the bound buffers, or a run with its copies."""
        if self._on_gpu and self._workload.dtype == IMAGE_DTYPE:
            return self._run_with_copies
        return partial(self._session.run_with_iobinding, self._binding)

    def _run_with_copies(self) -> None:
        self._fill(self._images)
        self._session.run_with_iobinding(self._binding)
        for value in self._outputs:
            value.numpy()

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return copies of the outputs in host memory. The inputs keep these values."""
        import numpy as np

        with self._translate_errors():
            self._fill(inputs)
            self._session.run_with_iobinding(self._binding)
            return [np.array(value.numpy()) for value in self._outputs]

    @contextmanager
    def time_layers(self) -> Iterator[SessionLayerTimer]:
        """Yield a timer of the optimised graph's nodes, by ONNX Runtime's profiler in a second session.

        Raises:
            MeasurementError: the session is on a GPU, or ONNX Runtime fails.
        """
        if self._on_gpu:
            raise MeasurementError(NO_LAYERS_ON_GPU)
        with tempfile.TemporaryDirectory(prefix="lgc-layers-") as folder:
            profiled = OnnxRuntimeRunner(*self._arguments, profile=Path(folder))
            try:
                model, end = self._arguments[1], profiled._session.end_profiling
                yield SessionLayerTimer(model, Path(folder), profiled.run_untimed, end)
            finally:
                profiled.close()

    def close(self) -> None:
        """Drop session and buffers."""
        del self._binding, self._inputs, self._outputs, self._session

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_ort_errors(on_gpu=self._on_gpu)

    @cached_property
    def _images(self) -> list[NDArray[Any]]:
        return self._workload.inputs()

    def _fill(self, inputs: Sequence[NDArray[Any]]) -> None:
        for value, array in zip(self._inputs, inputs, strict=True):
            value.update_inplace(array)
