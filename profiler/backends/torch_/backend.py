"""Backend `torch`: modules run by torch itself, eagerly on a CPU, as CUDA graphs on a GPU."""

from __future__ import annotations

from typing import Any

from ....errors import MeasurementError
from ....lut.target import Target
from ...machine.devices import cuda_missing
from ..base import Runner, Workload
from .runner import TORCH_DTYPES, CudaGraphRunner, EagerRunner


class TorchBackend:
    """torch as it runs a module: kernel by kernel on a CPU, as one CUDA graph in channels_last format on a GPU.

    The graph is what `torch` means on a GPU for operators, networks and exports alike. Such networks are deployed so:
    their shapes are static, and launching their kernels one by one often takes the host longer than it takes the
    device to run them. An operator under 50 us would be timed at the host's pace. A module that cannot be captured is
    refused, never run in another way. TF32 is off, so that fp32 means fp32.
    """

    name = "torch"

    def precisions(self, device: str) -> tuple[str, ...]:
        """fp32, fp16 and bf16, on every device."""
        return tuple(TORCH_DTYPES)

    def diagnose(self, device: str) -> str | None:
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

    def settings(self, target: Target) -> dict[str, str]:
        """How modules are run and timed: eagerly with so many threads, or as a CUDA graph."""
        if target.device == "cpu":
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

        if target.device == "cpu":
            return EagerRunner(workload, target.precision, target.threads)
        torch.backends.cudnn.benchmark = False  # algorithms by cuDNN's heuristic, the same in a probe as in a network
        if disable_tf32() and target.precision == "fp32":
            raise MeasurementError(
                "torch keeps TF32 on, so fp32 would not be fp32; is TORCH_ALLOW_TF32_CUBLAS_OVERRIDE set?"
            )
        return CudaGraphRunner(workload, target.precision, torch.device(target.device))


def disable_tf32() -> bool:
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
