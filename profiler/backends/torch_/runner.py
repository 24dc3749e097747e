"""Runners of torch modules: eager on a CPU, a CUDA graph on a GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ....device import CPU, Device
from ....errors import MeasurementError
from ...machine.devices import torch_threads
from ..base import IMAGE_DTYPE, Workload, warm_up
from ..cuda.graph import CudaGraph
from ..error_translation import translate_torch_errors

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision -> torch's data type, by name."""
NO_LAYERS = "backend torch does not report layer times: use onnxruntime or tensorrt"


class EagerRunner:
    """Runner of a module on the CPU, kernel by kernel."""

    remarks: tuple[str, ...] = ()

    def __init__(self, workload: Workload, precision: str, threads: int) -> None:
        self._threads, self._dtype = threads, _get_dtype(precision)
        module, inputs = workload.module(), workload.inputs()
        with translate_torch_errors(on_gpu=False):
            self._module = module.to(self._dtype)
            self._inputs = self._to_tensors(inputs)

    def prepare(self) -> None:
        """Run until warm."""
        warm_up(self, CPU)

    @translate_torch_errors(on_gpu=False)
    def run(self, repeats: int) -> list[float]:
        """Time forward passes by the host's clock."""
        import torch

        durations = []
        with torch.inference_mode(), torch_threads(self._threads):
            for _ in range(repeats):
                start = time.perf_counter_ns()
                self._module(*self._inputs)
                durations.append((time.perf_counter_ns() - start) / 1e6)
        return durations

    @translate_torch_errors(on_gpu=False)
    def run_untimed(self, repeats: int) -> None:
        """Run forward passes back to back."""
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            for _ in range(repeats):
                self._module(*self._inputs)

    @translate_torch_errors(on_gpu=False)
    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs; floating-point ones as float32."""
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            return _copy_to_host(self._module(*self._to_tensors(inputs)))

    def time_layers(self) -> NoReturn:
        """Raise an error: the backend does not attribute kernels to layers."""
        raise MeasurementError(NO_LAYERS)

    def close(self) -> None:
        """Drop module and inputs."""
        del self._module, self._inputs

    def _to_tensors(self, inputs: Sequence[NDArray[Any]]) -> list[torch.Tensor]:
        import torch

        tensors = (torch.from_numpy(array) for array in inputs)
        return [tensor.to(self._dtype) if tensor.is_floating_point() else tensor for tensor in tensors]


class CudaGraphRunner:
    """Runner of a module on a CUDA device, captured as a CUDA graph over inputs at fixed addresses.

    For images in host memory, the graph includes the copies of the inputs to the device and of the result back.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, workload: Workload, precision: str, device: torch.device) -> None:
        self._device, self._workload = device, workload
        module = workload.module()
        with translate_torch_errors(on_gpu=True):
            self._move_to_device(module, _get_dtype(precision))
            work = self._run_with_copies if workload.dtype == IMAGE_DTYPE else self._run_on_device
            self._graph = CudaGraph(work, device)  # `prepare` fills the inputs

    def _move_to_device(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        """Move the module to the device and allocate the inputs: images in host memory, tensors in device memory."""
        import torch

        moved = module.to(self._device, dtype)
        self._module = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
        shapes = self._workload.input_shapes
        if self._workload.dtype == IMAGE_DTYPE:
            self._inputs = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for shape in shapes]
        else:
            self._inputs = [_allocate_input(shape, dtype, self._device) for shape in shapes]

    def _run_on_device(self) -> Any:
        return self._module(*self._inputs)

    def _run_with_copies(self) -> torch.Tensor:
        """Return the result in host memory for images in host memory, both pinned, so that no copy blocks."""
        import torch

        result = self._module(*(host.to(self._device, non_blocking=True) for host in self._inputs))
        if not hasattr(self, "_result"):  # in the first warm-up run: the capture must not allocate pinned memory
            self._result = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        return self._result.copy_(result, non_blocking=True)

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        inputs = self._workload.inputs()
        with translate_torch_errors(on_gpu=True):
            self._fill(inputs)
        warm_up(self, Device(str(self._device)))

    @translate_torch_errors(on_gpu=True)
    def run(self, repeats: int) -> list[float]:
        """Time replays of the graph with CUDA events; inputs and outputs stay on the device."""
        return self._graph.time(repeats)

    @translate_torch_errors(on_gpu=True)
    def run_untimed(self, repeats: int) -> None:
        """Replay the graph back to back and synchronise once."""
        self._graph.replay_batch(repeats)

    @translate_torch_errors(on_gpu=True)
    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs of a replay in host memory; floating-point ones as float32.

        The graph's inputs keep these values.
        """
        import torch

        with torch.inference_mode():
            self._fill(inputs)
            self._graph.replay()
            self._graph.synchronize()  # reading a result in host memory does not wait for it
            return _copy_to_host(self._graph.result)

    def time_layers(self) -> NoReturn:
        """Raise an error: the backend does not attribute kernels to layers."""
        raise MeasurementError(NO_LAYERS)

    @translate_torch_errors(on_gpu=True)
    def close(self) -> None:
        """Drop graph, inputs and module."""
        self._graph.close()
        del self._graph, self._inputs, self._module

    def _fill(self, inputs: Sequence[NDArray[Any]]) -> None:
        import torch

        for tensor, array in zip(self._inputs, inputs, strict=True):
            tensor.copy_(torch.from_numpy(array))


def _get_dtype(precision: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_DTYPES[precision])
    return dtype


def _allocate_input(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return memory for an input; 4-d inputs are channels_last, as convolutions in that format read them."""
    import torch

    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)


def _copy_to_host(result: torch.Tensor | tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
    """Return contiguous copies of the outputs in host memory; floating-point ones as float32."""
    outputs = result if isinstance(result, tuple) else (result,)
    return [(out.float() if out.is_floating_point() else out).contiguous().cpu().numpy() for out in outputs]
