"""How an engine is loaded, captured, timed and freed, on a simulated CUDA and TensorRT; the real are in tests/gpu."""

import ctypes
import json
import sys
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np
import pytest

from lgc.errors import BackendUnavailableError, MeasurementError
from lgc.profiler.backends import cuda_driver, cuda_place, trt_runner
from lgc.profiler.backends.base import random_inputs
from lgc.profiler.backends.cuda_graph import LEAD_PER_REPLAY_US, LEAD_US, WARM_UPS
from lgc.profiler.backends.trt_engine import Engine
from lgc.profiler.backends.trt_loader import FULL, RTX, Library
from lgc.profiler.backends.trt_runner import EngineRunner

SHAPE = (1, 2, 3, 4)
STREAM, REPLAY_MS = 77, 0.5
NO_MEMORY, NOT_CAPTURED = 2, 900
NAMES = {NO_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY", NOT_CAPTURED: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}


class Cuda:
    """pycuda's driver and the functions of libcuda, on the host: what is queued is done at once, or captured.

    Attributes:
        journal: what was done, in order.
        held: kinds of what was made and not freed.
        memory: address -> what is allocated there.
        refused: function of libcuda -> the error that it gives.
        depth: how many contexts were pushed.
    """

    def __init__(self):
        self.journal, self.held, self.refused, self.memory = [], [], {}, WeakValueDictionary()
        self.depth, self.clock, self.captured, self.graphs = 0, 0.0, None, {}
        cuda = self

        class Error(Exception):
            pass

        class Thing:
            """Whatever needs a current context to be made and freed."""

            def __init__(self, kind):
                assert cuda.depth == 1, f"{kind} without a context"
                self.kind = kind
                cuda.held.append(kind)

            def free(self):
                cuda.held.remove(self.kind)
                cuda.journal.append(f"free {self.kind}")

        class Stream(Thing):
            handle = STREAM

            def __init__(self, flags):
                assert flags == cuda_place.NON_BLOCKING
                super().__init__("stream")

            def __del__(self):
                self.free()

        class Memory(Thing):
            def __init__(self, size):
                super().__init__("memory")
                self.bytes = bytearray(size)
                cuda.memory[id(self)] = self

            def __int__(self):
                return id(self)

        class Event:
            asked = 0

            def record(self, stream):
                assert stream.handle == STREAM
                self.at = cuda.clock
                return self

            def query(self):
                self.asked += 1
                return self.asked > 2

            def time_till(self, other):
                return other.at - self.at

        def copy(source, target):
            target[:] = source

        context = SimpleNamespace(push=self.push, detach=lambda: None)
        self.driver = SimpleNamespace(
            Error=Error,
            Stream=Stream,
            Event=Event,
            Context=SimpleNamespace(pop=self.pop),
            Device=lambda index: SimpleNamespace(retain_primary_context=lambda: context),
            init=lambda: None,
            mem_alloc=Memory,
            pagelocked_zeros=np.zeros,
            memcpy_htod_async=lambda device, host, stream: self.queue(
                "to device", lambda: copy(host.tobytes(), device.bytes)
            ),
            memcpy_dtoh_async=lambda host, device, stream: self.queue(
                "to host", lambda: copy(device.bytes, memoryview(host).cast("B"))
            ),
        )

    def push(self):
        self.depth += 1

    def pop(self):
        self.depth -= 1

    def queue(self, what, do):
        assert self.depth == 1, f"{what} without a context"
        if self.captured is not None:
            self.captured.append((what, do))
            return
        self.journal.append(what)
        do()

    def __getattr__(self, name):
        """A function of libcuda: notes its call, and gives an error if it is to."""
        if not name.startswith("cu"):
            raise AttributeError(name)
        functions = {
            "cuGetErrorName": self.name_error,
            "cuStreamBeginCapture_v2": self.begin,
            "cuStreamEndCapture": self.end,
            "cuGraphInstantiateWithFlags": self.instantiate,
            "cuGraphDestroy": self.destroy,
            "cuGraphExecDestroy": self.destroy,
            "cuGraphLaunch": self.launch,
            "cuLaunchHostFunc": self.call_on_host,
        }

        def function(*arguments):
            if name != "cuGetErrorName":
                self.journal.append(name)
            return self.refused.get(name) or functions[name](*arguments) or 0

        return function

    def name_error(self, result, out):
        out._obj.value = NAMES.get(result)
        return 0 if result in NAMES else 1

    def begin(self, stream, mode):
        assert (stream, mode) == (STREAM, cuda_driver.THREAD_LOCAL)
        self.captured = []

    def end(self, stream, out):
        out._obj.value = self.note(self.captured)
        self.captured = None

    def instantiate(self, out, graph, flags):
        out._obj.value = self.note(self.graphs[graph.value])

    def destroy(self, graph):
        del self.graphs[graph.value]

    def launch(self, graph, stream):
        for what, do in self.graphs[graph.value]:
            self.queue(what, do)
        self.clock += REPLAY_MS

    def call_on_host(self, stream, function, microseconds):
        assert function.value
        self.journal[-1] += f" {microseconds}"

    def note(self, work):
        handle = 1000 + len(self.graphs)
        self.graphs[handle] = work
        return handle


class Context:
    """Doubles the input into the output, wherever the two are bound to lie."""

    def __init__(self, engine):
        self.engine, self.addresses, self.profiler = engine, {}, None

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in self.engine.bound

    def execute_async_v3(self, stream):
        assert stream == STREAM
        self.engine.cuda.queue("engine", self.compute)
        if self.profiler is not None:
            self.engine.runs += 1
            self.profiler.report_layer_time("/a/Conv + /a/Relu", 0.5 * self.engine.runs)
            self.profiler.report_layer_time("__myl_Cast_myl0_1", 0.25)
        return self.engine.works

    def compute(self):
        given, made = (self.engine.cuda.memory[self.addresses[name]] for name in ("input_0", "output_0"))
        values = np.frombuffer(given.bytes, self.engine.numpy_type)
        made.bytes[:] = (2 * values).tobytes()


class SimulatedEngine:
    """An engine of one input and one output, both of `SHAPE`."""

    names = bound = ("input_0", "output_0")
    num_io_tensors, runs, works = 2, 0, True
    dtype, numpy_type = "FLOAT", np.float32

    def __init__(self, cuda):
        self.cuda = cuda

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.dtype)

    def get_tensor_shape(self, name):
        return SHAPE

    def get_tensor_mode(self, name):
        return name.partition("_")[0]

    def create_execution_context(self):
        return Context(self)

    def create_engine_inspector(self):
        layer = {"Name": "__myl_Cast_myl0_1", "Metadata": "[ONNX Layer: /b/Cast]\x1f[ONNX Layer: /c/Add]"}
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": [layer]}))


