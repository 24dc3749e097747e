"""Engines on a GPU: outputs compared with torch, latencies, layers, files, memory. Skipped with a reason elsewhere."""

import gc
import json
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lgc.cache_folder import get_cache_folder
from lgc.device import Device
from lgc.errors import FileFormatError, MeasurementError, MismatchError
from lgc.lut.target import Target
from lgc.models import SearchSpace
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.backends.base import IMAGE_DTYPE, measure_layers
from lgc.profiler.backends.trt import backend as trt
from lgc.profiler.backends.trt import timing_cache as trt_timings
from lgc.profiler.backends.trt.engine import build_engine, get_device_capability
from lgc.profiler.backends.trt.engine_cache import load_or_build_engine
from lgc.profiler.backends.trt.engine_files import get_description_path, write_engine_files
from lgc.profiler.backends.trt.loader import FULL, load_tensorrt
from lgc.profiler.deployment.network import Network
from lgc.profiler.deployment.parity import compute_file_outputs
from lgc.profiler.timing.workloads import network_workload
from lgc.search.data.synthetic.scenes import generate_scene

from . import pace

SHAPE = (1, 3, 64, 128)

REASON = get_backend("tensorrt").diagnose(Device("cuda:0"))

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


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt_timings, "_timings", {})
    trt._load_engine.cache_clear()


@pytest.fixture
def net(module):
    return Workload("net", (SHAPE,), lambda: module)


@pytest.fixture
def make_runner(net):
    runners = []

    def make(precision="fp32", workload=net):
        runners.append(get_backend("tensorrt").compile(workload, Target("cuda:0", "tensorrt", precision)))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()


def image(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE, np.float32)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3), ("bf16", 5e-2)])
def test_output_equals_torch(make_runner, module, precision, tolerance):
    with torch.no_grad():
        reference = module(torch.from_numpy(image(0))).numpy()
    (logits,) = make_runner(precision).infer([image(0)])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference, atol=tolerance)


def test_inference_is_independent_of_earlier_runs(make_runner):
    runner = make_runner()
    (first,) = runner.infer([image(1)])
    runner.prepare()
    runner.run(5)
    (second,) = runner.infer([image(1)])
    np.testing.assert_array_equal(first, second)


def test_latencies_are_milliseconds_per_run(make_runner):
    runner = make_runner()
    runner.prepare()
    start = time.perf_counter()
    times = runner.run(50)
    all_ms = 1e3 * (time.perf_counter() - start)
    assert len(times) == 50
    assert min(times) > 0
    assert all_ms / 100 < sum(times) < all_ms, "the times are not in milliseconds"


def test_launch_does_not_count_for_small_operator(make_runner):
    runner = make_runner(workload=Workload("relu", ((1, 8, 16, 16),), torch.nn.ReLU))
    runner.prepare()
    alone = pace.measure_isolated_graph_ms(torch.nn.ReLU(), (1, 8, 16, 16))
    assert 0 < np.median(runner.run(40)) < pace.MAX_QUEUED_SHARE * alone


@pytest.mark.parametrize("scope", ["dense", "end-to-end"])
def test_end_to_end_scope_includes_copies(make_runner, scope):
    runner = make_runner(workload=network_workload(SearchSpace.load("tiny").sample(0), scope))
    assert runner.has_copies == (scope == "end-to-end")


def test_image_copies_are_timed(make_runner):
    runner = make_runner(workload=Workload("first row", (pace.IMAGE,), pace.FirstRow, dtype=IMAGE_DTYPE))
    runner.prepare()
    assert np.median(runner.run(20)) > pace.measure_copy_ms(np.prod(pace.IMAGE)) / 2


def test_image_output_equals_torch(make_runner):
    workload = network_workload(SearchSpace.load("tiny").sample(0), "end-to-end")
    runner = make_runner(workload=workload)
    for pixels in ([np.zeros(workload.input_shapes[0], np.uint8)], workload.inputs()):
        with torch.no_grad():
            expected = workload.module()(*map(torch.from_numpy, pixels)).numpy()
        (labels,) = runner.infer(pixels)
        assert labels.dtype == np.uint8
        assert (labels == expected).mean() > 0.999


def test_layers_are_timed_and_named(make_runner):
    runner = make_runner()
    runner.prepare()
    (before,) = runner.infer([image(3)])
    layers = measure_layers(runner, 10)
    assert len({layer.layer for layer in layers}) == len(layers)
    assert min(layer.ms for layer in layers) >= 0
    nodes = {node for layer in layers for node in layer.nodes}
    assert {"/stem/Conv", "/body/Conv", "/head/Conv"} <= nodes
    assert 0.5 < sum(layer.ms for layer in layers) / np.median(runner.run(50)) < 500, (
        "the times are not in milliseconds"
    )
    np.testing.assert_array_equal(runner.infer([image(3)])[0], before)


