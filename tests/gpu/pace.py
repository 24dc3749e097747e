"""Bounds of latencies, measured on the same device: no fixed number of milliseconds fits every host."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

MAX_QUEUED_SHARE = 0.6
"""Upper bound of the latency of short work queued ahead of the device, as a share of `measure_isolated_ms`.

With a launch time h on the host and a work time w on the device, an isolated launch takes h + w, work queued ahead w,
and work at the host's pace h. The share separates the last two where h > 1.5 w, as for a single small kernel.
"""
REPEATS = 40
CONSECUTIVE = 10
IMAGE = (1, 3, 2048, 2048)
"""Shape of an image of 12.6 MB, whose copy takes far longer than `FirstRow`."""


def measure_isolated_ms(launch: Callable[[], object], cuda: Any = torch.cuda) -> float:
    """Return the median latency of `launch` by CUDA events on an idle device, which includes the host's launch.

    The device waits for the host between the first event and the launched work. Work queued ahead does not wait, and
    takes clearly less if it is shorter than its own launch.
    """
    times = []
    for _ in range(REPEATS):
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda.synchronize()
        start.record()
        launch()
        end.record()
        cuda.synchronize()
        times.append(start.elapsed_time(end))
    return float(median(times))


def measure_isolated_graph_ms(module: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """Return `measure_isolated_ms` of a CUDA graph of `module` on a float32 tensor of `shape`."""
    module, x, graph = module.to("cuda:0"), torch.zeros(shape, device="cuda:0"), torch.cuda.CUDAGraph()
    with torch.inference_mode():
        module(x)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            module(x)
    return measure_isolated_ms(graph.replay)


def measure_consecutive_ms(launch: Callable[[], object], cuda: Any = torch.cuda) -> float:
    """Return the mean latency of `launch`, several back to back between two CUDA events."""
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    launch()
    cuda.synchronize()
    start.record()
    for _ in range(CONSECUTIVE):
        launch()
    end.record()
    cuda.synchronize()
    return float(start.elapsed_time(end)) / CONSECUTIVE


def measure_copy_ms(num_bytes: int) -> float:
    """Return the time in ms of a copy of at least several MB from pinned memory to the device."""
    host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(num_bytes, dtype=torch.uint8, device="cuda:0")
    return measure_consecutive_ms(lambda: device.copy_(host, non_blocking=True))


def skip_on_shared_memory() -> None:
    """Skip a test that fills the device's memory if that is system memory: the system would kill processes."""
    if torch.cuda.get_device_properties(0).is_integrated:
        pytest.skip("the device shares system memory, which the test would fill")


class FirstRow(torch.nn.Module):
    """Mean of an image's first row per channel: little to compute and to copy back, but a whole image to copy in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means, [N, C], of uint8 images [N, C, H, W]."""
        return x.float()[:, :, :1].mean((2, 3))