@pytest.fixture
def cuda(monkeypatch):
    simulated = Cuda()
    monkeypatch.setattr(cuda_place, "_driver", lambda: simulated.driver)
    monkeypatch.setattr(cuda_driver, "_cuda", lambda: simulated)
    cuda_place._primary_context.cache_clear()
    yield simulated
    cuda_place._primary_context.cache_clear()
    assert simulated.depth == 0


@pytest.fixture
def engine(cuda):
    return SimulatedEngine(cuda)


@pytest.fixture
def make_runner(monkeypatch, engine):
    log = SimpleNamespace(
        logger=None, clear=lambda: None, failure=lambda what: MeasurementError(f"{what}: bad weather")
    )
    monkeypatch.setattr(trt_runner, "get_log", lambda library: log)
    loaded = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == b"plan" else None)
    module = SimpleNamespace(
        Runtime=lambda logger: loaded,
        TensorIOMode=SimpleNamespace(INPUT="input"),
        IProfiler=object,
        LayerInformationFormat=SimpleNamespace(JSON=1),
    )

    def make(data=b"plan", flavour=FULL):
        library = Library(module, FULL, "10.13", can_build_without_gpu=False)
        return EngineRunner(library, Engine(data, flavour, "10.13", "fp32", "9.0", False, (), 1.0), "cuda:1")

    return make


