"""Warm-up and random inputs."""

from types import SimpleNamespace

import numpy as np
import pytest

from lgc.device import Device
from lgc.profiler.backends import base
from lgc.profiler.backends.base import MAX_WARM_UP_BATCH, MIN_FIRST_WARM_UP_MS, MIN_WARM_UP_MS, generate_inputs, warm_up


@pytest.fixture
def warmed(monkeypatch):
    """Return a function that warms up a runner with runs of 0.125 ms: `warmed(device)` gives the batch sizes."""
    monkeypatch.setattr(base, "_warm_devices", set())
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(base, "time", clock)

    def warm(device):
        batches = []

        def run_untimed(repeats):
            batches.append(repeats)
            clock.now += 0.125e-3 * repeats

        warm_up(SimpleNamespace(run_untimed=run_untimed), Device(device))
        return batches

    return warm


@pytest.mark.parametrize(("device", "largest"), [("cuda:1", MAX_WARM_UP_BATCH), ("cpu", 1)])
def test_only_gpu_warms_up_in_batches(warmed, device, largest):
    batches = warmed(device)
    assert (batches[0], max(batches)) == (1, largest)


def test_first_warm_up_on_gpu_is_longer(warmed):
    first, second, other = (0.125 * sum(warmed(device)) for device in ("cuda:0", "cuda:0", "cuda:1"))
    for spent_ms in (first, other):
        assert MIN_FIRST_WARM_UP_MS <= spent_ms < MIN_FIRST_WARM_UP_MS + 0.125 * MAX_WARM_UP_BATCH
    assert MIN_WARM_UP_MS <= second < MIN_FIRST_WARM_UP_MS / 5


def test_random_inputs_are_reproducible_and_nonzero():
    first, second = generate_inputs([(2, 3), (4,)]), generate_inputs([(2, 3), (4,)])
    assert [x.shape for x in first] == [(2, 3), (4,)]
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
    assert all(x.std() > 0.1 and x.dtype == np.float32 for x in first)
