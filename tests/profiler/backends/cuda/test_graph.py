"""How work is captured and replayed, on a simulated torch.cuda that notes what is asked of it, in which order."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lgc.device import Device
from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.profiler.backends import Workload, base, get_backend
from lgc.profiler.backends.base import FIRST_WARM_UP_MS, WARM_UP_BATCH, WARM_UP_MS, warm_up
from lgc.profiler.backends.cuda import graph as cuda_graph
from lgc.profiler.backends.cuda.graph import WARM_UPS, CudaGraph
from lgc.profiler.backends.cuda.replay_queue import DECAY, MIN_FACTOR, lead_for
from lgc.profiler.backends.torch_ import backend as eager

DEVICE = torch.device("cuda:0")


class Stream:
    def __init__(self, name):
        self.name = name

    def wait_stream(self, other):
        calls.append(f"{self.name} waits for {other.name}")


class Graph:
    """A torch.cuda.CUDAGraph, with a pool of its own unless it is captured into another's."""

    def replay(self):
        calls.append("replay")

    def pool(self):
        return self.own_pool

    def reset(self):
        calls.append("reset")


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        calls.append("event")
        self.at_ms = len(calls)

    def query(self):
        return begun.pop(0) if begun else False

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


calls: list[str] = []
begun: list[bool] = []
"""For each batch, whether the device begins it before all of it is queued."""


@pytest.fixture
def cuda(monkeypatch):
    """The simulated torch.cuda: `streams` in use, innermost last; `end_fails` says how ending a capture fails."""
    state = SimpleNamespace(streams=[Stream("main")], end_fails=None, pools=[])

    @contextmanager
    def stream(entered):
        before = list(state.streams)
        state.streams.append(entered)
        try:
            yield
        finally:
            state.streams[:] = before

    class Capture:
        def __init__(self, graph, pool, stream, capture_error_mode):
            assert capture_error_mode == "thread_local"
            state.pools.append(pool)
            graph.own_pool = pool or f"pool {len(state.pools)}"
            assert stream is state.streams[-1]

        def __enter__(self):
            assert not gc.isenabled(), "the collector may free memory in a capture"
            calls.append("begin")

        def __exit__(self, *_):
            calls.append("end")
            if state.end_fails:
                state.streams.append(Stream("leaked"))
                raise RuntimeError(state.end_fails)

    @contextmanager
    def device(entered):
        assert entered == DEVICE
        yield

    fakes = {
        "CUDAGraph": Graph,
        "Stream": lambda device: Stream("side"),
        "current_stream": lambda device: state.streams[-1],
        "stream": stream,
        "graph": Capture,
        "device": device,
        "Event": Event,
        "synchronize": lambda device: calls.append("wait"),
        "_sleep": lambda cycles: calls.append("sleep"),
    }
    for name, fake in fakes.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, fake)
    cached = (cuda_graph._alive, cuda_graph._side_stream, lead_for)
    for function in cached:
        function.cache_clear()
    calls.clear()
    begun.clear()
    yield state
    assert gc.isenabled()
    for function in cached:
        function.cache_clear()


def work():
    calls.append("work")
    return "outputs"


def test_work_is_warm_before_it_is_captured_on_the_side_stream(cuda):
    graph = CudaGraph(work, DEVICE)
    assert calls == ["side waits for main", *["work"] * WARM_UPS, "begin", "work", "end"]
    assert graph.result == "outputs"
    assert [stream.name for stream in cuda.streams] == ["main"]


def test_replays_are_queued_while_the_device_is_busy_and_waited_for_once(cuda):
    graph = CudaGraph(work, DEVICE)
    calls.clear()
    durations = graph.time(3)
    assert calls == ["sleep", *["event", "replay", "event"] * 3, "wait"]
    assert durations == [2.0] * 3


def test_a_batch_begun_early_is_dropped(cuda):
    graph = CudaGraph(work, DEVICE)
    begun.extend([True, True, False])
    calls.clear()
    assert graph.time(2) == [2.0] * 2
    assert calls == ["sleep", *["event", "replay", "event"] * 2, "wait"] * 3
    assert lead_for(Device("cuda:0")).factor == pytest.approx(DECAY * 4 * MIN_FACTOR)
    assert lead_for(Device("cuda:0")).launch_us > 0


def test_a_batch_without_events_is_waited_for_once(cuda):
    graph = CudaGraph(work, DEVICE)
    calls.clear()
    graph.replay_batch(3)
    assert calls == ["replay", "replay", "replay", "wait"]


def test_a_replay_is_not_waited_for(cuda):
    graph = CudaGraph(work, DEVICE)
    calls.clear()
    graph.replay()
    assert calls == ["replay"]