@pytest.fixture
def images(engine):
    engine.dtype, engine.numpy_type = "UINT8", np.uint8


def test_tensors_are_copied_around_the_graph_not_in_it(make_runner, cuda):
    runner = make_runner()
    assert not runner.copies
    assert cuda.journal == [
        "to device",
        "to device",
        *["engine"] * WARM_UPS,
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
    ]
    cuda.journal.clear()
    image = np.arange(24, dtype=np.float32).reshape(SHAPE)
    (out,) = runner.infer([image])
    np.testing.assert_array_equal(out, 2 * image)
    assert cuda.journal == ["to device", "cuGraphLaunch", "engine", "to host"]


def test_images_are_copied_in_the_graph(make_runner, cuda, images):
    runner = make_runner()
    assert runner.copies
    cuda.journal.clear()
    image = np.arange(24, dtype=np.uint8).reshape(SHAPE)
    (out,) = runner.infer([image])
    np.testing.assert_array_equal(out, 2 * image)
    assert cuda.journal == ["cuGraphLaunch", "to device", "engine", "to host"]


def test_an_output_is_the_callers_own(make_runner):
    runner = make_runner()
    (first,) = runner.infer([np.ones(SHAPE, np.float32)])
    runner.infer([np.zeros(SHAPE, np.float32)])
    assert np.all(first == 2)


def test_runs_are_queued_behind_a_pause_and_timed_one_by_one(make_runner, cuda):
    runner = make_runner()
    cuda.journal.clear()
    assert runner.run(3) == [REPLAY_MS] * 3
    pause = f"cuLaunchHostFunc {LEAD_US + 3 * LEAD_PER_REPLAY_US}"
    assert cuda.journal == [pause, *["cuGraphLaunch", "engine"] * 3]
    assert runner.run(0) == []


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_inputs_are_those_of_every_backend(make_runner, engine, dtype):
    engine.dtype, engine.numpy_type = {"float32": "FLOAT", "uint8": "UINT8"}[dtype], dtype
    runner = make_runner()
    runner.prepare()
    np.testing.assert_array_equal(runner._inputs[0].host, random_inputs([SHAPE], dtype)[0])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "nothing"),
        ([np.zeros((1, 2, 3, 5), np.float32)], "float32 1x2x3x5"),
        ([np.zeros(SHAPE, np.float32)] * 2, "float32 1x2x3x4, float32 1x2x3x4"),
        ([np.zeros(SHAPE, np.complex64)], "complex64 1x2x3x4"),
    ],
)
def test_wrong_inputs_are_refused(make_runner, given, told):
    with pytest.raises(MeasurementError) as caught:
        make_runner().infer(given)
    assert str(caught.value) == f"the engine takes float32 1x2x3x4, not {told}"


def test_layers_are_timed_without_the_graph_in_a_context_of_their_own(make_runner, cuda):
    runner = make_runner()
    captured = runner._context
    cuda.journal.clear()
    fused, cast = runner.layer_times(3)
    assert (fused.layer, fused.nodes, fused.ms) == ("/a/Conv + /a/Relu", ("/a/Conv", "/a/Relu"), 1.0)
    assert (cast.layer, cast.nodes, cast.ms) == ("__myl_Cast_myl0_1", ("/b/Cast", "/c/Add"), 0.25)
    assert cuda.journal == ["engine"] * 4
    assert runner._context is captured
    assert captured.profiler is None


def test_everything_is_freed_the_graph_first(make_runner, cuda):
    runner = make_runner()
    assert len(cuda.held) == 3
    cuda.journal.clear()
    runner.close()
    runner.close()
    assert cuda.journal == ["cuGraphExecDestroy", "free memory", "free memory", "free stream"]
    assert cuda.held == []
    assert cuda.graphs == {}
    assert runner._context is runner._engine is None
    with pytest.raises(MeasurementError, match="was closed"):
        runner.run(1)


def test_engines_of_elsewhere_are_refused(make_runner, cuda):
    with pytest.raises(MeasurementError, match=r"10\.13 refuses the engine on cuda:1: bad weather"):
        make_runner(data=b"of another device")
    assert cuda.held == []
    with pytest.raises(BackendUnavailableError, match="an engine of TensorRT-RTX does not run in TensorRT 10"):
        make_runner(flavour=RTX)


