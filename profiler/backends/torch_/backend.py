"""Backend `torch`: modules run by torch itself, eagerly on a CPU and as CUDA graphs on a GPU."""

from __future__ import annotations

from ....device import Device
from ....errors import MeasurementError
from ....lut.target import Target
from ....precisions import disable_tf32
from ...machine.devices import diagnose_cuda
from ..base import Runner, Workload
from .runner import NO_LAYERS, TORCH_DTYPES, CudaGraphRunner, EagerRunner


class TorchBackend:
    """Backend that runs a module with torch: eagerly on a CPU, as one CUDA graph in channels_last format on a GPU.

    On a GPU, `torch` means this graph for operators, networks and exports. Such networks are deployed as graphs: their
    shapes are static, and the host often takes longer to launch their kernels one by one than the device to run them.
    An operator under 50 us would be timed at the host's pace. A module that cannot be captured is an error; there is no
    fallback. TF32 is off, so that fp32 means fp32.
    """

    name = "torch"

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Return fp32, fp16 and bf16, on every device."""
        return tuple(TORCH_DTYPES)

    def install_hint(self, device: Device) -> str:
        """Return the command that installs torch; pip picks the build for the platform."""
        return "pip install torch"

    def diagnose(self, device: Device) -> str | None:
        """Return None on a CPU or a CUDA device that torch can use, else the reason and the fix."""
        return None if device.is_cpu else diagnose_cuda(device)

    def diagnose_layers(self, device: Device) -> str | None:
        """Return the reason: the backend does not attribute kernels to layers."""
        return NO_LAYERS

    def versions(self) -> dict[str, str]:
        """Return the versions of torch and, in a CUDA build, of CUDA and cuDNN."""
        import torch

        versions = {"torch": str(torch.__version__)}
        if torch.version.cuda:
            versions["cuda"] = str(torch.version.cuda)
            versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        return versions

    def settings(self, target: Target) -> dict[str, str]:
        """Return mode, clock and threads on a CPU; mode, format, TF32, cuDNN's choice and clock on a GPU."""
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
        """Move the module to the device in the target's precision; on a GPU also capture it.

        Raises:
            MeasurementError: the module cannot be captured as a CUDA graph, TF32 stays on, or memory is short.
        """
        import torch

        if target.device.is_cpu:
            return EagerRunner(workload, target.precision, target.threads)
        # algorithms by cuDNN's heuristic, the same for an operator alone as in a network
        torch.backends.cudnn.benchmark = False
        if disable_tf32() and target.precision == "fp32":
            raise MeasurementError(
                "torch keeps TF32 on, so fp32 would not be fp32; check that TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is not set"
            )
        return CudaGraphRunner(workload, target.precision, torch.device(target.device))
