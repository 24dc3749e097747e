"""The bounds of the tests on a GPU tell right from wrong, on simulated hosts and devices of any speed."""

from __future__ import annotations

import pytest

from . import pace

HOSTS = pytest.mark.parametrize(("launch_ms", "work_ms"), [(0.006, 0.003), (0.05, 0.01), (0.2, 0.02)])
"""A fast host, a slow one with a slow device, and one slower still."""


class Simulated:
    """A host that queues work and a device that does it, each with a clock in milliseconds."""

    def __init__(self, launch_ms: float, work_ms: float) -> None:
        self.launch_ms, self.work_ms, self.host, self.device = launch_ms, work_ms, 0.0, 0.0

    def Event(self, enable_timing: bool) -> Mark:  # noqa: N802  # torch's name
        return Mark(self)

    def synchronize(self) -> None:
        self.host = self.device = max(self.host, self.device)

    def launch(self) -> None:
        self.host += self.launch_ms
        self.device = max(self.device, self.host) + self.work_ms

    def timed(self, lead_ms: float) -> float:
        """Time of the last of some launches in a row, by events, all behind a pause of the device."""
        self.synchronize()
        self.device += lead_ms
        for _ in range(40):
            start, end = Mark(self), Mark(self)
            start.record()
            self.launch()
            end.record()
        return start.elapsed_time(end)


class Mark:
    """A CUDA event."""

    def __init__(self, cuda: Simulated) -> None:
        self.cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self.cuda.device = self.at = max(self.cuda.device, self.cuda.host)

    def elapsed_time(self, other: Mark) -> float:
        return other.at - self.at


@HOSTS
def test_isolated_launch_bounds_queued_work_only(launch_ms, work_ms):
    cuda = Simulated(launch_ms, work_ms)
    bound = pace.QUEUED_AHEAD * pace.launched_alone_ms(cuda.launch, cuda)
    assert cuda.timed(lead_ms=100) < bound
    assert cuda.timed(lead_ms=0) > bound


@HOSTS
def test_consecutive_work_runs_at_slower_pace(launch_ms, work_ms):
    cuda = Simulated(launch_ms, work_ms)
    assert pace.in_a_row_ms(cuda.launch, cuda) == pytest.approx(max(launch_ms, work_ms), rel=0.1)
    slow = Simulated(launch_ms, 100 * work_ms)
    assert pace.in_a_row_ms(slow.launch, slow) == pytest.approx(100 * work_ms, rel=0.1)
