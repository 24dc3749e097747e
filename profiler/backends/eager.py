"""Backend `torch`: modules run eagerly by torch, on a CPU or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import MeasurementError
from ...lut.target import Target
from ..devices import cuda_missing, torch_threads
from .base import Workload, random_inputs, warm_up

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class TorchBackend:
    """torch as it runs a module, kernel by kernel; TF32 is off, so that fp32 means fp32."""

    name = "torch"
    precisions = ("fp32", "fp16", "bf16")

    def unavailable(self, device: str) -> str | None:
        """None on a CPU or a CUDA device that torch sees, else the reason."""
        return None if device == "cpu" else cuda_missing(device)

    def versions(self) -> dict[str, str]:
        """Version of torch, and of CUDA and cuDNN where it has them."""
        import torch

        versions = {"torch": str(torch.__version__)}
        if torch.version.cuda:
            versions["cuda"] = str(torch.version.cuda)
            versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        return versions

    def compile(self, workload: Workload, target: Target) -> TorchRunner:
        """Move the module to the device in the target's precision."""
        return TorchRunner(workload, target)


class TorchRunner:
    """A module on a device; see `Runner` for the contract."""

    def __init__(self, workload: Workload, target: Target) -> None:
        import torch

        self._threads = target.threads
        self._device = torch.device(target.device)
        self._dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[target.precision]
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._module = workload.build().to(self._device, self._dtype)
        self._inputs = [self._place(x) for x in random_inputs(workload.input_shapes)]

    def prepare(self) -> None:
        """Run until warm."""
        try:
            warm_up(self, on_gpu=self._device.type == "cuda")
        except RuntimeError as error:
            raise MeasurementError(f"torch: {str(error).splitlines()[0]}") from error

    def run(self, repeats: int) -> list[float]:
        """Time forward passes: with CUDA events on a GPU, else with the host's clock."""
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            if self._device.type == "cuda":
                return self._run_events(repeats)
            durations = []
            for _ in range(repeats):
                start = time.perf_counter_ns()
                self._module(*self._inputs)
                durations.append((time.perf_counter_ns() - start) / 1e6)
            return durations

    def infer(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.generic]]:
        """Outputs on the host; floating-point ones as float32."""
        import torch

        with torch.inference_mode(), torch_threads(self._threads):
            out = self._module(*(self._place(x) for x in inputs))
            return [(out.float() if out.is_floating_point() else out).cpu().numpy()]

    def close(self) -> None:
        """Drop module and inputs."""
        del self._module, self._inputs

    def _place(self, x: NDArray[np.float32]) -> torch.Tensor:
        import torch

        return torch.from_numpy(x).to(self._device, self._dtype)

    def _run_events(self, repeats: int) -> list[float]:
        import torch

        with torch.cuda.device(self._device):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]  # type: ignore[no-untyped-call]
            for start, end in zip(marks[::2], marks[1::2], strict=True):
                start.record()
                self._module(*self._inputs)
                end.record()
            torch.cuda.synchronize(self._device)
            return [start.elapsed_time(end) for start, end in zip(marks[::2], marks[1::2], strict=True)]
