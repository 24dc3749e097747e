"""NVML's samples of a busy GPU."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from lgc.lut import Target
from lgc.models import SearchSpace
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.monitor import open_monitor
from lgc.profiler.timing.workloads import network_workload

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch")

TARGET = Target("cuda:0", "torch")


@pytest.fixture(scope="module")
def work():
    """Run half a second of work on the GPU."""
    runner = get_backend("torch").compile(network_workload(SearchSpace.load("tiny").sample(0), "dense"), TARGET)
    runner.prepare()

    def run():
        start = time.monotonic()
        while time.monotonic() - start < 0.5:
            runner.run(20)

    yield run
    runner.close()


def test_sample_holds_clocks_temperature_power_throttling(work):
    with open_monitor(TARGET) as watch:
        work()
        health = watch.sample()
    assert health.sm_clock_mhz > 100
    assert health.memory_clock_mhz is None or health.memory_clock_mhz > 100  # a Jetson has no separate memory clock
    assert 0 < health.temperature_c < 120
    assert health.power_w is None or health.power_w > 1
    assert isinstance(health.throttle, tuple)
    assert health.other_gpu_processes is None or health.other_gpu_processes >= 0
    assert health.involuntary_switches >= 0


def test_energy_counter_never_decreases(work):
    with open_monitor(TARGET) as watch:
        if watch.energy_mj() is None:
            pytest.skip("this GPU counts no energy")
        counts = []
        for _ in range(4):
            counts.append(watch.energy_mj())
            work()
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] > 1000


def test_sample_is_cheap(work):
    spent = []
    with open_monitor(TARGET) as watch:
        start = time.perf_counter()
        work()
        working = time.perf_counter() - start
        for _ in range(50):
            start = time.perf_counter()
            watch.sample()
            spent.append(time.perf_counter() - start)
    assert np.median(spent) < working / 50, "a sample takes more than 2 % of the work"
