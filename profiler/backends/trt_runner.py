"""Running and timing a TensorRT engine on a CUDA device; torch gives the memory, the stream and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendUnavailableError, MeasurementError
from .base import random_inputs, warm_up
from .cuda_graph import CudaGraph
from .trt_engine import Engine
from .trt_loader import Library
from .trt_log import get_log

if TYPE_CHECKING:
    import torch

TORCH_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's data types -> torch's, by name."""


class EngineRunner:
    """An engine on one CUDA device, as a CUDA graph over buffers of its own. A `Runner`; not for several threads."""

    def __init__(self, library: Library, engine: Engine, device: str) -> None:
        """Load `engine` into `library`'s runtime on `device`, say `cuda:0`, and capture it.

        Raises:
            BackendUnavailableError: the engine was built by the other flavour of TensorRT.
            MeasurementError: the runtime refuses the engine, say since it was built for another device; or the engine
                cannot be captured.
        """
        import torch

        if engine.flavour != library.flavour:
            raise BackendUnavailableError(f"an engine of {engine.flavour} does not run in {library}; build it anew")
        self._library, self._log = library, get_log(library)
        self._device = torch.device(device)
        self._inputs: dict[str, torch.Tensor] = {}
        self._outputs: dict[str, torch.Tensor] = {}
        self._log.clear()
        with torch.cuda.device(self._device):
            self._runtime = library.module.Runtime(self._log.logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine.data)
            if self._engine is None:
                raise MeasurementError(f"{library} refuses the engine on {device}: {self._log.why()}")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise MeasurementError(f"{library} makes no context on {device}: {self._log.why()}")
            self._bind()
        self._graph = CudaGraph(self._enqueue, self._device)

    def prepare(self) -> None:
        """Fill the inputs with normally distributed values and run until warm."""
        self._fill(random_inputs([tuple(tensor.shape) for tensor in self._inputs.values()]))
        warm_up(self, on_gpu=True)

    def run(self, repeats: int) -> list[float]:
        """Replay `repeats` times back to back; the duration of each in milliseconds, by CUDA events."""
        return self._graph.time(repeats)

    def infer(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.generic]]:
        """Outputs for `inputs`, both in the model's order; inputs are copied to the device and outputs back.

        Raises:
            MeasurementError: a wrong number of inputs, or one of the wrong shape.
        """
        given, wanted = [tuple(array.shape) for array in inputs], [tuple(t.shape) for t in self._inputs.values()]
        if given != wanted:
            raise MeasurementError(f"the engine takes inputs of shapes {wanted}, not {given}")
        self._fill(inputs)
        self._graph.replay()
        return [_to_numpy(tensor) for tensor in self._outputs.values()]

    def close(self) -> None:
        """Free the graph, the context, the engine and the buffers, in this order; more than once does no harm."""
        self._graph.close()
        self._context = self._engine = self._runtime = None
        self._inputs, self._outputs = {}, {}

    def _bind(self) -> None:
        """Allocate every input and output on the device and tell the context where it lies."""
        import torch

        modes = self._library.module.TensorIOMode
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = getattr(torch, TORCH_TYPES[self._engine.get_tensor_dtype(name).name])
            shape = tuple(self._engine.get_tensor_shape(name))
            tensor = torch.zeros(shape, dtype=dtype, device=self._device)
            side = self._inputs if self._engine.get_tensor_mode(name) == modes.INPUT else self._outputs
            side[name] = tensor
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise MeasurementError(f"{self._library} refuses the buffer of {name}: {self._log.why()}")

    def _enqueue(self) -> None:
        """Queue one run of the engine on torch's current stream."""
        import torch

        if not self._context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream):
            raise MeasurementError(f"{self._library} failed to run the engine: {self._log.why()}")

    def _fill(self, inputs: Sequence[NDArray[np.float32]]) -> None:
        """Copy `inputs` into the buffers, on torch's current stream, on which the graph is replayed too."""
        import torch

        for tensor, array in zip(self._inputs.values(), inputs, strict=True):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor on the host; numpy has no bfloat16, which becomes float32."""
    import torch

    host = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array: NDArray[Any] = host.cpu().numpy()
    return array
