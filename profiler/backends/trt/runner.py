"""Running and timing a TensorRT engine on a CUDA device, by pycuda: own buffers, own stream, one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....device import Device
from ....errors import BackendUnavailableError, MeasurementError
from ..base import PIXELS, LayerTime, random_inputs, warm_up
from ..cuda.device import Buffer, CudaDevice
from ..cuda.driver import StreamGraph
from ..cuda.graph import WARM_UPS
from .engine import Engine
from .layer_times import LayerClock, layer_report
from .loader import Library
from .log import get_log

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's data types -> numpy's, by name, as far as numpy has them."""

LAYER_RUNS = 20


class EngineRunner:
    """An engine on one CUDA device, as a CUDA graph over buffers of its own. A `Runner`; not for several threads.

    Where all inputs are images (uint8), the graph begins with their copies from page-locked memory of the host and
    ends with those of the outputs back: scope end-to-end. Else inputs and outputs are tensors that lie on the device.
    """

    def __init__(self, library: Library, engine: Engine, device: Device) -> None:
        """Load `engine` into `library`'s runtime on `device`, say `cuda:0`, and capture it.

        Raises:
            BackendUnavailableError: the engine was built by the other flavour of TensorRT.
            MeasurementError: the runtime refuses the engine, say since it was built for another device; the engine
                cannot be captured; or the device has too little memory.
        """
        if engine.flavour != library.flavour:
            raise BackendUnavailableError(f"an engine of {engine.flavour} does not run in {library}; build it anew")
        self.engine, self.remarks = engine, engine.remarks
        self._library, self._log = library, get_log(library)
        self._inputs: list[Buffer] = []
        self._outputs: list[Buffer] = []
        self._scratch: list[Any] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._graph: StreamGraph | None = None
        self._log.clear()
        self._place = CudaDevice(device)
        try:
            with self._place.current():
                self._load(engine.data)
                self._allocate()
                self._context = self._new_context()
                for _ in range(WARM_UPS):
                    self._enqueue()
                self._place.wait()
                self._graph = self._place.capture(self._enqueue)
        except BaseException:
            with suppress(MeasurementError):  # what comes of a device that has failed must not hide why it did
                self.close()
            raise

    @property
    def copies(self) -> bool:
        """Whether the ways from the host and back are parts of what is timed."""
        return all(buffer.dtype == PIXELS for buffer in self._inputs)

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        dtype = PIXELS if self.copies else "float32"
        self.infer(random_inputs([buffer.shape for buffer in self._inputs], dtype))
        warm_up(self, self._place.name)

    def run(self, repeats: int) -> list[float]:
        """Launch the graph `repeats` times back to back; the duration of each in milliseconds, by CUDA events."""
        with self._place.current():
            return self._place.time(self._captured.launch, repeats)

    def run_untimed(self, repeats: int) -> None:
        """Launch the graph `repeats` times back to back, and wait once."""
        with self._place.current():
            for _ in range(repeats):
                self._captured.launch()
            self._place.wait()

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs for `inputs`, both in the model's order, from the graph that `run` times; the inputs stay.

        Raises:
            MeasurementError: a wrong number of inputs, or one of the wrong shape or type.
        """
        self._check(inputs)
        with self._place.current():
            # arrays of the buffers' types live until the wait; page-locked ones are copied by the graph itself
            sources = [
                np.ascontiguousarray(array, buffer.dtype) for buffer, array in zip(self._inputs, inputs, strict=True)
            ]
            hosts = [
                np.empty(buffer.shape, buffer.dtype) if buffer.host is None else buffer.host for buffer in self._outputs
            ]
            for buffer, array in zip(self._inputs, sources, strict=True):
                if buffer.host is None:
                    self._place.send(buffer, array)
                else:
                    np.copyto(buffer.host, array)
            self._captured.launch()
            for buffer, host in zip(self._outputs, hosts, strict=True):
                if buffer.host is None:
                    self._place.fetch(buffer, host)
            self._place.wait()
        return [host.copy() for host in hosts]

    def layer_times(self, runs: int = LAYER_RUNS) -> list[LayerTime]:
        """Median duration of each layer, in the order they run in, without the CUDA graph and without copies.

        TensorRT waits after each layer to take its time, so the sum is above what `run` gives. A context of its own is
        made for it: the graph's has to stay as it was captured.

        Raises:
            MeasurementError: the engine fails, or there is too little memory for another context.
        """
        clock, before = LayerClock(self._library.module), len(self._scratch)
        with self._place.current():
            context = None
            try:
                context = self._new_context()
                self._time_layers(context, clock, runs)
                report = layer_report(self._library, self._engine)
            finally:
                del context
                self._release(before)
        return clock.medians(report)

    def _time_layers(self, context: Any, clock: LayerClock, runs: int) -> None:
        self._execute(context)
        self._place.wait()
        context.enqueue_emits_profile = True
        context.profiler = clock.profiler
        for _ in range(runs):
            clock.begin()
            self._execute(context)
            self._place.wait()

    def close(self) -> None:
        """Free the graph, the context, its memory, the engine and the buffers; more than once does no harm."""
        with self._place.current():
            if self._graph is not None:
                self._graph.close()
            self._graph = self._context = None
            self._release(0)
            self._engine = self._runtime = None
            buffers, self._inputs, self._outputs = [*self._inputs, *self._outputs], [], []
            for buffer in buffers:
                buffer.free()
            buffers.clear()
            self._place.close()

    @property
    def _captured(self) -> StreamGraph:
        if self._graph is None:
            raise MeasurementError("this engine was closed: compile the workload anew")
        return self._graph

    def _load(self, data: bytes) -> None:
        self._runtime = self._library.module.Runtime(self._log.logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self._log.failure(f"{self._library} refuses the engine on {self._place.name}")

    def _allocate(self) -> None:
        """Allocate every input and output; on the host too where the graph holds the copies."""
        tensors = [self._tensor(index) for index in range(self._engine.num_io_tensors)]
        pinned = all(dtype == PIXELS for _, _, dtype, given in tensors if given)
        for name, shape, dtype, given in tensors:
            buffer = self._place.allocate(name, shape, dtype, pinned=pinned)
            (self._inputs if given else self._outputs).append(buffer)

    def _tensor(self, index: int) -> tuple[str, tuple[int, ...], str, bool]:
        """Return name, shape, numpy's type and whether it is an input, of an input or output of the engine."""
        name = self._engine.get_tensor_name(index)
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise MeasurementError(f"{name} is {kind}, which numpy lacks: export the model with float32 there")
        given = self._engine.get_tensor_mode(name) == self._library.module.TensorIOMode.INPUT
        return name, tuple(self._engine.get_tensor_shape(name)), DTYPES[kind], given

    def _new_context(self) -> Any:
        """Return a context of the engine that knows where the buffers lie.

        The memory of its intermediate results is the device's shared block: a preset's engines side by side would fill
        gigabytes. TensorRT-RTX's engines are built for that, and may allocate while they run without it, which no CUDA
        graph takes.
        """
        strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self._log.failure(f"{self._library} makes no context on {self._place.name}")
        size = max(self._engine.device_memory_size_v2, 1)
        self._scratch.append(self._place.take_scratch(size))
        context.set_device_memory(int(self._scratch[-1]), size)
        for buffer in (*self._inputs, *self._outputs):
            if not context.set_tensor_address(buffer.name, int(buffer.device)):
                raise self._log.failure(f"{self._library} refuses the buffer of {buffer.name}")
        return context

    def _release(self, first: int) -> None:
        """Give back the memory of contexts that are gone, from the `first` one on."""
        gone, self._scratch = self._scratch[first:], self._scratch[:first]
        for memory in gone:
            self._place.give_back_scratch(memory)

    def _enqueue(self) -> None:
        """Queue what is timed: one run of the engine, and in scope end-to-end the copies there and back."""
        for buffer in self._inputs:
            if buffer.host is not None:
                self._place.send(buffer, buffer.host)
        self._execute(self._context)
        for buffer in self._outputs:
            if buffer.host is not None:
                self._place.fetch(buffer, buffer.host)

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._place.stream):
            raise self._log.failure(f"{self._library} failed to run the engine")

    def _check(self, inputs: Sequence[NDArray[Any]]) -> None:
        fits = len(inputs) == len(self._inputs) and all(
            array.shape == buffer.shape and np.can_cast(array.dtype, buffer.dtype, "same_kind")
            for array, buffer in zip(inputs, self._inputs, strict=True)
        )
        if not fits:
            raise MeasurementError(f"the engine takes {_describe(self._inputs)}, not {_describe(inputs)}")


def _describe(arrays: Sequence[NDArray[Any] | Buffer]) -> str:
    """Return types and shapes, as `float32 1x3x64x128`."""
    return ", ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in arrays) or "nothing"
