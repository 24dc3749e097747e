"""How an engine is loaded, captured and run, on a simulated TensorRT on the CPU; the real one is in tests/gpu."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lgc.errors import BackendUnavailableError, MeasurementError
from lgc.profiler.backends import trt_engine, trt_runner
from lgc.profiler.backends.base import random_inputs
from lgc.profiler.backends.trt_engine import Engine
from lgc.profiler.backends.trt_loader import FULL, RTX, Library
from lgc.profiler.backends.trt_runner import EngineRunner

SHAPE = (1, 2, 3, 4)


class Replayed:
    """Stands in for a CudaGraph: queues the work again at each replay."""

    def __init__(self, work, device):
        self.work, self.closed = work, 0
        work()

    def replay(self):
        self.work()

    def time(self, repeats):
        return [self.work() or 0.5 for _ in range(repeats)]

    def close(self):
        self.closed += 1


class Context:
    """Doubles `input_0` into `output_0`, wherever the two are bound to lie."""

    def __init__(self, engine):
        self.engine, self.streams, self.works = engine, [], True

    def set_tensor_address(self, name, address):
        return name in self.engine.names

    def execute_async_v3(self, stream):
        self.streams.append(stream)
        buffers = self.engine.runner
        if buffers is not None:
            buffers._outputs["output_0"].copy_(2 * buffers._inputs["input_0"])
        return self.works


class SimulatedEngine:
    """An engine of one input and one output, both float32 and of `SHAPE`."""

    names = ("input_0", "output_0")
    num_io_tensors = 2
    runner = None

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name):
        return SHAPE

    def get_tensor_mode(self, name):
        return name.partition("_")[0]

    def create_execution_context(self):
        self.context = Context(self)
        return self.context


@pytest.fixture
def engine():
    return SimulatedEngine()


@pytest.fixture
def make_runner(monkeypatch, engine):
    log = SimpleNamespace(logger=None, clear=lambda: None, why=lambda: "bad weather")
    monkeypatch.setattr(trt_runner, "get_log", lambda library: log)
    monkeypatch.setattr(trt_runner, "CudaGraph", Replayed)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    loaded = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == b"plan" else None)
    module = SimpleNamespace(Runtime=lambda logger: loaded, TensorIOMode=SimpleNamespace(INPUT="input"))

    def make(data=b"plan", flavour=FULL):
        made = EngineRunner(
            Library(module, FULL, "10.13", can_build_without_gpu=False),
            Engine(data, flavour, "10.13", "fp32", "9.0", False, (), 1.0),
            "cpu",
        )
        engine.runner = made
        return made

    return make


def test_inference_is_a_replay_on_torchs_stream(make_runner, engine):
    runner = make_runner()
    image = np.arange(24, dtype=np.float32).reshape(SHAPE)
    (out,) = runner.infer([image])
    np.testing.assert_array_equal(out, 2 * image)
    assert set(engine.context.streams) == {7}


def test_inputs_are_those_of_every_backend(make_runner):
    runner = make_runner()
    assert not runner._inputs["input_0"].any()
    runner.prepare()
    np.testing.assert_array_equal(runner._inputs["input_0"].numpy(), random_inputs([SHAPE])[0])
    assert runner.run(3) == [0.5] * 3


def test_an_engine_that_cannot_be_captured_is_refused(make_runner, engine, monkeypatch):
    monkeypatch.setattr(Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(MeasurementError, match=r"TensorRT 10\.13 failed to run the engine: bad weather"):
        make_runner()


@pytest.mark.parametrize("shapes", [[], [(1, 2, 3, 5)], [SHAPE, SHAPE]])
def test_wrong_inputs_are_refused(make_runner, shapes):
    with pytest.raises(MeasurementError, match=r"the engine takes inputs of shapes \[\(1, 2, 3, 4\)\], not \["):
        make_runner().infer([np.zeros(shape, np.float32) for shape in shapes])


def test_engines_of_elsewhere_are_refused(make_runner):
    with pytest.raises(MeasurementError, match="refuses the engine on cpu: bad weather"):
        make_runner(data=b"of another device")
    with pytest.raises(BackendUnavailableError, match="an engine of TensorRT-RTX does not run in TensorRT 10"):
        make_runner(flavour=RTX)


def test_the_graph_goes_before_the_engine_and_closing_twice_does_no_harm(make_runner):
    runner = make_runner()
    graph = runner._graph
    runner.close()
    runner.close()
    assert graph.closed == 2
    assert runner._context is runner._engine is None


class Config:
    """A builder's configuration that notes the timings it is given, and has two more after the build."""

    given: bytes

    def create_timing_cache(self, data):
        self.given = data
        return SimpleNamespace(serialize=lambda: data + b"+2")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        return True


def test_builds_on_one_device_share_their_timings(monkeypatch):
    monkeypatch.setattr(trt_engine, "_timings", {})
    full = Library(None, FULL, "10.13", can_build_without_gpu=False)
    given = []
    for device in ("L4", "L4", "H100", "L4"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=device: device)
        config = Config()
        with trt_engine._shared_timings(full, config):
            given.append(config.given)
    assert given == [b"", b"+2", b"", b"+2+2"]


def test_tensorrt_rtx_has_no_timings():
    with trt_engine._shared_timings(Library(None, RTX, "1.7", can_build_without_gpu=True), None):
        pass
    assert trt_engine._timings == {}