def test_living_graphs_share_one_memory(cuda):
    first, second = CudaGraph(work, DEVICE), CudaGraph(work, DEVICE)
    first.close()
    first.close()
    third = CudaGraph(work, DEVICE)
    for graph in (second, third):
        graph.close()
    CudaGraph(work, DEVICE)
    assert cuda.pools == [None, "pool 1", "pool 1", None]
    assert not hasattr(first, "result")


def test_work_that_fails_gives_torchs_reason(cuda):
    def broken():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")

    with pytest.raises(MeasurementError, match=r"CUDA graph of it: mat1 and mat2 shapes cannot be multiplied$"):
        CudaGraph(broken, DEVICE)
    assert "begin" not in calls


def test_a_failed_capture_gives_the_first_reason_and_leaves_no_trace(cuda):
    alive = CudaGraph(work, DEVICE)
    cuda.end_fails = "operation failed due to a previous error during capture"

    def synchronising():
        if calls[-1] == "begin":
            raise RuntimeError("operation not permitted when stream is capturing")

    streams = list(cuda.streams)
    with pytest.raises(MeasurementError, match="operation not permitted when stream is capturing"):
        CudaGraph(synchronising, DEVICE)
    assert cuda.streams == streams
    cuda.end_fails = None
    CudaGraph(work, DEVICE)
    assert cuda.pools[-1] is None  # the memory that the failed capture shared is not taken again
    alive.replay()


def test_a_capture_that_fails_only_at_its_end_is_an_error_too(cuda):
    cuda.end_fails = "Invalid capture."
    with pytest.raises(MeasurementError, match="Invalid capture"):
        CudaGraph(work, DEVICE)


@pytest.fixture
def warmed(monkeypatch):
    """Warms up a runner whose runs take 0.125 ms of wall time: `warmed(device)` gives the batches asked for."""
    monkeypatch.setattr(base, "_warm", set())
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(base, "time", clock)

    def warm(device):
        asked = []

        def run_untimed(repeats):
            asked.append(repeats)
            clock.now += 0.125e-3 * repeats

        warm_up(SimpleNamespace(run_untimed=run_untimed), Device(device))
        return asked

    return warm


@pytest.mark.parametrize(("device", "largest"), [("cuda:1", WARM_UP_BATCH), ("cpu", 1)])
def test_only_a_gpu_is_warmed_in_batches(warmed, device, largest):
    asked = warmed(device)
    assert (asked[0], max(asked)) == (1, largest)


def test_a_gpu_is_warmed_long_once(warmed):
    first, second, other = (0.125 * sum(warmed(device)) for device in ("cuda:0", "cuda:0", "cuda:1"))
    for spent_ms in (first, other):
        assert FIRST_WARM_UP_MS <= spent_ms < FIRST_WARM_UP_MS + 0.125 * WARM_UP_BATCH
    assert WARM_UP_MS <= second < FIRST_WARM_UP_MS / 5


SHORT = r"^too little GPU memory: torch: CUDA out of memory\. Tried to allocate 2 GiB; take a smaller input size"


