"""Bounds of latencies, measured on the same device: no number of milliseconds fits every host."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

QUEUED_AHEAD = 0.6
"""Share of `launched_alone_ms` that short work takes at most where it is queued ahead of the device.

With a launch of h on the host and work of w on the device, a launch alone takes h + w, work that is queued ahead w, and
work at the host's pace h: the share tells them apart where h is above 1.5 w, as it is for a single small kernel.
"""
REPEATS = 40
IN_A_ROW = 10
IMAGE = (1, 3, 2048, 2048)
"""Shape of an image of 12.6 MB, whose copy takes far longer than `FirstRow` of it."""


def launched_alone_ms(launch: Callable[[], object], cuda: Any = torch.cuda) -> float:
    """Return the median time of `launch` by CUDA events while nothing else is queued: the host's launch is part of it.

    The device waits for the host between the first event and the launched work. Work that is queued ahead does not, and
    takes clearly less where it is shorter than its own launch.
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


def graph_launched_alone_ms(module: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """Return `launched_alone_ms` of a CUDA graph of `module` on a float32 tensor of `shape`."""
    module, x, graph = module.to("cuda:0"), torch.zeros(shape, device="cuda:0"), torch.cuda.CUDAGraph()
    with torch.inference_mode():
        module(x)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            module(x)
    return launched_alone_ms(graph.replay)


def in_a_row_ms(launch: Callable[[], object], cuda: Any = torch.cuda) -> float:
    """Return the mean time of `launch`, several in a row between two CUDA events."""
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    launch()
    cuda.synchronize()
    start.record()
    for _ in range(IN_A_ROW):
        launch()
    end.record()
    cuda.synchronize()
    return float(start.elapsed_time(end)) / IN_A_ROW


def copy_ms(num_bytes: int) -> float:
    """Return the time of a copy of so many bytes, more than some MB, from pinned memory to the device."""
    host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(num_bytes, dtype=torch.uint8, device="cuda:0")
    return in_a_row_ms(lambda: device.copy_(host, non_blocking=True))


def skip_on_shared_memory() -> None:
    """Skip a test that fills the device's memory where that is the system's: the system would end processes."""
    if torch.cuda.get_device_properties(0).is_integrated:
        pytest.skip("the device shares its memory with the system, which filling it would bring down")


class FirstRow(torch.nn.Module):
    """Mean of an image's first row, by channel: next to nothing to compute and to send back, but an image to copy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] of bytes to [N, C]."""
        return x.float()[:, :, :1].mean((2, 3))
