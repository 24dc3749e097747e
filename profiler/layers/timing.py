"""Layer times of a network, measured side by side with the network itself.

The network runs without the profiler and with it in turns, in pairs of batches in random order, and both programs are
loaded again for every instance. A batch counts by the same run on both sides (the fastest on a CPU, the median on a
GPU), and the latency is the mean over the middle half of the pairs, ordered by their total. The layers' times come from
the same runs as their sum, so they add up to it without any scaling. Whatever slows the machine slows both sides of a
pair.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import MeasurementError
from ...lut.statistics.estimates import MINIMA, Array, reduce_batches
from ...lut.target import Target
from ..backends import Backend, Runner, Workload
from ..backends.base import LayerRuns, LayerTimer, RuntimeLayer, pause_gc
from ..machine.environment import pinned
from ..timing.measure import Assignment, default_statistic
from ..timing.observer import OnProgress, RoundProgress, quiet
from ..timing.rounds import BATCH_MS, MAX_REPEATS, MIN_REPEATS

MIN_INSTANCES = 4
"""Smallest number of instances, even beyond the time limit."""
INSTANCE_BATCHES = 6
"""Batches of an instance. ONNX Runtime keeps all events of an instance in memory, about 1 KB per layer and run."""
ORDER_SEED = 0


@dataclass(frozen=True)
class LayerMeasurement:
    """Layers of a network with their times, in the order of computation.

    Attributes:
        layers: layers of the runtime.
        latencies_ms: latency of each layer with the profiler on, in ms.
        network_ms: latency of the network without the profiler, by the same statistic.
        spread_pct: half the interquartile range of the network's batches, relative to `network_ms`.
        runs: number of runs of each kind.
    """

    layers: tuple[RuntimeLayer, ...]
    latencies_ms: tuple[float, ...]
    network_ms: float
    spread_pct: float
    runs: int

    @property
    def sum_ms(self) -> float:
        """Sum of the layers' latencies."""
        return sum(self.latencies_ms)


@dataclass
class _Samples:
    """Batches so far.

    Attributes:
        network: durations of each batch in ms.
        layers: durations of the layers in the run that stands for each batch, in ms, each [layers].
        known: layers of the first instance.
    """

    statistic: str
    network: list[list[float]] = field(default_factory=list)
    layers: list[Array] = field(default_factory=list)
    known: tuple[RuntimeLayer, ...] = ()
    runs: int = 0

    def add_layers(self, result: LayerRuns, repeats: int) -> None:
        """Add the runs of an instance, one run for each batch of `repeats` runs."""
        self.known = self.known or result.layers
        durations_ms = result.durations_ms[:, match_layers(self.known, result.layers)]
        for batch in np.split(durations_ms, len(durations_ms) // repeats):
            order = np.argsort(batch.sum(axis=1))
            self.layers.append(batch[order[0 if self.statistic == MINIMA else len(order) // 2]])

    def estimate(self) -> tuple[Array, float]:
        """Return the latency of the layers, [layers], and of the network, in ms."""
        points, vectors = reduce_batches(self.network, self.statistic), np.array(self.layers)
        order, quarter = np.argsort(points + vectors.sum(axis=1)), len(points) // 4
        middle = order[quarter : len(order) - quarter]
        return vectors[middle].mean(axis=0), float(points[middle].mean())


def match_layers(known: Sequence[RuntimeLayer], layers: Sequence[RuntimeLayer]) -> list[int]:
    """Return the position in `layers` of each known layer.

    ONNX Runtime names and orders copies differently each time it loads a graph, so their names do not identify them.

    Raises:
        MeasurementError: the layers are others.
    """
    expected, positions = _number_layers(known), _number_layers(layers)
    if expected.keys() != positions.keys():
        raise MeasurementError("the runtime divided the network into other layers when it was loaded again")
    return [positions[key] for key in expected]


def _number_layers(layers: Sequence[RuntimeLayer]) -> dict[tuple[object, ...], int]:
    """Return (nodes, operator, shape, number among equal ones) of each layer -> its position."""
    seen: Counter[tuple[object, ...]] = Counter()
    numbered: dict[tuple[object, ...], int] = {}
    for position, layer in enumerate(layers):
        key = (layer.nodes, layer.operator, layer.shape)
        numbered[*key, seen[key]] = position
        seen[key] += 1
    return numbered


def time_layers(
    backend: Backend, target: Target, workload: Workload, seconds: float, on_progress: OnProgress = quiet
) -> LayerMeasurement:
    """Measure the layers of a workload and the workload itself, interleaved.

    Args:
        backend: backend of `target`, checked by `require_backend`.
        target: target to measure on.
        workload: network.
        seconds: duration, loading included; at least `MIN_INSTANCES` instances are measured.
        on_progress: receives the progress.

    Raises:
        MeasurementError: the backend rejects the workload, or does not report layer times.
    """
    samples, assignment = _Samples(default_statistic(target)), Assignment(backend, target, workload)
    draw, start, instances = random.Random(ORDER_SEED), time.monotonic(), 0
    with pinned(target):
        while instances < MIN_INSTANCES or time.monotonic() - start < seconds:
            runner = assignment.prepare()
            try:
                with runner.time_layers() as timer:
                    _measure_instance(runner, timer, samples, draw)
            finally:
                runner.close()
            instances += 1
            spent = time.monotonic() - start
            left_s = max(seconds - spent, spent / instances * (MIN_INSTANCES - instances), 0.0)
            on_progress(RoundProgress("timing layers", spent / max(spent + left_s, 1e-9), left_s))
    layers_ms, network_ms = samples.estimate()
    low, high = np.quantile(reduce_batches(samples.network, samples.statistic), [0.25, 0.75])
    return LayerMeasurement(
        samples.known,
        tuple(layers_ms.tolist()),
        network_ms,
        spread_pct=float(high - low) / 2 / network_ms * 100,
        runs=samples.runs,
    )


def _measure_instance(runner: Runner, timer: LayerTimer, samples: _Samples, draw: random.Random) -> None:
    """Measure `INSTANCE_BATCHES` batches of both kinds in random order, and add them to the samples."""
    once_ms = min(runner.run(MIN_REPEATS))
    repeats = max(MIN_REPEATS, min(MAX_REPEATS, round(BATCH_MS / max(once_ms, 1e-3))))
    for _ in range(INSTANCE_BATCHES):
        with pause_gc():
            for profiled in draw.sample((False, True), 2):
                if profiled:
                    timer.run(repeats)
                else:
                    samples.network.append(runner.run(repeats))
    samples.add_layers(timer.finish(), repeats)
    samples.runs += INSTANCE_BATCHES * repeats