def test_an_engine_that_does_not_run_is_refused(make_runner, engine, cuda):
    engine.works = False
    with pytest.raises(MeasurementError, match=r"TensorRT 10\.13 failed to run the engine: bad weather"):
        make_runner()
    assert cuda.held == []


def test_a_buffer_that_is_refused_is_named(make_runner, engine, cuda):
    engine.bound = ("input_0",)
    with pytest.raises(MeasurementError, match="refuses the buffer of output_0: bad weather"):
        make_runner()
    assert cuda.held == []


def test_a_type_that_numpy_lacks_is_named(make_runner, engine, cuda):
    engine.dtype = "BF16"
    with pytest.raises(MeasurementError, match="input_0 is BF16, which numpy lacks: export the model with float32"):
        make_runner()
    assert cuda.held == []


@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy"]
)
def test_a_failed_capture_is_told_by_its_name_and_leaves_nothing(make_runner, cuda, function):
    cuda.refused[function] = NOT_CAPTURED
    with pytest.raises(MeasurementError, match=f"{function} failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        make_runner()
    assert cuda.held == []


def test_what_fails_in_a_capture_is_told_and_the_capture_ended(cuda):
    def work():
        raise MeasurementError("the engine failed")

    cuda.depth = 1
    with pytest.raises(MeasurementError, match="the engine failed"):
        cuda_driver.StreamGraph(work, STREAM)
    assert cuda.captured is None
    assert cuda.graphs == {}
    cuda.depth = 0


def test_too_little_memory_says_what_to_lower(make_runner, cuda):
    def refuse(size):
        raise cuda.driver.Error("cuMemAlloc failed: out of memory")

    cuda.driver.mem_alloc = refuse
    with pytest.raises(MeasurementError) as caught:
        make_runner()
    assert str(caught.value) == (
        "too little GPU memory: cuda:1 failed: cuMemAlloc failed: out of memory; take a smaller input size, or end "
        "other programs on the GPU"
    )
    assert caught.value.exit_code == 2
    assert cuda.held == []


def test_a_graph_for_which_memory_is_short(make_runner, cuda):
    cuda.refused["cuGraphInstantiateWithFlags"] = NO_MEMORY
    with pytest.raises(MeasurementError, match=r"too little GPU memory: cuGraphInst.*OUT_OF_MEMORY; take a smaller"):
        make_runner()


def test_an_error_without_a_name_has_its_number(cuda):
    assert cuda_driver.error_name(12345) == "CUDA error 12345"


def test_the_pause_is_the_c_librarys(monkeypatch):
    slept = []
    kept = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(slept.append)
    monkeypatch.setattr(cuda_driver, "_usleep", lambda: kept)

    def launch(stream, function, argument):
        ctypes.CFUNCTYPE(None, ctypes.c_size_t)(function.value)(argument)
        return 0

    monkeypatch.setattr(cuda_driver, "_cuda", lambda: SimpleNamespace(cuLaunchHostFunc=launch))
    cuda_driver.pause(STREAM, 125)
    assert slept == [125]
    monkeypatch.undo()
    assert cuda_driver._usleep().__name__ == "usleep"


def test_no_driver(monkeypatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda_that_is_not_there.so")
    cuda_driver._cuda.cache_clear()
    with pytest.raises(BackendUnavailableError, match=r"no NVIDIA driver of CUDA 11\.4 or later: libcuda_that"):
        cuda_driver.call("cuGraphLaunch")


def test_pycuda_is_missing(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: None)
    assert cuda_place.pycuda_missing().startswith(
        'pycuda is not installed: pip install "lgc[tensorrt]" (pycuda is comp'
    )


def test_pycuda_does_not_load(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "pycuda is installed but does not load (" in cuda_place.pycuda_missing()


def test_pycuda_is_there(monkeypatch):
    monkeypatch.setattr(cuda_place, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=None, __path__=[]))
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace())
    assert cuda_place.pycuda_missing() is None
