"""Devices, precision and processes of a search or a training, by Lightning Fabric.

`torchrun` starts several processes, each of which runs the same command. Rank 0 writes files.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...device import CPU, Device
from ...errors import DeviceError, TrainingError, UnknownNameError, UsageError
from .worker_errors import KEPT, explain_worker_error, is_out_of_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FABRIC_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Precision -> Fabric's name for it. Weights and their updates are float32 in all of them."""


def open_fabric(name: str = CPU, precision: str = "fp32", *, find_unused: bool = False) -> Fabric:
    """Return Fabric on a device, or under `torchrun` on one device per process.

    Args:
        name: device, `cpu` or `cuda:N`; under torchrun `cuda:0` is the process's own GPU.
        precision: a name of `FABRIC_PRECISIONS`.
        find_unused: Allow parameters without a gradient in a training step of several processes, at some cost; by
            three or more on a CPU always.

    Raises:
        UnknownNameError: the precision is unknown.
        UsageError: several processes share one GPU, or the precision is fp16 on a CPU.
        DeviceError: this machine has fewer GPUs than processes.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    if precision not in FABRIC_PRECISIONS:
        raise UnknownNameError("precision", precision, FABRIC_PRECISIONS)
    device = Device(name)
    if device.is_cpu and precision == "fp16":
        raise UsageError("--precision fp16 needs a GPU; choose fp32 or bf16 on a CPU")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings: dict[str, Any] = {"accelerator": device.kind, "precision": FABRIC_PRECISIONS[precision]}
    if processes > 1:
        if device.ordinal:
            raise UsageError(
                f"{processes} processes cannot share --device {device}; under torchrun use --device {device.kind}"
            )
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        if device.kind == "cuda" and torch.cuda.device_count() < local_processes:
            raise DeviceError(
                f"torchrun started {local_processes} processes, but this machine has {torch.cuda.device_count()} GPUs; "
                f"lower --nproc-per-node"
            )
        backend = "nccl" if device.kind == "cuda" else "gloo"
        # Otherwise torch regroups the gradients after the first step. A resumed process would begin with other groups
        # than an uninterrupted one has, and sum three or more of them on a CPU in another order.
        find_unused = find_unused or (device.is_cpu and processes > 2)
        strategy = DDPStrategy(process_group_backend=backend, find_unused_parameters=find_unused)
        settings |= {"strategy": strategy, "devices": local_processes, "num_nodes": processes // local_processes}
    else:
        settings |= {"devices": 1 if device.is_cpu else [device.ordinal]}
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs every launch
    fabric = Fabric(**settings)
    fabric.launch()
    if processes > 1 and device.is_cpu:
        atexit.register(_leave_processes)
    return fabric


def _leave_processes() -> None:
    """Stop the threads of the connection to the other processes, which abort a process that ends while they run."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def place_network(network: nn.Module, fabric: Fabric) -> None:
    """Move a network to Fabric's device, in the memory format of the batches, channels-last."""
    network.to(fabric.device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:  # others, e.g. of a 3d convolution, have no such format
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def require_equal_settings(settings: Mapping[str, object], fabric: Fabric) -> None:
    """Check that this process has the same settings as the first one.

    Raises:
        UsageError: it has others, e.g. because it does not see the folder of a run that is resumed.
    """
    first: Mapping[str, object] = fabric.broadcast(settings)
    names = [name for name in {**first, **settings} if first.get(name) != settings.get(name)]
    if names:
        raise UsageError(
            f"process {fabric.global_rank} has other settings than the first one ({', '.join(names)}): all need the "
            "same command, and the same run folder"
        )


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
    """Batch normalisation over the batches of all processes, on any device; torch's SyncBatchNorm needs GPUs.

    [N, C, H, W] on each of P processes is normalised like [P N, C, H, W] on one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C, H, W]; use the running statistics in evaluation mode."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        ones = x.new_full((1,), float(x.numel() // x.shape[1]))
        sums: Tensor = _Sum.apply(torch.cat([x.sum((0, 2, 3)), ones]))  # type: ignore[no-untyped-call]
        count = sums[-1:]
        mean = sums[:-1] / count
        square: Tensor = _Sum.apply((x - mean[None, :, None, None]).square().sum((0, 2, 3)))  # type: ignore[no-untyped-call]
        variance = square / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                share = self._find_share()
                self.running_mean.lerp_(mean.detach(), share)
                self.running_var.lerp_((square / (count - 1)).detach(), share)
        scale, shape = (variance + self.eps).rsqrt(), (1, -1, 1, 1)
        if not self.affine:
            return ((x - mean.view(shape)) * scale.view(shape)).to(input.dtype)
        scale = self.weight * scale
        out: Tensor = (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _find_share(self) -> float:
        """Return the share of the latest batch in the running statistics: without a momentum, they are the mean."""
        if self.momentum is not None:
            return self.momentum
        assert self.num_batches_tracked is not None  # it exists wherever running statistics do
        return 1 / int(self.num_batches_tracked)


def synchronise_norms(network: nn.Module, fabric: Fabric) -> None:
    """Normalise over the batches of all processes in every batch normalisation; a single process changes nothing.

    Raises:
        UsageError: a module is another kind of batch normalisation, whose computation is unknown.
    """
    if fabric.world_size == 1:
        return
    is_gpu = fabric.device.type == "cuda"
    known = (*_GPU_NORMS, nn.SyncBatchNorm) if is_gpu else (nn.BatchNorm2d, GlobalBatchNorm)
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in known:
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            raise UsageError(
                f"{name or 'the network'} is a {kind}, a batch normalisation that cannot be computed over "
                f"{fabric.world_size} processes on a {'GPU' if is_gpu else 'CPU'}: use one process, or "
                "torch.nn.BatchNorm2d, e.g. with a separate activation"
            )
    if is_gpu:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm


def list_local_statistics(network: nn.Module) -> list[Tensor]:
    """Return the running statistics that each process updates with its own images alone."""
    return [
        statistic
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(module, _GLOBAL_NORMS)
        if module.training
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]


def keep_statistics(network: nn.Module) -> None:
    """Keep DistributedDataParallel from overwriting running statistics with the first process's in every step.

    They are equal on all processes: computed over all images, or averaged after the step, see `average_tensors`.
    """
    names = [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name, _ in module.named_buffers(recurse=False)
    ]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, names)  # type: ignore[no-untyped-call]


_GLOBAL_NORMS = (GlobalBatchNorm, nn.SyncBatchNorm)
_GPU_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Batch normalisations that torch's SyncBatchNorm can replace: of subclasses it keeps the parameters alone."""


def average_gradients(parameters: Iterable[nn.Parameter], fabric: Fabric) -> None:
    """Replace gradients by their mean over all processes, in one message.

    Parameters without a gradient are skipped, so every process must have sampled the same path. For a supernet this
    sends less than DistributedDataParallel, which also has to look for unused parameters in each step.
    """
    average_tensors([parameter.grad for parameter in parameters if parameter.grad is not None], fabric)


def broadcast_buffers(network: nn.Module, fabric: Fabric) -> None:
    """Replace the floating-point buffers of a network by those of the first process, whose weights are saved."""
    if fabric.world_size == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            torch.distributed.broadcast(buffer, 0)


@torch.no_grad()
def average_tensors(tensors: Sequence[Tensor], fabric: Fabric) -> None:
    """Replace tensors by their means over all processes, in one message."""
    if fabric.world_size == 1 or not tensors:
        return
    mean = all_reduce_mean(torch.cat([tensor.flatten() for tensor in tensors]), fabric)
    parts = torch.split(mean, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_([*tensors], [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def all_reduce_mean(value: Tensor, fabric: Fabric | None) -> Tensor:
    """Return the mean of a floating-point tensor over all processes, which may overwrite it.

    Unlike `Fabric.all_reduce`, which begins with a barrier, the host does not wait for a GPU.
    """
    if fabric is None or fabric.world_size == 1:
        return value
    torch.distributed.all_reduce(value)
    return value.div_(fabric.world_size)


def average_over_processes(value: Tensor, fabric: Fabric) -> float:
    """Return the mean of a scalar over all processes."""
    return float(all_reduce_mean(value.detach().float().clone(), fabric).item())


def average_count(count: Tensor, fabric: Fabric | None) -> Tensor:
    """Return the mean of a count (scalar) over all processes, as a divisor: never 0."""
    return all_reduce_mean(count.float(), fabric).clamp_min(1e-6)


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Translate errors for exhausted memory, and those of data-loading workers, inside the context.

    Args:
        advice: options to lower, for the message.

    Raises:
        TrainingError: the device or the machine is out of memory, or a data-loading worker has died.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        message = explain_worker_error(error) or (is_out_of_memory(error) and f"out of memory; {KEPT}. Lower {advice}")
        if not message:
            raise
        raise TrainingError(message) from error
