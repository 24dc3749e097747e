"""Where a search or a training runs: Lightning Fabric's devices, precision and processes.

One process is started by hand, several by `torchrun`; every one of them then runs the same command. Rank 0 writes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...device import CPU, Device
from ...errors import DeviceError, TrainingError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FABRIC_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Our name of a precision -> Fabric's. Weights and their updates are float32 in all of them."""
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "out of shared memory", "killed by signal: Killed")
"""What torch says where the memory ends: of its own, or of a loading process that the system had to kill."""


def open_fabric(name: str = CPU, precision: str = "fp32") -> Fabric:
    """Fabric on a device, or under `torchrun` on one device a process.

    Args:
        name: device, `cpu` or `cuda:N`; under torchrun `cuda:0` stands for the process's own GPU.
        precision: a name of `FABRIC_PRECISIONS`.

    Raises:
        UnknownNameError: no such precision.
        UsageError: several processes were asked for one GPU, or fp16 for a CPU.
        DeviceError: fewer GPUs than processes on this machine.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    if precision not in FABRIC_PRECISIONS:
        raise UnknownNameError("precision", precision, FABRIC_PRECISIONS)
    device = Device(name)
    if device.is_cpu and precision == "fp16":
        raise UsageError("--precision fp16 trains on a GPU only; a CPU takes fp32 or bf16")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings: dict[str, Any] = {"accelerator": device.kind, "precision": FABRIC_PRECISIONS[precision]}
    if processes > 1:
        if device.ordinal:
            raise UsageError(f"{processes} processes on --device {device}: under torchrun write --device {device.kind}")
        here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        if device.kind == "cuda" and torch.cuda.device_count() < here:
            raise DeviceError(f"torchrun started {here} processes here, but there are {torch.cuda.device_count()} GPUs")
        backend = "nccl" if device.kind == "cuda" else "gloo"
        strategy = DDPStrategy(process_group_backend=backend)
        settings |= {"strategy": strategy, "devices": here, "num_nodes": processes // here}
    else:
        settings |= {"devices": 1 if device.is_cpu else [device.ordinal]}
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells what every process was told to do
    fabric = Fabric(**settings)
    fabric.launch()
    return fabric


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes, through which gradients flow back to all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes.

    What torch's SyncBatchNorm is to GPUs, on any device: [N, C, H, W] on each of P processes is normalised as
    [P N, C, H, W] on one would be.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; in evaluation mode with the running statistics."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        ones = x.new_full((1,), float(x.numel() // x.shape[1]))
        sums: Tensor = _Sum.apply(torch.cat([x.sum((0, 2, 3)), ones]))  # type: ignore[no-untyped-call]
        count = sums[-1:]
        mean = sums[:-1] / count
        square: Tensor = _Sum.apply((x - mean[None, :, None, None]).square().sum((0, 2, 3)))  # type: ignore[no-untyped-call]
        variance = square / count
        if self.momentum and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_((square / (count - 1)).detach(), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        shape = (1, -1, 1, 1)
        out: Tensor = (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def synchronise_norms(network: nn.Module, fabric: Fabric) -> None:
    """Let every batch normalisation see the batches of all processes; nothing changes where there is one.

    On GPUs this is torch's own SyncBatchNorm, which no CPU can run.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    elif fabric.world_size > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm


def average_gradients(parameters: Iterable[nn.Parameter], fabric: Fabric) -> None:
    """Replace gradients by their mean over all processes, in one message.

    Parameters without a gradient are left out: every process must have drawn the same path. For a supernet this is both
    less to send and simpler than DistributedDataParallel, which has to search each step for what was not used.
    """
    if fabric.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    mean = fabric.all_reduce(flat, reduce_op="mean")
    assert isinstance(mean, Tensor)
    for gradient, part in zip(gradients, torch.split(mean, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_over_processes(value: Tensor, fabric: Fabric) -> float:
    """Mean of a scalar over all processes."""
    mean = fabric.all_reduce(value.detach().float(), reduce_op="mean")
    assert isinstance(mean, Tensor)
    return float(mean.item())


def global_count(count: Tensor, fabric: Fabric | None) -> Tensor:
    """Mean over all processes of a number that each counted (scalar), as a divisor of sums: at least a small one."""
    if fabric is not None and fabric.world_size > 1:
        count = fabric.all_reduce(count.float(), reduce_op="mean")  # type: ignore[assignment]
    return count.clamp_min(1e-6)


@contextmanager
def explained_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory into an error that says what to lower.

    Raises:
        TrainingError: the device or the machine has no memory left.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(f"out of memory; the last checkpoint is kept. Lower {advice}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise TrainingError(f"out of memory; the last checkpoint is kept. Lower {advice}") from error
