"""Simulated device: durations follow a known model, to which tests compare the measured latencies.

Model (milliseconds); a border is the copy of a tensor into or out of the graph:

    operator        true_ms(spec)
    probe           overhead + borders and carriers of the inputs + copies * operator + carrier and border of the output
    image probe     the same without carriers of the inputs
    baseline graph  overhead + two borders and two carriers per tensor
    alone           overhead + borders of the inputs + operator + border of the output
    network         overhead + two borders + CONTEXT * sum of its operators

Each is multiplied by the device's pace, its current speed, noise, `warm` if the same runner ran just before, and a
factor of the instance (the memory addresses of a graph). The clock advances only while a graph runs or compiles, or
when a test moves it.
"""

from __future__ import annotations

import math
import random
import sqlite3
from collections import Counter
from importlib import import_module

import numpy as np
import pytest

from lgc.device import Device
from lgc.errors import MeasurementError
from lgc.lut import LatencyTable, Target
from lgc.models import OpSpec, SearchSpace
from lgc.models.nets.state.weights import load_weights
from lgc.models.space.operators import count_macs, get_operator, input_shapes, is_free
from lgc.profiler import derivation, profile, verification
from lgc.profiler.backends import BACKENDS, get_backend
from lgc.search.data.synthetic.scenes import generate_scene
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

OVERHEAD_MS, CONTEXT = 0.05, 1.1
TARGET = Target("cpu", "onnxruntime")
QUICK = {"rounds": 6, "networks": 4}
NO_NETWORKS = {"rounds": 6, "networks": 0}
TIMED = (
    "lut.table.recorder",
    "profiler.profile",
    "profiler.table.worker",
    "profiler.table.multi_device",
    "profiler.timing.measure",
    "profiler.timing.rounds",
)
"""Modules that import `time`."""


class Clock:
    """Substitute for the module `time` and for the clock of `Rounds`."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def time(self):
        return self.now

    def monotonic(self):
        return self.now - 900.0

    perf_counter = monotonic

    def sleep(self, seconds):
        self.now += seconds


def true_ms(spec):
    """Return the latency of an operator in ms, from its input elements and multiply-accumulates."""
    elements = sum(math.prod(shape) for shape in input_shapes(spec))
    return 0.0 if is_free(spec) else 0.01 + elements / 2e5 + count_macs(spec) / 1e6


def exact_ms(spec):
    """Return the entry of an operator in ms: at an end of networks, with half the overhead and the border there."""
    if spec.c_in == 3 and spec.operator == "conv_3x3":
        return true_ms(spec) + OVERHEAD_MS / 2 + border_ms(input_shapes(spec)[0][1:])
    if spec.operator == "argmax":
        return true_ms(spec) + OVERHEAD_MS / 2 + border_ms(output_shape(spec))
    return true_ms(spec)


def border_ms(shape):
    """Return the time in ms to copy a tensor [..., height, width] into or out of a graph."""
    return 0.002 + math.prod(shape) / 1e5


def output_shape(spec):
    size = spec.fine if get_operator(spec.operator).upsamples else spec.coarse
    return (spec.c_out, *size)


def carrier_ms(shape):
    channels, height, width = shape
    return true_ms(OpSpec("conv_1x1", channels, channels, height, width))


def probe_ms(spec, copies, leading=True):
    inputs = [shape[1:] for shape in input_shapes(spec)]
    before = sum(border_ms(shape) + leading * carrier_ms(shape) for shape in inputs)
    behind = border_ms(output_shape(spec)) + (carrier_ms(output_shape(spec)) if spec.operator != "argmax" else 0.0)
    return OVERHEAD_MS + before + copies * true_ms(spec) + behind


def passage_ms(shape, tensors):
    return OVERHEAD_MS + tensors * 2 * (border_ms(shape) + carrier_ms(shape))


def alone_ms(spec):
    borders = sum(border_ms(shape[1:]) for shape in input_shapes(spec)) + border_ms(output_shape(spec))
    return OVERHEAD_MS + borders + true_ms(spec)


def network_ms(architecture, scope):
    height, width = architecture.space.input
    borders = border_ms((3, height, width)) + border_ms((1, height, width))
    return OVERHEAD_MS + borders + CONTEXT * sum(map(true_ms, architecture.specs(scope)))


def workload_ms(workload):
    """Return the latency of a workload in ms by the model; a network is recognized by the module it builds."""
    kind, _, rest = workload.name.partition("/")
    match kind:
        case "alone":
            return alone_ms(OpSpec.parse(rest))
        case "probe" | "image":
            key, _, copies = rest.rpartition("/x")
            return probe_ms(OpSpec.parse(key), int(copies), kind == "probe")
        case "carrier":
            channels, size, tensors = rest.split("/")
            return passage_ms((int(channels[1:]), *map(int, size.split("x"))), int(tensors[1:]))
    module = workload.build()
    dense = hasattr(module, "network")
    return network_ms((module.network if dense else module).architecture, "dense" if dense else "core")


def rows(path, what="*", table="visits"):
    """Return the rows of an SQLite table of the file, with the times of measurement."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT {what} FROM {table} ORDER BY 1, 2").fetchall()
    connection.close()
    return found


def statuses(path):
    return dict(rows(path, "key, status", "subjects"))


def latencies(path):
    with LatencyTable.open(path) as table:
        return {entry.key: entry.latency_ms for entry in table.entries()}


