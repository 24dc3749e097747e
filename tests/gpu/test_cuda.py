"""torch and ONNX Runtime on a CUDA device, and a table measured there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lgc.device import Device
from lgc.errors import MeasurementError
from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import SearchSpace
from lgc.profiler.backends import BACKENDS, Workload, get_backend
from lgc.profiler.backends.base import IMAGE_DTYPE
from lgc.profiler.deployment.latency import time_network
from lgc.profiler.deployment.network import Network
from lgc.profiler.machine.environment import compare_fingerprints, fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.timing.workloads import network_workload

from ..profiler.backends import wide_dot
from ..python_process import python_output
from . import pace

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch")

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-1}
TARGETS = [
    Target("cuda:0", name, precision)
    for name in ("torch", "onnxruntime", "onnxruntime-tensorrt")
    for precision in get_backend(name).precisions(Device("cuda:0"))
    if precision != "int8"
]
WAITS = """
import torch
from torch import nn
from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
class Waits(nn.Module):
    def forward(self, x):
        return x * x.sum().item()
try:
    get_backend("torch").compile(Workload("waits", ((1, 4, 8, 8),), Waits), Target("cuda:0", "torch"))
except MeasurementError as error:
    print("refused:", error)
"""


@pytest.fixture(params=TARGETS, ids=str)
def target(request) -> Target:
    reason = get_backend(request.param.backend).diagnose(Device("cuda:0"))
    if reason is not None:
        pytest.skip(reason)
    return request.param


def test_output_equals_torch(target):
    workload = network_workload(SearchSpace.load("tiny").sample(0), "core")
    x = np.random.default_rng(0).standard_normal(workload.input_shapes[0], dtype=np.float32)
    runner = get_backend(target.backend).compile(workload, target)
    runner.prepare()
    durations = runner.run(20)
    assert len(durations) == 20
    assert min(durations) > 0
    with torch.no_grad():
        expected = workload.build()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(runner.infer([x])[0], expected, atol=TOLERANCE[target.precision])
    runner.close()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_graph_output_equals_eager_output(precision):
    workload = network_workload(SearchSpace.load("tiny").sample(1), "core")
    runner = get_backend("torch").compile(workload, Target("cuda:0", "torch", precision))
    dtype = getattr(torch, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision])
    module = workload.build().to("cuda:0", dtype).to(memory_format=torch.channels_last)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(workload.input_shapes[0], dtype=np.float32)
        with torch.inference_mode():
            expected = module(torch.from_numpy(x).to("cuda:0", dtype).contiguous(memory_format=torch.channels_last))
        np.testing.assert_allclose(runner.infer([x])[0], expected.float().cpu().numpy(), atol=TOLERANCE[precision] / 10)
        runner.run(3)
    runner.close()


def test_graphs_with_shared_memory_are_independent():
    workloads = [network_workload(SearchSpace.load("tiny").sample(seed), "core") for seed in range(4)]
    x = np.random.default_rng(0).standard_normal(workloads[0].input_shapes[0], dtype=np.float32)
    runners = [get_backend("torch").compile(workload, Target("cuda:0", "torch")) for workload in workloads]
    alone = [runner.infer([x])[0] for runner in runners]
    for order in ([3, 1, 0, 2], [0, 2, 3, 1]):
        for index in order:
            runners[index].run(2)
        for index in order:
            np.testing.assert_allclose(runners[index].infer([x])[0], alone[index], atol=1e-5)
    for runner in runners:
        runner.close()


def test_launch_does_not_count_for_small_operator():
    workload = Workload("relu", ((1, 8, 16, 16),), torch.nn.ReLU)
    runner = get_backend("torch").compile(workload, Target("cuda:0", "torch"))
    runner.prepare()
    alone = pace.measure_isolated_graph_ms(torch.nn.ReLU(), workload.input_shapes[0])
    assert 0 < np.median(runner.run(40)) < pace.MAX_QUEUED_SHARE * alone
    runner.close()


def test_image_copies_are_timed():
    workload = Workload("first row", (pace.IMAGE,), pace.FirstRow, dtype=IMAGE_DTYPE)
    runner = get_backend("torch").compile(workload, Target("cuda:0", "torch"))
    runner.prepare()
    assert np.median(runner.run(20)) > pace.measure_copy_ms(np.prod(pace.IMAGE)) / 2
    runner.close()


def test_synchronising_module_is_rejected():
    # in its own process: a failed capture can break all later ones
    assert python_output("-c", WAITS).startswith("refused: torch cannot capture a CUDA graph: ")


@pytest.mark.parametrize("name", BACKENDS)
def test_fp32_does_not_use_tf32(name, tmp_path):
    """Compare with float64: the error is at most 1e-6 in float32, and at least 3e-4 in TF32, see `wide_dot`.

    It runs in its own process, as one backend turns TF32 off for all.
    """
    reason = get_backend(name).diagnose(Device("cuda:0"))
    if reason is not None:
        pytest.skip(reason)
    printed = python_output(
        "-c",
        f"import wide_dot; print(wide_dot.measure_error({name!r}, 'cuda:0'))",
        folders=[Path(wide_dot.__file__).parent],
        without=["NVIDIA_TF32_OVERRIDE"],
        environment={"LGC_CACHE": str(tmp_path)},
    )
    assert 1e-8 < float(printed) < wide_dot.BOUND


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_out_of_memory_error_suggests_fix(name):
    backend = get_backend(name)
    reason = backend.diagnose(Device("cuda:0"))
    if reason is not None:
        pytest.skip(reason)
    pace.skip_on_shared_memory()
    torch.cuda.empty_cache()
    kept = torch.empty(torch.cuda.mem_get_info(0)[0] - 3 * 2**28, dtype=torch.uint8, device="cuda:0")
    large = Workload("large", ((1, 64, 2048, 2048),), lambda: torch.nn.Conv2d(64, 64, 3, 1, 1))  # 1 GiB
    try:
        with pytest.raises(MeasurementError, match=r"^not enough GPU memory: .*reduce the input size"):
            backend.compile(large, Target("cuda:0", name))
    finally:
        del kept
        torch.cuda.empty_cache()


def test_fingerprint_names_gpu(target):
    result = fingerprint(target, get_backend(target.backend))
    assert result["device_name"] == torch.cuda.get_device_name(0)
    assert result["gpu"]["uuid"].startswith("GPU-")
    assert result["gpu"]["sm_clock_mhz"] > 0
    assert result["gpu"]["memory_mib"] > 1000
    if target.backend == "torch":  # which reports TF32 itself; for the others see test_fp32_does_not_use_tf32
        assert result["tf32"] is False
    assert compare_fingerprints(result, fingerprint(target, get_backend(target.backend))) == []


def test_table_predicts_network(mini_space, tmp_path):
    target = Target("cuda:0", "torch")
    result = profile(mini_space, target, tmp_path / "t.lut", rounds=4, networks=4)
    assert result.measured == result.entries
    with LatencyTable.open(tmp_path / "t.lut") as table:
        network = Network(mini_space.sample(1), None, "dense")
        result = time_network(network, target, table, seconds=0.5)
        assert result.table_ms == Predictor(mini_space, table).predict(network.architecture)
    assert result.equals_torch()
