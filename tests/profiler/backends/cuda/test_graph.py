"""Capture and replay of CUDA graphs, on a simulated torch.cuda that records the calls in order."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from lgc.device import Device
from lgc.errors import MeasurementError
from lgc.profiler.backends.cuda import graph as cuda_graph
from lgc.profiler.backends.cuda.graph import NUM_WARM_UP_RUNS, CudaGraph
from lgc.profiler.backends.cuda.replay_queue import DECAY, MIN_FACTOR, get_spin_calibration

DEVICE = torch.device("cuda:0")


class Stream:
    def __init__(self, name):
        self.name = name

    def wait_stream(self, other):
        calls.append(f"{self.name} waits for {other.name}")


class Graph:
    """Simulated torch.cuda.CUDAGraph, with its own pool unless it is captured into another graph's."""

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
"""For each batch: True if the device starts it before all of it is queued."""


@pytest.fixture
def cuda(monkeypatch):
    """Simulate torch.cuda: `streams` are current, innermost last; `end_fails` is the error at a capture's end."""
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
    cached = (cuda_graph._get_open_graphs, cuda_graph._get_side_stream, get_spin_calibration)
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


def test_work_is_warm_before_capture(cuda):
    graph = CudaGraph(work, DEVICE)
    assert calls == ["side waits for main", *["work"] * NUM_WARM_UP_RUNS, "begin", "work", "end"]
    assert graph.result == "outputs"
    assert [stream.name for stream in cuda.streams] == ["main"]


def test_replays_queue_behind_spin_and_synchronise_once(cuda):
    graph = CudaGraph(work, DEVICE)
    calls.clear()
    durations = graph.time(3)
    assert calls == ["sleep", *["event", "replay", "event"] * 3, "wait"]
    assert durations == [2.0] * 3


def test_batch_started_early_is_dropped(cuda):
    graph = CudaGraph(work, DEVICE)
    begun.extend([True, True, False])
    calls.clear()
    assert graph.time(2) == [2.0] * 2
    assert calls == ["sleep", *["event", "replay", "event"] * 2, "wait"] * 3
    assert get_spin_calibration(Device("cuda:0")).factor == pytest.approx(DECAY * 4 * MIN_FACTOR)
    assert get_spin_calibration(Device("cuda:0")).launch_us > 0


def test_untimed_batch_synchronises_once(cuda):
    graph = CudaGraph(work, DEVICE)
    calls.clear()
    graph.replay_batch(3)
    assert calls == ["replay", "replay", "replay", "wait"]


def test_replay_does_not_synchronise(cuda):
    graph = CudaGraph(work, DEVICE)
    calls.clear()
    graph.replay()
    assert calls == ["replay"]


def test_open_graphs_share_memory_pool(cuda):
    first, second = CudaGraph(work, DEVICE), CudaGraph(work, DEVICE)
    first.close()
    first.close()
    third = CudaGraph(work, DEVICE)
    for graph in (second, third):
        graph.close()
    CudaGraph(work, DEVICE)
    assert cuda.pools == [None, "pool 1", "pool 1", None]
    assert not hasattr(first, "result")


def test_failing_work_quotes_torch(cuda):
    def broken():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")

    with pytest.raises(MeasurementError, match=r"CUDA graph: mat1 and mat2 shapes cannot be multiplied$"):
        CudaGraph(broken, DEVICE)
    assert "begin" not in calls


def test_failed_capture_reports_cause_and_cleans_up(cuda):
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
    assert cuda.pools[-1] is None  # the failed capture's shared memory is not reused
    alive.replay()


def test_error_at_end_of_capture_is_raised(cuda):
    cuda.end_fails = "Invalid capture."
    with pytest.raises(MeasurementError, match="Invalid capture"):
        CudaGraph(work, DEVICE)


SHORT = r"^not enough GPU memory: torch: CUDA out of memory\. Tried to allocate 2 GiB; reduce the input size"


def full(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def test_out_of_memory_before_capture_is_reported(cuda):
    with pytest.raises(
        MeasurementError, match=r"^not enough GPU memory: torch cannot capture a CUDA graph: CUDA out of"
    ):
        CudaGraph(full, DEVICE)
