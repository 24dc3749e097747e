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
from lgc.profiler.backends.base import PIXELS
from lgc.profiler.deployment import deploy
from lgc.profiler.machine.environment import fingerprint, same_device
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
    reason = get_backend(request.param.backend).unavailable(Device("cuda:0"))
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


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_graph_gives_what_the_module_gives_eagerly(precision):
    workload = network_workload(SearchSpace.load("tiny").sample(1), "core")
    runner = get_backend("torch").compile(workload, Target("cuda:0", "torch", precision))
    dtype = getattr(torch, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision])
    module = workload.build().to("cuda:0", dtype).to(memory_format=torch.channels_last)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(workload.input_shapes[0], dtype=np.float32)
        with torch.inference_mode():
            wanted = module(torch.from_numpy(x).to("cuda:0", dtype).contiguous(memory_format=torch.channels_last))
        np.testing.assert_allclose(runner.infer([x])[0], wanted.float().cpu().numpy(), atol=TOLERANCE[precision] / 10)
        runner.run(3)
    runner.close()


def test_graphs_that_share_memory_do_not_disturb_each_other():
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


def test_a_small_operator_is_not_timed_at_the_hosts_pace():
    workload = Workload("relu", ((1, 8, 16, 16),), torch.nn.ReLU)
    runner = get_backend("torch").compile(workload, Target("cuda:0", "torch"))
    runner.prepare()
    alone = pace.graph_launched_alone_ms(torch.nn.ReLU(), workload.input_shapes[0])
    assert 0 < np.median(runner.run(40)) < pace.QUEUED_AHEAD * alone
    runner.close()


def test_copies_of_images_are_timed():
    workload = Workload("first row", (pace.IMAGE,), pace.FirstRow, dtype=PIXELS)
    runner = get_backend("torch").compile(workload, Target("cuda:0", "torch"))
    runner.prepare()
    assert np.median(runner.run(20)) > pace.copy_ms(np.prod(pace.IMAGE)) / 2
    runner.close()


def test_a_module_that_waits_for_the_device_is_refused_not_run_in_another_way():
    # in a process of its own: what a failed capture leaves behind can fail all later ones
    assert python_output("-c", WAITS).startswith("refused: torch makes no CUDA graph of it: ")


@pytest.mark.parametrize("name", BACKENDS)
def test_fp32_is_not_tf32(name, tmp_path):
    """Held against float64: the error is 1e-6 at most in float32, and 3e-4 at least in TF32, see `wide_dot`.

    In a process of its own: one backend turns TF32 off for all of them.
    """
    reason = get_backend(name).unavailable(Device("cuda:0"))
    if reason is not None:
        pytest.skip(reason)
    printed = python_output(
        "-c",
        f"import wide_dot; print(wide_dot.error_of({name!r}, 'cuda:0'))",
        folders=[Path(wide_dot.__file__).parent],
        without=["NVIDIA_TF32_OVERRIDE"],
        environment={"LGC_CACHE": str(tmp_path)},
    )
    assert 1e-8 < float(printed) < wide_dot.BOUND


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_too_little_memory_says_what_to_lower(name):
    backend = get_backend(name)
    reason = backend.unavailable(Device("cuda:0"))
    if reason is not None:
        pytest.skip(reason)
    pace.skip_on_shared_memory()
    torch.cuda.empty_cache()
    kept = torch.empty(torch.cuda.mem_get_info(0)[0] - 3 * 2**28, dtype=torch.uint8, device="cuda:0")
    large = Workload("large", ((1, 64, 2048, 2048),), lambda: torch.nn.Conv2d(64, 64, 3, 1, 1))  # 1 GiB
    try:
        with pytest.raises(MeasurementError, match=r"^too little GPU memory: .*take a smaller input size"):
            backend.compile(large, Target("cuda:0", name))
    finally:
        del kept
        torch.cuda.empty_cache()


def test_the_fingerprint_names_the_gpu(target):
    found = fingerprint(target, get_backend(target.backend))
    assert found["device_name"] == torch.cuda.get_device_name(0)
    assert found["gpu"]["uuid"].startswith("GPU-")
    assert found["gpu"]["sm_clock_mhz"] > 0
    assert found["gpu"]["memory_mib"] > 1000
    if target.backend == "torch":  # which says so itself; the others are just told, see test_fp32_is_not_tf32
        assert found["tf32"] is False
    assert same_device(found, fingerprint(target, get_backend(target.backend))) == []


def test_a_table_is_measured_and_a_network_held_against_it(mini_space, tmp_path):
    target = Target("cuda:0", "torch")
    result = profile(mini_space, target, tmp_path / "t.lut", rounds=4, networks=4)
    assert result.measured == result.entries
    with LatencyTable.open(tmp_path / "t.lut") as table:
        network = deploy.Network(mini_space.sample(1), None, "dense")
        found = deploy.time_network(network, target, table, seconds=0.5)
        assert found.table_ms == Predictor(mini_space, table).predict(network.architecture)
    assert found.equals_torch()
