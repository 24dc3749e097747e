"""Runner of an ONNX Runtime session, with its inputs and outputs bound to fixed buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ....errors import MeasurementError
from ....lut.target import Target
from ..base import IMAGE_DTYPE, LayerTime, Workload, warm_up
from ..error_translation import translate_ort_errors
from .layers import measure_layers
from .loader import CPU_PROVIDER
from .session import get_numpy_dtype, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        self._workload, self._device, self._on_gpu = workload, target.device, provider != CPU_PROVIDER
        self._opened = (workload.name, model, provider, settings, target.threads)
        self._session = open_session(workload.name, model, provider, settings, target.threads)
        inputs = workload.inputs()
        with self._translate_errors():
            self._bind(inputs, ("cuda", int(target.device.partition(":")[2])) if self._on_gpu else ("cpu", 0))

    def _bind(self, inputs: Sequence[NDArray[Any]], place: tuple[str, int]) -> None:
        """Allocate inputs and outputs on a device, and tell the session."""
        import onnxruntime

        value = onnxruntime.OrtValue
        self._inputs = [value.ortvalue_from_numpy(array, *place) for array in inputs]
        self._outputs, self._binding = [], self._session.io_binding()
        for argument, given in zip(self._session.get_inputs(), self._inputs, strict=True):
            self._binding.bind_ortvalue_input(argument.name, given)
        for output in self._session.get_outputs():
            self._outputs.append(value.ortvalue_from_shape_and_type(output.shape, get_numpy_dtype(output.type), *place))
            self._binding.bind_ortvalue_output(output.name, self._outputs[-1])

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        inputs = self._workload.inputs()
        with self._translate_errors():
            self._fill(inputs)
        warm_up(self, self._device)

    def run(self, repeats: int) -> list[float]:
        """Time runs of the session with the host's clock.

        A run returns when the device is done, replays of CUDA graphs included; only the run option
        `disable_synchronize_execution_providers`, which is not set, would change that. On a GPU, images are copied
        there and results back in every run.
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
        """What is timed: a run over the bound buffers with nothing of ours around it, or one with its copies."""
        if self._on_gpu and self._workload.dtype == IMAGE_DTYPE:
            return self._run_with_copies
        return partial(self._session.run_with_iobinding, self._binding)

    def _run_with_copies(self) -> None:
        self._fill(self._images)
        self._session.run_with_iobinding(self._binding)
        for value in self._outputs:
            value.numpy()

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Copies of the outputs on the host; the inputs stay what they are given."""
        import numpy as np

        with self._translate_errors():
            self._fill(inputs)
            self._session.run_with_iobinding(self._binding)
            return [np.array(value.numpy()) for value in self._outputs]

    def measure_layers(self, runs: int) -> list[LayerTime]:
        """Times of the optimised graph's nodes, by ONNX Runtime's own profiler in a session beside this one.

        Raises:
            MeasurementError: on a GPU; or ONNX Runtime fails.
        """
        if self._on_gpu:
            raise MeasurementError("ONNX Runtime tells no layers' times on a GPU, only when they are launched")
        inputs = self._workload.inputs()
        with self._translate_errors():
            return measure_layers(*self._opened, inputs, runs)

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
