"""Engines run on a GPU: results against torch, timings, several precisions. Skipped with the reason elsewhere."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lgc.errors import MeasurementError
from lgc.lut.target import Target
from lgc.profiler.backends import Workload, get_backend, trt_engine
from lgc.profiler.backends.trt_engine import build_engine, device_capability
from lgc.profiler.backends.trt_loader import FULL, load_tensorrt

SHAPE = (1, 3, 64, 128)

REASON = get_backend("tensorrt").unavailable("cuda:0")

pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = (
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.Conv2d(16, 16, 3, 1, 2, 2, 16),
            nn.Conv2d(32, 5, 1),
        )

    def forward(self, x):
        a = torch.relu(self.stem(x))
        b = F.max_pool2d(torch.relu(self.body(a)) + a, 3, 1, 1)
        return F.interpolate(self.head(torch.cat([a, b], 1)), scale_factor=2, mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def make_runner(module):
    made = []

    def make(precision="fp32"):
        workload = Workload("net", (SHAPE,), lambda: module)
        made.append(get_backend("tensorrt").compile(workload, Target("cuda:0", "tensorrt", precision)))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3), ("bf16", 5e-2)])
def test_outputs_agree_with_torch(make_runner, module, precision, tolerance):
    image = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    with torch.no_grad():
        reference = module(torch.from_numpy(image)).numpy()
    (logits,) = make_runner(precision).infer([image])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference, atol=tolerance)


def test_inference_does_not_depend_on_what_ran_before(make_runner):
    runner = make_runner()
    image = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    (first,) = runner.infer([image])
    runner.prepare()
    runner.run(5)
    (second,) = runner.infer([image])
    np.testing.assert_array_equal(first, second)


def test_times_are_milliseconds_of_single_runs(make_runner):
    runner = make_runner()
    runner.prepare()
    times = runner.run(50)
    assert len(times) == 50
    assert all(0.001 < time < 50 for time in times)


def test_wrong_shapes_are_refused(make_runner):
    with pytest.raises(MeasurementError, match=r"takes inputs of shapes \[\(1, 3, 64, 128\)\], not \[\(1, 3, 8, 8\)\]"):
        make_runner().infer([np.zeros((1, 3, 8, 8), np.float32)])


def test_closing_twice_does_no_harm(make_runner):
    runner = make_runner()
    runner.close()
    runner.close()


def test_engine_is_for_this_device(module):
    engine = build_engine(Workload("net", (SHAPE,), lambda: module).onnx)
    assert engine.compute_capability == device_capability()
    assert not engine.assumed
    assert engine.layers


def test_a_second_engine_leaves_the_first_ones_results_alone(make_runner):
    first, second = make_runner(), make_runner("fp16")
    image = np.random.default_rng(2).standard_normal(SHAPE, np.float32)
    (alone,) = first.infer([image])
    second.prepare()
    second.run(5)
    np.testing.assert_array_equal(first.infer([image])[0], alone)


def test_builds_share_their_timings(module):
    if load_tensorrt().flavour != FULL:
        pytest.skip("TensorRT-RTX times nothing while it builds")
    trt_engine._timings.clear()
    onnx_model = Workload("net", (SHAPE,), lambda: module).onnx
    seconds = [build_engine(onnx_model).seconds for _ in range(2)]
    (timings,) = trt_engine._timings.values()
    assert len(timings) > 1000
    assert seconds[1] < seconds[0]
