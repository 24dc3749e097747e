"""Runner of a TensorRT engine on a CUDA device through pycuda: own buffers, own stream, one CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....device import Device
from ....errors import BackendUnavailableError, MeasurementError
from ..base import IMAGE_DTYPE, generate_inputs, warm_up
from ..cuda.device import Buffer, CudaDevice
from ..cuda.driver import StreamGraph
from ..cuda.graph import NUM_WARM_UP_RUNS
from .engine import Engine
from .layers import EngineLayerTimer, read_layers
from .loader import Library
from .log import get_log

NUMPY_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""Name of a TensorRT data type -> numpy's name, for the types that numpy has."""


class EngineRunner:
    """Runner of an engine on one CUDA device, as a CUDA graph over its own buffers. Not thread-safe.

    If all inputs are images (uint8), the graph starts with their copies from page-locked host memory and ends with the
    copies of the outputs back: scope end-to-end. Else inputs and outputs are tensors in device memory.
    """

    def __init__(self, library: Library, engine: Engine, device: Device) -> None:
        """Load `engine` into `library`'s runtime on `device`, e.g. `cuda:0`, and capture it.

        Raises:
            BackendUnavailableError: the engine was built by the other flavour of TensorRT.
            MeasurementError: the runtime rejects the engine, e.g. one built for another device; the engine cannot be
                captured; or memory is short.
        """
        if engine.flavour != library.flavour:
            raise BackendUnavailableError(f"an engine of {engine.flavour} does not run in {library}: build it again")
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
        self._device = CudaDevice(device)
        try:
            with self._device.activate():
                self._load(engine.data)
                self._allocate()
                self._context = self._new_context()
                for _ in range(NUM_WARM_UP_RUNS):
                    self._enqueue()
                self._device.synchronize()
                self._graph = self._device.capture(self._enqueue)
        except BaseException:
            with suppress(MeasurementError):  # an error of closing must not hide the cause
                self.close()
            raise

    @property
    def has_copies(self) -> bool:
        """True if the timed graph includes the copies from and to host memory."""
        return all(buffer.dtype == IMAGE_DTYPE for buffer in self._inputs)

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        shapes, dtypes = [buffer.shape for buffer in self._inputs], [str(buffer.dtype) for buffer in self._inputs]
        self.infer(generate_inputs(shapes, dtypes))
        warm_up(self, self._device.name)

    def run(self, repeats: int) -> list[float]:
        """Launch the graph `repeats` times back to back and return each latency in ms, by CUDA events."""
        with self._device.activate():
            return self._device.time(self._open_graph.launch, repeats)

    def run_untimed(self, repeats: int) -> None:
        """Launch the graph `repeats` times back to back and synchronise once."""
        with self._device.activate():
            for _ in range(repeats):
                self._open_graph.launch()
            self._device.synchronize()

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for `inputs` from the graph that `run` times, both in the model's order.

        The graph's inputs keep these values.

        Raises:
            MeasurementError: the number, a shape or a type of the inputs is wrong.
        """
        self._check_inputs(inputs)
        with self._device.activate():
            # arrays of the buffers' types, alive until the synchronisation; the graph itself copies page-locked ones
            sources = [
                np.ascontiguousarray(array, buffer.dtype) for buffer, array in zip(self._inputs, inputs, strict=True)
            ]
            hosts = [
                np.empty(buffer.shape, buffer.dtype) if buffer.host is None else buffer.host for buffer in self._outputs
            ]
            for buffer, array in zip(self._inputs, sources, strict=True):
                if buffer.host is None:
                    self._device.copy_to_device(buffer, array)
                else:
                    np.copyto(buffer.host, array)
            self._open_graph.launch()
            for buffer, host in zip(self._outputs, hosts, strict=True):
                if buffer.host is None:
                    self._device.copy_to_host(buffer, host)
            self._device.synchronize()
        return [host.copy() for host in hosts]

    @contextmanager
    def time_layers(self) -> Iterator[EngineLayerTimer]:
        """Yield a timer of the layers, without the CUDA graph and without copies.

        TensorRT waits after each layer to time it, so the sum exceeds the latency of `run`. The measurement uses a
        second context: the graph's context must stay as it was captured.

        Raises:
            MeasurementError: the engine fails, or memory for another context is short.
        """
        num_blocks, context, timer = len(self._scratch), None, None
        try:
            with self._device.activate():
                context = self._new_context()
            self._execute_and_wait(context)
            layers = partial(read_layers, self._library, self._engine)
            timer = EngineLayerTimer(self._library.module, partial(self._execute_and_wait, context), layers)
            context.enqueue_emits_profile = True
            context.profiler = timer.profiler
            yield timer
        finally:
            with self._device.activate():
                if timer is not None:
                    timer.close()
                del context
                self._release(num_blocks)

    def _execute_and_wait(self, context: Any) -> None:
        with self._device.activate():
            self._execute(context)
            self._device.synchronize()

    def close(self) -> None:
        """Free the graph, the context, its memory, the engine and the buffers; idempotent."""
        with self._device.activate():
            if self._graph is not None:
                self._graph.close()
            self._graph = self._context = None
            self._release(0)
            self._engine = self._runtime = None
            buffers, self._inputs, self._outputs = [*self._inputs, *self._outputs], [], []
            for buffer in buffers:
                buffer.free()
            buffers.clear()
            self._device.close()

    @property
    def _open_graph(self) -> StreamGraph:
        if self._graph is None:
            raise MeasurementError("the runner is closed: compile the workload again")
        return self._graph

    def _load(self, data: bytes) -> None:
        self._runtime = self._library.module.Runtime(self._log.logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self._log.make_error(f"{self._library} rejects the engine on {self._device.name}")

    def _allocate(self) -> None:
        """Allocate all inputs and outputs; in host memory too if the graph includes the copies."""
        tensors = [self._tensor(index) for index in range(self._engine.num_io_tensors)]
        pinned = all(dtype == IMAGE_DTYPE for _, _, dtype, is_input in tensors if is_input)
        for name, shape, dtype, is_input in tensors:
            buffer = self._device.allocate(name, shape, dtype, pinned=pinned)
            (self._inputs if is_input else self._outputs).append(buffer)

    def _tensor(self, index: int) -> tuple[str, tuple[int, ...], str, bool]:
        """Return name, shape and numpy's type of an input or output of the engine, and True for an input."""
        name = self._engine.get_tensor_name(index)
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in NUMPY_DTYPES:
            raise MeasurementError(
                f"{name} has type {kind}, which numpy lacks: export the model with float32 inputs and outputs"
            )
        is_input = self._engine.get_tensor_mode(name) == self._library.module.TensorIOMode.INPUT
        return name, tuple(self._engine.get_tensor_shape(name)), NUMPY_DTYPES[kind], is_input

    def _new_context(self) -> Any:
        """Return a context of the engine with the addresses of the buffers.

        Its intermediate results are in the device's shared block: the engines of a preset would together fill
        gigabytes. TensorRT-RTX's engines are built for this. Without it they may allocate during a run, which a CUDA
        graph does not allow.
        """
        strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self._log.make_error(f"{self._library} cannot create a context on {self._device.name}")
        size = max(self._engine.device_memory_size_v2, 1)
        self._scratch.append(self._device.acquire_scratch(size))
        context.set_device_memory(int(self._scratch[-1]), size)
        for buffer in (*self._inputs, *self._outputs):
            if not context.set_tensor_address(buffer.name, int(buffer.device)):
                raise self._log.make_error(f"{self._library} rejects the buffer of {buffer.name}")
        return context

    def _release(self, first: int) -> None:
        """Release the scratch memory of deleted contexts, from index `first` onwards."""
        released, self._scratch = self._scratch[first:], self._scratch[:first]
        for memory in released:
            self._device.release_scratch(memory)

    def _enqueue(self) -> None:
        """Queue the timed work: a run of the engine and, in scope end-to-end, the copies before and after it."""
        for buffer in self._inputs:
            if buffer.host is not None:
                self._device.copy_to_device(buffer, buffer.host)
        self._execute(self._context)
        for buffer in self._outputs:
            if buffer.host is not None:
                self._device.copy_to_host(buffer, buffer.host)

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise self._log.make_error(f"{self._library} failed to run the engine")

    def _check_inputs(self, inputs: Sequence[NDArray[Any]]) -> None:
        fits = len(inputs) == len(self._inputs) and all(
            array.shape == buffer.shape and np.can_cast(array.dtype, buffer.dtype, "same_kind")
            for array, buffer in zip(inputs, self._inputs, strict=True)
        )
        if not fits:
            raise MeasurementError(
                f"the engine needs inputs {_describe_arrays(self._inputs)}, not {_describe_arrays(inputs)}"
            )


def _describe_arrays(arrays: Sequence[NDArray[Any] | Buffer]) -> str:
    """Return types and shapes, as `float32 1x3x64x128`."""
    return ", ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in arrays) or "nothing"
