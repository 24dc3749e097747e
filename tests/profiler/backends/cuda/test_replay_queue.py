"""Replays queued ahead of a simulated device by a simulated host that is slow or has a full launch queue."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from lgc.errors import MeasurementError
from lgc.profiler.backends.cuda import replay_queue as lead
from lgc.profiler.backends.cuda.device import CudaDevice
from lgc.profiler.backends.cuda.replay_queue import (
    DECAY,
    INITIAL_LAUNCH_US,
    MIN_FACTOR,
    ReplayQueue,
    get_spin_calibration,
)

DEVICE = "cuda:7"


class Simulation:
    """Host that needs `launch_us` per replay and waits for the device when `capacity` replays are queued."""

    def __init__(self, launch_us, capacity=10**9):
        self.launch_us, self.capacity = launch_us, capacity
        self.now_us = self.spin_end_us = 0.0
        self.batches = []

    def perf_counter_ns(self):
        return int(1e3 * self.now_us)

    def spin(self, microseconds):
        self.spin_end_us = self.now_us + microseconds

    def enqueue(self, replays):
        self.batches.append(replays)
        for number in range(replays):
            self.now_us += self.launch_us
            if number >= self.capacity:
                self.now_us = max(self.now_us, self.spin_end_us)
        begun = self.now_us >= self.spin_end_us
        event = SimpleNamespace(query=lambda: begun)
        return [(event, event)] * replays

    def synchronize(self):
        self.now_us = max(self.now_us, self.spin_end_us)

    def replay(self, queue, replays):
        return queue.replay(replays, spin=self.spin, enqueue=self.enqueue, synchronize=self.synchronize)


@pytest.fixture
def simulate(monkeypatch):
    get_spin_calibration.cache_clear()

    def make(*arguments):
        simulation = Simulation(*arguments)
        monkeypatch.setattr(lead, "time", simulation)
        return simulation

    yield make
    get_spin_calibration.cache_clear()


def test_fast_host_needs_one_attempt(simulate):
    host = simulate(10.0)
    assert len(host.replay(ReplayQueue(DEVICE), 40)) == 40
    assert host.batches == [40]
    assert get_spin_calibration(DEVICE).launch_us == pytest.approx(10.0, abs=0.1)


def test_slow_host_gets_longer_spin(simulate):
    host, queue = simulate(8 * INITIAL_LAUNCH_US), ReplayQueue(DEVICE)
    assert len(host.replay(queue, 40)) == 40
    assert host.batches == [40] * 4  # spins of 1.5, 3, 6 and 12 times the expected time
    host.batches.clear()
    assert len(host.replay(queue, 40)) == 40
    assert host.batches == [40]


def test_full_queue_splits_batch(simulate):
    host, queue = simulate(5.0, 25), ReplayQueue(DEVICE)
    assert len(host.replay(queue, 100)) == 100
    assert max(host.batches[-4:]) <= 25
    assert get_spin_calibration(DEVICE).factor <= 2 * MIN_FACTOR
    host.batches.clear()
    host.replay(queue, 100)
    assert max(host.batches) <= 25


def test_spin_factor_decays(simulate):
    host, queue = simulate(5.0), ReplayQueue(DEVICE)
    get_spin_calibration(DEVICE).factor = 24.0
    for _ in range(60):
        host.replay(queue, 4)
    assert get_spin_calibration(DEVICE).factor == pytest.approx(max(24.0 * DECAY**60, MIN_FACTOR))


def test_host_never_ahead_is_an_error(simulate):
    host = simulate(1e9)
    with pytest.raises(MeasurementError, match=r"^the host cannot queue runs ahead of the device: queueing \d+ runs"):
        host.replay(ReplayQueue(DEVICE), 40)


def test_zero_replays_queue_nothing(simulate):
    host = simulate(5.0)
    assert host.replay(ReplayQueue(DEVICE), 0) == []
    assert host.batches == []


def test_spin_is_queued_on_engine_stream(monkeypatch):
    calls = []

    @contextmanager
    def entered(stream):
        calls.append(stream)
        yield
        calls.append("left")

    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, str(device)))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "_sleep", calls.append)
    device = CudaDevice.__new__(CudaDevice)
    device.name, device._stream = "cuda:1", SimpleNamespace(handle=77)
    device._queue_spin(250.0)
    assert calls == [(77, "cuda:1"), 250 * lead.CYCLES_PER_US, "left"]
