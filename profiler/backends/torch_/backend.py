"""Backend `torch`: modules run by torch itself, eagerly on a CPU, as CUDA graphs on a GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....device import CPU, Device
from ....errors import MeasurementError
from ....lut.target import Target
from ...machine.devices import cuda_missing, torch_threads
from ..base import PIXELS, LayerTime, Runner, Workload, warm_up
from ..cuda.graph import CudaGraph
from ..error_translation import torch_failures

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision -> torch's data type, by name."""


class TorchBackend:
    """torch as it runs a module: kernel by kernel on a CPU, as one CUDA graph in channels_last format on a GPU.

    The graph is what `torch` means on a GPU for operators, networks and exports alike. Such networks are deployed so:
    their shapes are static, and launching their kernels one by one often takes the host longer than it takes the
    device to run them. An operator under 50 us would be timed at the host's pace. A module that cannot be captured is
    refused, never run in another way. TF32 is off, so that fp32 means fp32.
    """

    name = "torch"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """fp32, fp16 and bf16, on every device."""
        return tuple(DTYPES)

    def unavailable(self, device: Device) -> str | None:
        """None on a CPU or a CUDA device that torch sees, else the reason."""
        return None if device.is_cpu else cuda_missing(device)

    def versions(self) -> dict[str, str]:
        """Version of torch, and of CUDA and cuDNN where it has them."""
        import torch

        versions = {"torch": str(torch.__version__)}
        if torch.version.cuda:
            versions["cuda"] = str(torch.version.cuda)
            versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        return versions

    def settings(self, target: Target) -> dict[str, str]:
        """How modules are run and timed: eagerly with so many threads, or as a CUDA graph."""
        if target.device.is_cpu:
            return {"mode": "eager", "threads": str(target.threads), "clock": "host clock"}
        return {
            "mode": "CUDA graph",
            "memory_format": "channels_last",
            "tf32": "off",
            "cudnn_benchmark": "off",
            "clock": "CUDA events",
            "host_memory": "pinned",
        }

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Move the module to the device in the target's precision, and on a GPU capture it.

        Raises:
            MeasurementError: the module cannot be captured as a CUDA graph, TF32 stays on, or there is too little
                memory.
        """
        import torch

        if target.device.is_cpu:
            return TorchRunner(workload, target.precision, target.threads)
        torch.backends.cudnn.benchmark = False  # algorithms by cuDNN's heuristic, the same in a probe as in a network
        if forbid_tf32() and target.precision == "fp32":
            raise MeasurementError(
                "torch keeps TF32 on, so fp32 would not be fp32; is TORCH_ALLOW_TF32_CUBLAS_OVERRIDE set?"
            )
        return GraphRunner(workload, target.precision, torch.device(target.device))


def forbid_tf32() -> bool:
    """Turn TF32 off in torch's convolutions and matrix products; return whether torch reports it on all the same.

    Never through `allow_tf32`, which torch refuses to read, as `torch.backends.cudnn.flags` does, once `fp32_precision`
    is set.
    """
    import torch

    cudnn: Any = torch.backends.cudnn  # the stub lacks what is asked of it
    torch.set_float32_matmul_precision(
        "highest"
    )  # sets `matmul.fp32_precision` and what cuBLAS's kernels compare it to
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    return "tf32" in (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)


class TorchRunner:
    """A module on the CPU; see `Runner` for the contract."""

    remarks: tuple[str, ...] = ()

    def __init__(self, workload: Workload, precision: str, threads: int) -> None:
        self._threads, self._dtype = threads, _dtype(precision)
        module, inputs = workload.module(), workload.inputs()
        with torch_failures(on_gpu=False):
            self._module = module.to(self._dtype)
            self._inputs = self._place(inputs)

    def prepare(self) -> None:
        """Run until warm."""
        warm_up(self, CPU)

    @torch_failures(on_gpu=False)
    def run(self, repeats: int) -> list[float]:
        """Time forward passes with the host's clock."""
        import torch

        durations = []
        with torch.inference_mode(), torch_threads(self._threads):
            for _ in range(repeats):
                start = time.perf_counter_ns()
                self._module(*self._inputs)
                durations.append((time.perf_counter_ns() - start) / 1e6)
        return durations

    @torch_failures(on_gpu=False)
    def run_untimed(self, repeats: int) -> None:
        """Run forward passes back to back."""
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            for _ in range(repeats):
                self._module(*self._inputs)

    @torch_failures(on_gpu=False)
    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs; floating-point ones as float32."""
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            return _to_host(self._module(*self._place(inputs)))

    def layer_times(self, runs: int) -> list[LayerTime]:
        """Nothing: torch runs modules, whose kernels are not told apart here."""
        raise MeasurementError("backend torch times no layers: take onnxruntime or tensorrt")

    def close(self) -> None:
        """Drop module and inputs."""
        del self._module, self._inputs

    def _place(self, inputs: Sequence[NDArray[Any]]) -> list[torch.Tensor]:
        import torch

        tensors = (torch.from_numpy(array) for array in inputs)
        return [tensor.to(self._dtype) if tensor.is_floating_point() else tensor for tensor in tensors]


class GraphRunner:
    """A module on a CUDA device, captured as a CUDA graph over inputs that stay in place; see `Runner`.

    Of images on the host, the copies to the device and of the result back are parts of the graph.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, workload: Workload, precision: str, device: torch.device) -> None:
        self._device, self._workload = device, workload
        module = workload.module()
        with torch_failures(on_gpu=True):
            self._place(module, _dtype(precision))  # what lies in the inputs is of no matter until `prepare`
            self._graph = CudaGraph(self._there_and_back if workload.dtype == PIXELS else self._on_device, device)

    def _place(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        """Bring the module to the device, and make room for the inputs, for images on the host."""
        import torch

        moved = module.to(self._device, dtype)
        self._module = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
        shapes = self._workload.input_shapes
        if self._workload.dtype == PIXELS:
            self._inputs = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for shape in shapes]
        else:
            self._inputs = [_empty(shape, dtype, self._device) for shape in shapes]

    def _on_device(self) -> Any:
        return self._module(*self._inputs)

    def _there_and_back(self) -> torch.Tensor:
        """From images on the host to the result on the host, both in pinned memory, so that no copy waits."""
        import torch

        result = self._module(*(host.to(self._device, non_blocking=True) for host in self._inputs))
        if not hasattr(self, "_result"):  # in the first of the runs before the capture, which allocates nothing new
            self._result = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        return self._result.copy_(result, non_blocking=True)

    def prepare(self) -> None:
        """Fill the inputs with random values and run until warm."""
        inputs = self._workload.inputs()
        with torch_failures(on_gpu=True):
            self._fill(inputs)
        warm_up(self, Device(str(self._device)))

    @torch_failures(on_gpu=True)
    def run(self, repeats: int) -> list[float]:
        """Time replays of the graph with CUDA events; inputs and outputs stay on the device."""
        return self._graph.time(repeats)

    @torch_failures(on_gpu=True)
    def run_untimed(self, repeats: int) -> None:
        """Replay the graph back to back, and wait once."""
        self._graph.replay_batch(repeats)

    @torch_failures(on_gpu=True)
    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs of a replay, on the host; floating-point ones as float32. The inputs stay what they are given."""
        import torch

        with torch.inference_mode():
            self._fill(inputs)
            self._graph.replay()
            self._graph.wait()  # a result in host memory is not waited for by reading it
            return _to_host(self._graph.result)

    def layer_times(self, runs: int) -> list[LayerTime]:
        """Nothing: torch runs modules, whose kernels are not told apart here."""
        raise MeasurementError("backend torch times no layers: take onnxruntime or tensorrt")

    @torch_failures(on_gpu=True)
    def close(self) -> None:
        """Drop graph, inputs and module."""
        self._graph.close()
        del self._graph, self._inputs, self._module

    def _fill(self, inputs: Sequence[NDArray[Any]]) -> None:
        import torch

        for tensor, array in zip(self._inputs, inputs, strict=True):
            tensor.copy_(torch.from_numpy(array))


def _dtype(precision: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[precision])
    return dtype


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory for an input; an image lies channels_last, as convolutions in that format read it."""
    import torch

    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)


def _to_host(result: torch.Tensor | tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
    """Copies of the outputs on the host, contiguous; floating-point ones as float32."""
    outs = result if isinstance(result, tuple) else (result,)
    return [(out.float() if out.is_floating_point() else out).contiguous().cpu().numpy() for out in outs]
