"""A simulated device: durations follow a law that tests know, so that what is measured can be held against it.

Law (milliseconds):

    operator     true_ms(spec)
    probe        overhead + border of each input + their carriers + k * operator + carrier behind + border of the output
    passage      overhead + for each tensor: two borders and two carriers
    alone        overhead + border of each input + operator + border of the output
    network      overhead + two borders + CONTEXT * sum of its operators

times the device's pace, its speed at the moment, noise, `warm` where a runner runs again right after itself, and a
factor of the place in memory to which the graph was loaded. Time passes only while something runs or is compiled, and
while a test lets it.
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
from lgc.models.nets.weights import load_weights
from lgc.models.space.operators import count_macs, get_operator, input_shapes, is_free
from lgc.profiler import profile, verification
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
"""Modules that look at a clock."""


class Clock:
    """Stands in for the module `time`, and for the clock of `Rounds`."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def time(self):
        return self.now

    def monotonic(self):
        return self.now - 900.0


def true_ms(spec):
    """What an operator costs; of inputs and multiply-accumulates."""
    elements = sum(math.prod(shape) for shape in input_shapes(spec))
    return 0.0 if is_free(spec) else 0.01 + elements / 2e5 + count_macs(spec) / 1e6


def border_ms(shape):
    """What the way of a tensor [..., height, width] in or out costs."""
    return 0.002 + math.prod(shape) / 1e5


def output_shape(spec):
    size = spec.fine if get_operator(spec.operator).upsamples else spec.coarse
    return (spec.c_out, *size)


def carrier_ms(shape):
    channels, height, width = shape
    return true_ms(OpSpec("conv_1x1", channels, channels, height, width))


def probe_ms(spec, copies):
    inputs = [shape[1:] for shape in input_shapes(spec)]
    before = sum(border_ms(shape) + carrier_ms(shape) for shape in inputs)
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
    """Latency of a workload by the law; networks are told by what they build."""
    kind, _, rest = workload.name.partition("/")
    match kind:
        case "alone":
            return alone_ms(OpSpec.parse(rest))
        case "probe":
            key, _, copies = rest.rpartition("/x")
            return probe_ms(OpSpec.parse(key), int(copies))
        case "carrier":
            channels, size, tensors = rest.split("/")
            return passage_ms((int(channels[1:]), *map(int, size.split("x"))), int(tensors[1:]))
    module = workload.build()
    dense = hasattr(module, "network")
    return network_ms((module.network if dense else module).architecture, "dense" if dense else "core")


def rows(path, what="*", table="visits"):
    """Rows of a table in the file, times of measurement included."""
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
    """Latencies relative to the wanted ones, their common factor divided out."""
    ratios = {key: found[key] / wanted[key] for key in wanted}
    usual = float(np.median(list(ratios.values())))
    return {key: ratio / usual for key, ratio in ratios.items()}


def truth(path):
    return {key: true_ms(OpSpec.parse(key)) for key, *_ in rows(path, "key, status", "entries")}


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
    """A backend whose workloads take as long as the law says.

    Attributes:
        clock: that its runs and compilations advance.
        pace: factor on all durations.
        speed: further factor, of the time.
        noise: greatest relative addition to a duration.
        warm: factor where a runner has run just before.
        place: standard deviation of the logarithm of the factor that each loaded graph has of its own.
        places: names of workloads -> another one.
        refused: what names of workloads that it does not compile begin with.
        compile_s: seconds that compiling takes for the first time; later loads of the same workload take `load_s`.
        on_run: told the name of each workload after each run.
        built: names of workloads that were compiled for the first time, in order.
        compiled: names of all that were compiled, later loads included; likewise prepared, closed.
        runs: how often each ran.
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
    for module in (profile, verification):
        patch.setattr(module, "require_backend", lambda target: simulated)
    for name in TIMED:
        patch.setattr(import_module(f"lgc.{name}"), "time", simulated.clock)
    return simulated


@pytest.fixture
def device(monkeypatch):
    """The simulated device, in the place of whatever backend the target names, and of time."""
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
    """Where a table is to be made."""
    return tmp_path / "t.lut"


@pytest.fixture(scope="session")
def simulated_table(mini_space, tmp_path_factory):
    """A table of the mini space on the simulated device, with 8 networks; for reading only."""
    path = tmp_path_factory.mktemp("simulated") / "mini.lut"
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        profile.profile(mini_space, TARGET, path, networks=8)
    return path


class Trained:
    """A small network that was trained a little, with scenes for calibration and others that nothing has seen."""

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
        train(folder, folder / "data", TrainConfig(steps=80, batch=8, lr=0.02))


@pytest.fixture(scope="session")
def trained(make_once):
    """The trained network; for reading only."""
    return Trained(make_once)
