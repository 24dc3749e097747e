"""Running and timing a TensorRT engine on a CUDA device, by pycuda: own buffers, own stream, one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendUnavailableError, MeasurementError
from .base import PIXELS, LayerTime, random_inputs, warm_up
from .cuda_driver import StreamGraph
from .cuda_graph import WARM_UPS
from .cuda_place import Buffer, CudaPlace, free_all
from .trt_engine import Engine
from .trt_layer_times import LayerClock, layer_report
from .trt_loader import RTX, Library
from .trt_log import get_log

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

    def __init__(self, library: Library, engine: Engine, device: str) -> None:
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
        self._reserved: list[Any] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._graph: StreamGraph | None = None
        self._log.clear()
        self._place = CudaPlace(device)
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
        return all(buffer.host.dtype == PIXELS for buffer in self._inputs)

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        dtype = PIXELS if self.copies else "float32"
        self.infer(random_inputs([buffer.host.shape for buffer in self._inputs], dtype))
        warm_up(self, on_gpu=True)

    def run(self, repeats: int) -> list[float]:
        """Launch the graph `repeats` times back to back; the duration of each in milliseconds, by CUDA events."""
        with self._place.current():
            return self._place.time(self._captured.launch, repeats)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs for `inputs`, both in the model's order, from the graph that `run` times; the inputs stay.

        Raises:
            MeasurementError: a wrong number of inputs, or one of the wrong shape or type.
        """
        self._check(inputs)
        with self._place.current():
            for buffer, array in zip(self._inputs, inputs, strict=True):
                np.copyto(buffer.host, array, casting="same_kind")
                if not self.copies:
                    self._place.send(buffer)
            self._captured.launch()
            for buffer in () if self.copies else self._outputs:
                self._place.fetch(buffer)
            self._place.wait()
        return [buffer.host.copy() for buffer in self._outputs]

    def layer_times(self, runs: int = LAYER_RUNS) -> list[LayerTime]:
        """Median duration of each layer, in the order they run in, without the CUDA graph and without copies.

        TensorRT waits after each layer to take its time, so the sum is above what `run` gives. A context of its own is
        made for it, with memory of its own: the graph's has to stay as it was captured.

        Raises:
            MeasurementError: the engine fails, or there is too little memory for another context.
        """
        clock, before = LayerClock(self._library.module), len(self._reserved)
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
            free_all(buffers)
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
        """Allocate every input and output on both sides."""
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind = self._engine.get_tensor_dtype(name).name
            if kind not in DTYPES:
                raise MeasurementError(f"{name} is {kind}, which numpy lacks: export the model with float32 there")
            buffer = self._place.allocate(name, tuple(self._engine.get_tensor_shape(name)), DTYPES[kind])
            given = self._engine.get_tensor_mode(name) == self._library.module.TensorIOMode.INPUT
            (self._inputs if given else self._outputs).append(buffer)

    def _new_context(self) -> Any:
        """A context of the engine that knows where the buffers lie.

        TensorRT-RTX's engines are built to have the memory of their intermediate results from the user, without which
        it may allocate while it runs, which no CUDA graph takes; full TensorRT allocates it with the context.
        """
        own = self._library.flavour == RTX
        strategies = [self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED] if own else []
        context = self._engine.create_execution_context(*strategies)
        if context is None:
            raise self._log.failure(f"{self._library} makes no context on {self._place.name}")
        if own:
            size = max(self._engine.device_memory_size_v2, 1)
            self._reserved.append(self._place.reserve(size))
            context.set_device_memory(int(self._reserved[-1]), size)
        for buffer in (*self._inputs, *self._outputs):
            if not context.set_tensor_address(buffer.name, int(buffer.device)):
                raise self._log.failure(f"{self._library} refuses the buffer of {buffer.name}")
        return context

    def _release(self, first: int) -> None:
        """Free the memory of contexts that are gone, from the `first` one on."""
        gone, self._reserved = self._reserved[first:], self._reserved[:first]
        free_all(gone)

    def _enqueue(self) -> None:
        """Queue what is timed: one run of the engine, and in scope end-to-end the copies there and back."""
        for buffer in self._inputs if self.copies else ():
            self._place.send(buffer)
        self._execute(self._context)
        for buffer in self._outputs if self.copies else ():
            self._place.fetch(buffer)

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._place.stream):
            raise self._log.failure(f"{self._library} failed to run the engine")

    def _check(self, inputs: Sequence[NDArray[Any]]) -> None:
        wanted = [buffer.host for buffer in self._inputs]
        fits = len(inputs) == len(wanted) and all(
            array.shape == own.shape and np.can_cast(array.dtype, own.dtype, "same_kind")
            for array, own in zip(inputs, wanted, strict=True)
        )
        if not fits:
            raise MeasurementError(f"the engine takes {_told(wanted)}, not {_told(inputs)}")


def _told(arrays: Sequence[NDArray[Any]]) -> str:
    """What arrays there are, as `float32 1x3x64x128`."""
    return ", ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in arrays) or "nothing"
