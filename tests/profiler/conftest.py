"""A simulated device: durations follow a law that tests know, so that what is measured can be held against it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.models import OpSpec
from lgc.models.operators import is_free, macs
from lgc.profiler import profile, verification

OVERHEAD_MS, CONTEXT = 0.05, 1.1


class SimulatedRunner:
    def __init__(self, device, name, true_ms):
        self.device, self.name, self.true_ms = device, name, true_ms

    def prepare(self):
        self.device.prepared.append(self.name)

    def run(self, repeats):
        self.device.runs[self.name] += repeats
        factors = (1 + self.device.noise * self.device.random.random() for _ in range(repeats))
        return [self.true_ms * self.device.pace * factor for factor in factors]

    def infer(self, inputs):
        raise NotImplementedError

    def close(self):
        self.device.closed.append(self.name)


class SimulatedDevice:
    """A backend whose operators take 0.01 ms and 1 ms for each million MACs, and whose networks 0.05 ms + 1.1 * sum.

    Attributes:
        pace: factor on all durations.
        noise: greatest relative addition to a duration.
        refused: names of workloads that it does not compile.
    """

    name = "simulated"
    precisions = ("fp32",)

    def __init__(self):
        self.pace, self.noise, self.refused = 1.0, 0.01, set()
        self.compiled, self.prepared, self.closed = [], [], []
        self.runs = Counter()
        self.random = random.Random(0)

    def unavailable(self, device):
        return None

    def versions(self):
        return {"simulated": "1"}

    @staticmethod
    def true_ms(spec):
        return 0.0 if is_free(spec) else 0.01 + macs(spec) / 1e6

    def compile(self, workload, target):
        if workload.name in self.refused:
            raise MeasurementError(f"refused: {workload.name}")
        self.compiled.append(workload.name)
        if "/" in workload.name:
            return SimulatedRunner(self, workload.name, self.true_ms(OpSpec.parse(workload.name)))
        module = workload.build()
        dense = hasattr(module, "network")
        specs = (module.network if dense else module).architecture.specs("dense" if dense else "core")
        return SimulatedRunner(self, workload.name, OVERHEAD_MS + CONTEXT * sum(map(self.true_ms, specs)))


def put_in_place(patch):
    simulated = SimulatedDevice()
    for module in (profile, verification):
        patch.setattr(module, "require", lambda target: simulated)
    return simulated


@pytest.fixture
def device(monkeypatch):
    """The simulated device, in the place of whatever backend the target names."""
    return put_in_place(monkeypatch)


@pytest.fixture(scope="session")
def simulated_table(mini_space, tmp_path_factory):
    """A table of the mini space on the simulated device, with 8 networks; for reading only."""
    path = tmp_path_factory.mktemp("simulated") / "mini.lut"
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        profile.profile(mini_space, Target("cpu", "onnxruntime"), path, rounds=6, networks=8)
    return path