def test_wrong_shapes_are_rejected(make_runner):
    with pytest.raises(MeasurementError, match="the engine needs inputs float32 1x3x64x128, not float32 1x3x8x8"):
        make_runner().infer([np.zeros((1, 3, 8, 8), np.float32)])


def test_close_is_idempotent(make_runner):
    runner = make_runner()
    runner.close()
    runner.close()


def test_close_frees_memory(make_runner):
    free, taken = [], []
    for _ in range(4):
        runner = make_runner()
        while_open = torch.cuda.mem_get_info(0)[0]
        runner.close()
        gc.collect()
        free.append(torch.cuda.mem_get_info(0)[0])
        taken.append(free[-1] - while_open)
    assert free[1] - free[-1] <= max(taken[-1], 2**21), "closing two runners loses what one takes"


def test_torch_works_alongside_engine(make_runner):
    stream = torch.cuda.current_stream()
    ones = torch.ones(1000, device="cuda")
    runner = make_runner()
    runner.run(5)
    assert torch.cuda.current_stream() == stream
    assert float((ones + ones).sum()) == 2000
    runner.close()
    assert float((ones + ones).sum()) == 2000


def test_second_engine_keeps_first_engines_results(make_runner):
    first, second = make_runner(), make_runner("fp16")
    (alone,) = first.infer([image(2)])
    second.prepare()
    second.run(5)
    np.testing.assert_array_equal(first.infer([image(2)])[0], alone)


def test_engine_targets_current_device(net):
    engine = build_engine(net.onnx)
    assert engine.compute_capability == get_device_capability()
    assert not engine.assumed
    assert engine.layers
    assert engine.fusions


def test_cached_engine_gives_same_output(net, make_runner):
    (expected,) = make_runner().infer([image(4)])
    trt._load_engine.cache_clear()
    assert load_or_build_engine(net.onnx).cached
    np.testing.assert_array_equal(make_runner().infer([image(4)])[0], expected)


def test_engine_loads_from_files(net, make_runner, tmp_path):
    (expected,) = make_runner().infer([image(5)])
    path = tmp_path / "net.engine"
    write_engine_files(trt.get_engine(net, Target("cuda:0", "tensorrt")), path)
    backend = get_backend("tensorrt")
    runner = backend.open(path, "cuda:0")
    np.testing.assert_array_equal(runner.infer([image(5)])[0], expected)
    runner.close()
    version = load_tensorrt().version
    get_description_path(path).write_text(get_description_path(path).read_text().replace(version, "1.2.3"))
    with pytest.raises(MismatchError, match=r"was built by .* 1\.2\.3 for .*, this machine has .*"):
        backend.open(path, "cuda:0")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="does not match"):
        backend.open(path, "cuda:0")


def test_engine_of_different_device_is_rejected(net, tmp_path):
    path = tmp_path / "net.engine"
    write_engine_files(trt.get_engine(net, Target("cuda:0", "tensorrt")), path)
    about = json.loads(get_description_path(path).read_text())
    get_description_path(path).write_text(json.dumps(about | {"compute_capability": "5.2"}))
    with pytest.raises(MismatchError, match=r"for compute capability 5\.2.*, this machine has .*"):
        get_backend("tensorrt").open(path, "cuda:0")


def test_int8_engine_equals_onnx_on_cpu(make_runner):
    space = SearchSpace.load("tiny")
    images = tuple(generate_scene(0, index, space.input).image for index in range(4))
    network = Network(space.sample(0), None, "dense", images=images)
    (image,) = network.inputs("core")[:1]
    (expected,) = compute_file_outputs(network.model("int8", "core"), [image], "int8")
    runner = make_runner("int8", network.workload("core", "int8"))
    runner.prepare()
    assert min(runner.run(20)) > 0
    (logits,) = runner.infer([image])
    assert np.abs(logits - expected).mean() < 0.05 * expected.std()


def test_out_of_memory_error_suggests_fix(make_runner):
    pace.skip_on_shared_memory()
    free = torch.cuda.mem_get_info(0)[0]
    kept = torch.empty(free - 96 * 2**20, dtype=torch.uint8, device="cuda")
    with pytest.raises(MeasurementError, match=r"not enough GPU memory: .*reduce the input size"):
        make_runner(workload=Workload("large", ((1, 64, 2048, 4096),), lambda: nn.Conv2d(64, 64, 3, 1, 1)))
    del kept
    torch.cuda.empty_cache()


def test_builds_share_timings(net):
    if load_tensorrt().flavour != FULL:
        pytest.skip("TensorRT-RTX times nothing while it builds")
    seconds = [build_engine(net.onnx).seconds]
    trt_timings._timings.clear()  # as in a new process
    seconds.append(build_engine(net.onnx).seconds)
    (path,) = get_cache_folder("timings").iterdir()
    assert path.stat().st_size > 1000
    assert seconds[1] < seconds[0]