def relative(found, wanted):
    """Return the ratios of measured to expected latencies, divided by their median."""
    ratios = {key: found[key] / wanted[key] for key in wanted}
    usual = float(np.median(list(ratios.values())))
    return {key: ratio / usual for key, ratio in ratios.items()}


def truth(path):
    return {key: exact_ms(OpSpec.parse(key)) for key, *_ in rows(path, "key, status", "entries")}


class SimulatedRunner:
    def __init__(self, device, name, true_ms):
        self.device, self.name, self.true_ms = device, name, true_ms

    def prepare(self):
        self.device.prepared.append(self.name)

    def run(self, repeats):
        return [self._once() for _ in range(repeats)]

    def run_untimed(self, repeats):
        self.run(repeats)

    def _once(self):
        device = self.device
        factor = device.pace * device.speed(device.clock.now) * (1 + device.noise * device.random.random())
        duration = self.true_ms * factor * (device.warm if device.last is self else 1.0)
        device.last = self
        device.runs[self.name] += 1
        device.clock.now += duration / 1000
        device.on_run(self.name)
        return duration

    def infer(self, inputs):
        raise NotImplementedError

    def close(self):
        self.device.closed.append(self.name)


class SimulatedDevice:
    """Backend whose workloads take the durations of the model.

    Attributes:
        clock: clock that runs and compilations advance.
        pace: constant factor of all durations.
        speed: function from the time to another factor.
        noise: maximum relative noise added to a duration.
        warm: factor if the same runner ran just before.
        place: standard deviation of the logarithm of each instance's own factor.
        places: workload name -> its own value of `place`.
        refused: prefixes of the workload names that fail to compile.
        compile_s: seconds of the first compilation of a workload; each reload takes `load_s`.
        on_run: callback with the workload's name, called after each run.
        built: names of workloads compiled for the first time, in order.
        compiled: names of all compiled workloads, with reloads; same for `prepared` and `closed`.
        runs: number of runs by workload name.
    """

    name = "simulated"

    def __init__(self):
        self.clock = Clock()
        self.pace, self.noise, self.warm, self.place = 1.0, 0.01, 1.0, 0.0
        self.compile_s, self.load_s = 0.01, 0.001
        self.places, self.refused = {}, ()
        self.built, self.compiled, self.prepared, self.closed = [], [], [], []
        self.runs, self.last = Counter(), None
        self._latency_ms = {}
        self.random = random.Random(0)
        self.speed = lambda now: 1.0
        self.on_run = lambda name: None

    def precisions(self, device):
        return ("fp32",)

    def diagnose(self, device):
        return None

    def versions(self):
        return {"simulated": "1"}

    def settings(self, target):
        return {"clock": "simulated clock"}

    def compile(self, workload, target):
        again = workload in self._latency_ms
        self.clock.now += self.load_s if again else self.compile_s
        if workload.name.startswith(tuple(self.refused)):
            raise MeasurementError(f"refused: {workload.name}")
        if not again:
            self._latency_ms[workload] = workload_ms(workload)
            self.built.append(workload.name)
        self.compiled.append(workload.name)
        place = math.exp(self.places.get(workload.name, self.place) * self.random.gauss())
        return SimulatedRunner(self, workload.name, place * self._latency_ms[workload])


def put_in_place(patch):
    simulated = SimulatedDevice()
    for module in (derivation, profile, verification):
        patch.setattr(module, "require_backend", lambda target, *precisions: simulated)
    for name in TIMED:
        patch.setattr(import_module(f"lgc.{name}"), "time", simulated.clock)
    return simulated


@pytest.fixture
def device(monkeypatch):
    """Replace the target's backend and the module `time` by a simulated device, and return it."""
    return put_in_place(monkeypatch)


@pytest.fixture(params=BACKENDS)
def cpu_backend(request):
    """Return each registered backend; skip one that does not run on a CPU."""
    backend = get_backend(request.param)
    if reason := backend.diagnose(Device("cpu")):
        pytest.skip(reason)
    return backend


@pytest.fixture
def out(tmp_path):
    """Return the path of a table that does not exist yet."""
    return tmp_path / "t.lut"


@pytest.fixture(scope="session")
def simulated_table(mini_space, tmp_path_factory):
    """Return a table of the mini space on the simulated device, with 8 networks; read-only."""
    path = tmp_path_factory.mktemp("simulated") / "mini.lut"
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        profile.profile(mini_space, TARGET, path, networks=8)
    return path


class Trained:
    """Briefly trained small network, with calibration frames and unseen frames."""

    def __init__(self, make_once):
        space = SearchSpace.load("tiny").with_input(64, 96)
        self.architecture = space.sample(1)
        folder = make_once("trained", self._train)
        self.weights = load_weights(folder / "weights.safetensors", self.architecture)
        self.frames = [generate_scene(1, index, space.input).image[None] for index in range(8)]
        self.unseen = [generate_scene(2, index, space.input).image[None] for index in range(24)]

    def _train(self, folder):
        self.architecture.save(folder / "architecture.json")
        size = self.architecture.space.input
        write_scenes(folder / "data", "camvid-segnet", {"train": 48, "val": 1}, size, seed=0)
        train(folder, folder / "data", TrainConfig(steps=80, batch=8, optimiser="sgd", lr=0.02, balanced=False))


@pytest.fixture(scope="session")
def trained(make_once):
    """Return the trained network; read-only."""
    return Trained(make_once)