def full(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


class Replayed:
    """Stands in for a CudaGraph: runs the work again at each replay, as a graph would."""

    def __init__(self, work, device):
        self.work, self.device, self.closed, self.waited = work, device, False, False
        self.result = work()

    def replay(self):
        with torch.inference_mode():
            self.result = self.work()

    def wait(self):
        self.waited = True

    def time(self, repeats):
        self.replay()
        return [1.0] * repeats

    def replay_batch(self, repeats):
        self.replay()

    def close(self):
        self.closed = True


@pytest.fixture
def runner(monkeypatch):
    """A GraphRunner whose device is the CPU: `runner(module, *shapes, precision="fp32")`."""
    monkeypatch.setattr(eager, "CudaGraph", Replayed)

    def make(module, *shapes, precision="fp32"):
        return eager.GraphRunner(Workload("net", shapes, lambda: module), precision, torch.device("cpu"))

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_modules_and_images_lie_channels_last(runner, precision):
    made = runner(nn.Conv2d(4, 8, 3), (1, 4, 6, 6), precision=precision)
    for tensor in (made._module.weight, *made._inputs):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert str(tensor.dtype) == f"torch.{eager.DTYPES[precision]}"


def test_inference_is_a_replay_over_the_same_inputs(runner):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    made = runner(module, (1, 3, 5, 7))
    places = [tensor.data_ptr() for tensor in made._inputs]
    one, two = (np.full((1, 3, 5, 7), value, np.float32) for value in (1, 2))
    first, second = (made.infer([image])[0] for image in (one, two))
    with torch.inference_mode():
        np.testing.assert_allclose(first, module(torch.from_numpy(one)).numpy(), atol=1e-6)
    assert not np.array_equal(first, second)
    assert made._graph.waited
    assert first.flags.c_contiguous
    assert first.dtype == np.float32
    assert [tensor.data_ptr() for tensor in made._inputs] == places


def test_inputs_are_filled_anew_before_timing(runner):
    made = runner(nn.Identity(), (1, 2, 3, 3))
    made.prepare()
    first = made._inputs[0].clone()
    assert first.std() > 0
    made.infer([np.zeros((1, 2, 3, 3), np.float32)])
    assert made._inputs[0].abs().sum() == 0
    made.prepare()
    assert torch.equal(made._inputs[0], first)
    assert made.run(4) == [1.0] * 4


def test_several_inputs_and_outputs_and_labels_keep_their_order(runner):
    class Pair(nn.Module):
        def forward(self, x, y):
            return x + y, (x * y).argmax(1)

    made = runner(Pair(), (1, 2, 2, 2), (1, 2, 2, 2), precision="fp16")
    total, labels = made.infer([np.ones((1, 2, 2, 2), np.float32), np.ones((1, 2, 2, 2), np.float32)])
    assert (total == 2).all()
    assert (total.dtype, labels.dtype) == (np.float32, np.int64)
    graph = made._graph
    made.close()
    assert graph.closed


def test_out_of_memory_while_warming_up_is_a_measurement_error(runner, monkeypatch):
    made = runner(nn.Identity(), (1, 1, 2, 2))

    for name in ("time", "replay_batch"):
        monkeypatch.setattr(made._graph, name, full)
    for work in (made.prepare, lambda: made.run(1)):
        with pytest.raises(MeasurementError, match=SHORT):
            work()


@pytest.mark.parametrize(("place", "name"), [(eager, "_empty"), (nn.Module, "to"), (eager, "CudaGraph")])
def test_out_of_memory_while_a_runner_is_made_is_a_measurement_error(runner, monkeypatch, place, name):
    monkeypatch.setattr(place, name, full)
    with pytest.raises(MeasurementError, match=SHORT):
        eager.GraphRunner(Workload("net", ((1, 1, 2, 2),), nn.Identity), "fp32", torch.device("cpu"))


def test_out_of_memory_while_the_runners_inputs_are_filled_is_a_measurement_error(runner, monkeypatch):
    made = runner(nn.Identity(), (1, 1, 2, 2))
    monkeypatch.setattr(made, "_fill", full)
    for work in (made.prepare, lambda: made.infer([np.zeros((1, 1, 2, 2), np.float32)])):
        with pytest.raises(MeasurementError, match=SHORT):
            work()


def test_out_of_memory_in_the_work_before_a_capture(cuda):
    with pytest.raises(MeasurementError, match=r"^too little GPU memory: torch makes no CUDA graph of it: CUDA out of"):
        CudaGraph(full, DEVICE)


def test_a_module_that_cannot_be_made_is_a_bug(runner):
    def build():
        raise RuntimeError("Error(s) in loading state_dict")

    with pytest.raises(RuntimeError, match="loading state_dict"):
        eager.GraphRunner(Workload("net", ((1, 1, 2, 2),), build), "fp32", torch.device("cpu"))


def test_fp32_is_refused_where_tf32_stays_on(monkeypatch):
    monkeypatch.setattr(eager, "forbid_tf32", lambda: True)
    monkeypatch.setattr(eager, "GraphRunner", lambda *made_of: made_of)
    workload = Workload("net", ((1, 1, 2, 2),), nn.Identity)
    with pytest.raises(MeasurementError, match="keeps TF32 on, so fp32 would not be fp32"):
        get_backend("torch").compile(workload, Target("cuda:1", "torch"))
    made_of = get_backend("torch").compile(workload, Target("cuda:1", "torch", "fp16"))
    assert made_of == (workload, "fp16", torch.device("cuda:1"))


def test_cudnn_chooses_algorithms_by_its_heuristic(monkeypatch):
    monkeypatch.setattr(eager, "GraphRunner", lambda *_: None)
    monkeypatch.setattr(eager, "forbid_tf32", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    target = Target("cuda:0", "torch")
    get_backend("torch").compile(Workload("net", ((1, 1, 2, 2),), nn.Identity), target)
    assert torch.backends.cudnn.benchmark is False
    assert get_backend("torch").settings(target)["cudnn_benchmark"] == "off"


def test_on_the_cpu_nothing_is_captured_and_the_format_is_the_plain_one():
    made = get_backend("torch").compile(
        Workload("net", ((1, 4, 6, 6),), lambda: nn.Conv2d(4, 8, 3)), Target("cpu", "torch")
    )
    assert isinstance(made, eager.TorchRunner)
    assert made._module.weight.is_contiguous()
    assert made._inputs[0].is_contiguous()
