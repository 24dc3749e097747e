"""Tables measured in carriers, with known latencies."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table.recorder import Recorder
from lgc.models import OpSpec
from lgc.models.space.operators import is_free
from lgc.profiler.timing.contexts import CARRIER, PROTOCOL, register_benchmarks

ENVIRONMENT = {"device_name": "test machine", "system": "test", "versions": {"onnxruntime": "1.0"}}
TARGET = Target("cpu", "onnxruntime")
ROUNDS = 24


def chance(key):
    """Return a number in [0, 1) derived from a key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


def true_ms(key, changed=()):
    """Return the latency of an entry or carrier."""
    return (0.05 + 0.1 * chance(key)) * dict(changed).get(key, 1.0)


@pytest.fixture
def carried(tmp_path, mini_space):
    """Return a factory of tables: `carried(name, changed={entry: factor}, speed=1.0, seed=0, jitter=0.0, networks=0)`.

    `jitter` is the relative deviation of each benchmark in this run; `keep` selects the measured benchmarks.
    """

    def make(
        name="t.lut",
        *,
        space=mini_space,
        target=TARGET,
        environment=ENVIRONMENT,
        changed=(),
        speed=1.0,
        seed=0,
        jitter=0.0,
        networks=0,
        keep=lambda key: True,
    ):
        protocol = {"name": PROTOCOL, "context": "carriers", "statistic": "minima"}
        table = LatencyTable.create(tmp_path / name, target, space, protocol, environment)
        register_benchmarks(table, space)
        truth = {benchmark.key: true_ms(benchmark.key) for benchmark in table.benchmarks(CARRIER)}
        for entry in table.entries():
            terms = table.components(OpSpec.parse(entry.key))
            (probe,) = terms.keys() - truth.keys()
            rest = sum(factor * truth[key] for key, factor in terms.items() if key != probe)
            truth[probe] = (true_ms(entry.key, changed) - rest) / terms[probe]
        for architecture in space.spread(networks, 0):
            for scope in ("core", "dense"):
                key = table.add_network(architecture, scope)
                specs = [spec for spec in architecture.specs(scope) if not is_free(spec)]
                truth[key] = 0.05 + sum(true_ms(str(spec), changed) for spec in specs)
        rng = np.random.default_rng(seed)
        kept = {key: ms * speed * np.exp(jitter * rng.standard_normal()) for key, ms in truth.items() if keep(key)}
        recorder = Recorder(table, target.device, environment)
        batches = [
            SampleBatch(
                key, number, 1e9 + number + 1e-4 * at, (ms * rng.uniform(1.0, 1.01, 3)).tolist(), recorder.session
            )
            for number in range(ROUNDS)
            for at, (key, ms) in enumerate(kept.items())
        ]
        recorder.record(batches)
        measurement = table.measurement()
        recorder.finish({key: (measurement.summary(key), None) for key in kept})
        table.finalize()
        return table

    make.true_ms = true_ms
    return make


# keys written by latency/latency_lookup_table.py of FasterSeg
FASTERSEG = {
    "BasicResidual1x_H128_W256_Cin64_Cout96_stride1_dilation1": 0.25,
    "BasicResidual1x_H128_W256_Cin64_Cout96_stride2_dilation1": 0.125,
    "BasicResidual1x_H128_W256_Cin64_Cout96_stride1_dilation2": 0.5,
    "BasicResidual_downup_1x_H128_W256_Cin64_Cout64_stride1_dilation1": 0.25,
    "BasicResidual2x_H128_W256_Cin64_Cout64_stride1_dilation1": 0.5,
    "FactorizedReduce_H128_W256_Cin64_Cout128_stride2": 0.05,
    "ConvNorm_H1024_W2048_Cin3_Cout32_kernel3_stride2": 0.75,
    "ConvNorm_H32_W64_Cin256_Cout128_kernel1_stride1": 0.03,
    "ff_H128_W256_C64": 0.3,
    "head_H128_W256_Cin64_Cout19": 0.4,
    "an unknown key": 1.0,
}
EQUAL = {
    "conv_3x3/c64-96/128x256/s1/b1": 0.25,
    "conv_3x3/c64-96/128x256/s2/b1": 0.125,
    "conv_3x3/c3-32/1024x2048/s2/b1": 0.75,
    "conv_1x1/c256-128/32x64/s1/b1": 0.03,
}

# rows of mobile_trim.yaml (issue 37 of once-for-all) and of DynamicOFA's JSON
OFA = """\
Conv-input:224x224x3-output:112x112x32:
  count: 100
  mean: 3.25
  var: 0.04
expanded_conv-input:7x7x192-output:7x7x320-expand:6-kernel:5-stride:1-idskip:0:
  count: 154
  mean: 5.264772727272727
  var: 0.19495998666150827
Logits-input:7x7x1280-output:1000: {count: 16, mean: 0.5, std: 0.25}
AvgPool2D-input:7x7x1280-output:1x1x1280: {mean: 0.125}
"""


@pytest.fixture
def npy(tmp_path):
    """Return a function that writes content with numpy.save."""

    def write(content, name="table.npy"):
        np.save(tmp_path / name, content)
        return tmp_path / name

    return write


@pytest.fixture
def text(tmp_path):
    def write(content, name="table.yaml"):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


@pytest.fixture
def fasterseg(npy):
    """Table of FasterSeg with its latencies and those that have an OpSpec."""
    return SimpleNamespace(path=npy(FASTERSEG), rows=FASTERSEG, equal=EQUAL)


@pytest.fixture
def once_for_all(text):
    """Table of once-for-all."""
    return text(OFA)
