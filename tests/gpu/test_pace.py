"""Bounds of the GPU tests on simulated hosts and devices of different speeds."""

from __future__ import annotations

import pytest

from . import pace

HOSTS = pytest.mark.parametrize(("launch_ms", "work_ms"), [(0.006, 0.003), (0.05, 0.01), (0.2, 0.02)])
"""Fast host, slow host with a slow device, and an even slower host."""


class Simulated:
    """Host that queues work and device that runs it, each with a clock in milliseconds."""

    def __init__(self, launch_ms: float, work_ms: float) -> None:
        self.launch_ms, self.work_ms, self.host, self.device = launch_ms, work_ms, 0.0, 0.0

    def Event(self, enable_timing: bool) -> SimulatedEvent:  # noqa: N802  # torch's name
        return SimulatedEvent(self)

    def synchronize(self) -> None:
        self.host = self.device = max(self.host, self.device)

    def launch(self) -> None:
        self.host += self.launch_ms
        self.device = max(self.device, self.host) + self.work_ms

    def timed(self, lead_ms: float) -> float:
        """Return the latency of the last of 40 launches by events, all queued behind a pause of the device."""
        self.synchronize()
        self.device += lead_ms
        for _ in range(40):
            start, end = SimulatedEvent(self), SimulatedEvent(self)
            start.record()
            self.launch()
            end.record()
        return start.elapsed_time(end)


class SimulatedEvent:
    """Simulated CUDA event."""

    def __init__(self, cuda: Simulated) -> None:
        self.cuda, self.at_ms = cuda, 0.0

    def record(self) -> None:
        self.cuda.device = self.at_ms = max(self.cuda.device, self.cuda.host)

    def elapsed_time(self, other: SimulatedEvent) -> float:
        return other.at_ms - self.at_ms


@HOSTS
def test_isolated_launch_bounds_queued_work_only(launch_ms, work_ms):
    cuda = Simulated(launch_ms, work_ms)
    bound = pace.MAX_QUEUED_SHARE * pace.measure_isolated_ms(cuda.launch, cuda)
    assert cuda.timed(lead_ms=100) < bound
    assert cuda.timed(lead_ms=0) > bound


@HOSTS
def test_consecutive_work_runs_at_slower_pace(launch_ms, work_ms):
    cuda = Simulated(launch_ms, work_ms)
    assert pace.measure_consecutive_ms(cuda.launch, cuda) == pytest.approx(max(launch_ms, work_ms), rel=0.1)
    slow = Simulated(launch_ms, 100 * work_ms)
    assert pace.measure_consecutive_ms(slow.launch, slow) == pytest.approx(100 * work_ms, rel=0.1)
