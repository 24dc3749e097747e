"""Layer times side by side with the network: statistic, matching of instances, runtimes without layers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload
from lgc.profiler.backends.base import LayerRuns, RuntimeLayer
from lgc.profiler.layers.timing import INSTANCE_BATCHES, MIN_INSTANCES, match_layers, time_layers

CPU = Target("cpu", "onnxruntime")
WORKLOAD = Workload("network", ((1,),), None)
LAYERS = (RuntimeLayer("a", ("conv",), "Conv", (1, 4)), RuntimeLayer("b", (), "Copy", (1, 4), is_copy=True))
NETWORK_MS = 5.0


class LayeredBackend:
    """Backend whose runs take `NETWORK_MS`, and whose layers take the durations of a function of the run."""

    def __init__(self, layers_ms, reversed_copies=False):
        self.layers_ms, self.reversed_copies, self.instances, self.closed = layers_ms, reversed_copies, 0, 0

    def compile(self, workload, target):
        self.instances += 1
        return LayeredRunner(self, self.instances)


class LayeredRunner:
    def __init__(self, backend, instance):
        self.backend, self.instance = backend, instance

    def prepare(self):
        pass

    def close(self):
        self.backend.closed += 1

    def run(self, repeats):
        return [NETWORK_MS + 3 * (number > 0) for number in range(repeats)]

    @contextmanager
    def time_layers(self):
        yield Timer(self.backend, reversed_copies=self.backend.reversed_copies and self.instance % 2)


class Timer:
    def __init__(self, backend, reversed_copies):
        self.backend, self.reversed_copies, self.runs = backend, reversed_copies, 0

    def run(self, repeats):
        self.runs += repeats

    def finish(self):
        layers, durations_ms = LAYERS, np.array([self.backend.layers_ms(number) for number in range(self.runs)])
        if self.reversed_copies:
            layers, durations_ms = (replace(layers[1], name="c"), layers[0]), durations_ms[:, ::-1]
        return LayerRuns(layers, durations_ms)


def test_layers_of_fastest_runs_add_up():
    """Of each batch the run with the smallest sum counts, as it does for the network: not each layer's own minimum."""
    backend = LayeredBackend(lambda number: [(3.0, 1.0), (1.0, 3.5), (4.0, 4.0)][number % 3])
    measured = time_layers(backend, CPU, WORKLOAD, 0.0)
    assert measured.latencies_ms == (3.0, 1.0)
    assert (measured.sum_ms, measured.network_ms) == (4.0, NETWORK_MS)
    assert measured.spread_pct == 0
    assert measured.runs == MIN_INSTANCES * INSTANCE_BATCHES * 3
    assert backend.instances == backend.closed == MIN_INSTANCES


def test_gpu_counts_median_run():
    backend = LayeredBackend(lambda number: [(3.0, 1.0), (4.0, 4.0), (5.0, 0.5)][number % 3])
    measured = time_layers(backend, Target("cuda:0", "tensorrt"), WORKLOAD, 0.0)
    assert measured.latencies_ms == (5.0, 0.5)
    assert measured.network_ms == NETWORK_MS + 3


def test_copies_are_matched_between_instances():
    """ONNX Runtime names and orders copies differently each time it loads a graph."""
    measured = time_layers(LayeredBackend(lambda _: (3.0, 1.0), reversed_copies=True), CPU, WORKLOAD, 0.0)
    times = dict(zip((layer.operator for layer in measured.layers), measured.latencies_ms, strict=True))
    assert times == {"Conv": 3.0, "Copy": 1.0}


def test_equal_layers_are_matched_in_order():
    twins = [RuntimeLayer(name, (), "Reshape", (2,)) for name in "xy"]
    assert match_layers([LAYERS[0], *twins], [twins[1], LAYERS[0], twins[0]]) == [1, 0, 2]
    with pytest.raises(MeasurementError, match="other layers"):
        match_layers(LAYERS, LAYERS[:1])


def test_failing_profiler_closes_runner(monkeypatch):
    def fail(self):
        raise MeasurementError("no layers")

    backend = LayeredBackend(lambda _: (1.0, 1.0))
    monkeypatch.setattr(LayeredRunner, "time_layers", fail)
    with pytest.raises(MeasurementError, match="no layers"):
        time_layers(backend, CPU, WORKLOAD, 0.0)
    assert backend.closed == 1


def test_slow_machine_slows_both_sides(monkeypatch):
    """Half of the instances run at half the speed, the network and its layers alike."""
    slow = LayeredBackend(lambda _: (3.0, 1.0))

    def run(self, repeats):
        return [NETWORK_MS * (1 + self.instance % 2)] * repeats

    def finish(self):
        durations_ms = np.full((self.runs, 2), (3.0, 1.0)) * (1 + slow.instances % 2)
        return LayerRuns(LAYERS, durations_ms)

    monkeypatch.setattr(LayeredRunner, "run", run)
    monkeypatch.setattr(Timer, "finish", finish)
    measured = time_layers(slow, CPU, WORKLOAD, 0.0)
    assert measured.sum_ms / measured.network_ms == pytest.approx(4 / NETWORK_MS)
    assert measured.spread_pct > 5
