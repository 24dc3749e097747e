"""torch and ONNX Runtime on a CUDA device, and a table measured there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import SearchSpace
from lgc.profiler import deploy
from lgc.profiler.backends import get_backend
from lgc.profiler.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.workloads import network_workload

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch")

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-1}
TARGETS = [Target("cuda:0", "torch", precision) for precision in TOLERANCE] + [Target("cuda:0", "onnxruntime")]


@pytest.fixture(params=TARGETS, ids=str)
def target(request) -> Target:
    reason = get_backend(request.param.backend).unavailable("cuda:0")
    if reason is not None:
        pytest.skip(reason)
    return request.param


def test_runs_and_gives_torchs_output(target):
    workload = network_workload(SearchSpace.load("tiny").sample(0), "core")
    x = np.random.default_rng(0).standard_normal(workload.input_shapes[0], dtype=np.float32)
    runner = get_backend(target.backend).compile(workload, target)
    runner.prepare()
    durations = runner.run(20)
    assert len(durations) == 20
    assert min(durations) > 0
    with torch.no_grad():
        wanted = workload.build()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(runner.infer([x])[0], wanted, atol=TOLERANCE[target.precision])
    runner.close()


def test_the_fingerprint_names_the_gpu(target):
    found = fingerprint(target, get_backend(target.backend))
    assert found["device_name"] == torch.cuda.get_device_name(0)
    assert found["gpu"]["uuid"].startswith("GPU-")
    assert found["gpu"]["sm_clock_mhz"] > 0


def test_a_table_is_measured_and_a_network_held_against_it(mini_space, tmp_path):
    target = Target("cuda:0", "torch")
    result = profile(mini_space, target, tmp_path / "t.lut", rounds=4, networks=4)
    assert result.measured == result.entries
    with LatencyTable.open(tmp_path / "t.lut") as table:
        network = deploy.Network(mini_space.sample(1), None, "dense")
        found = deploy.time_network(network, target, table, seconds=0.5)
        assert found.table_ms == Predictor(mini_space, table).predict(network.architecture)
    assert found.equals_torch()
