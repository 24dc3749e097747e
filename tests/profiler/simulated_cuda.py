"""A simulated CUDA, and an engine of TensorRT on it: what is queued is done at once, or captured; all of it noted."""

import json
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np

from lgc.profiler.backends import cuda_driver, cuda_place

SHAPE = (1, 2, 3, 4)
STREAM, REPLAY_MS = 77, 0.5
STATIC, USER_MANAGED = "static", "user managed"
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
    """Doubles the input into the output, wherever the two are bound to lie.

    One of TensorRT-RTX runs only with memory of its own, as large as the engine says, and notes when it goes.
    """

    def __init__(self, engine, strategy):
        self.engine, self.addresses, self.profiler = engine, {}, None
        self.strategy, self.scratch = strategy, None

    def set_device_memory(self, memory, size):
        self.scratch = memory
        assert len(self.engine.cuda.memory[memory].bytes) == size >= max(self.engine.device_memory_size_v2, 1)
        assert memory not in self.engine.scratch, "another context's memory"
        self.engine.scratch.append(memory)

    def __del__(self):
        if self.scratch is not None:
            self.engine.cuda.journal.append("context gone")

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
        assert (self.strategy == USER_MANAGED) == (self.scratch is not None)
        given, made = (self.engine.cuda.memory[self.addresses[name]] for name in ("input_0", "output_0"))
        values = np.frombuffer(given.bytes, self.engine.numpy_type)
        made.bytes[:] = (2 * values).tobytes()


class SimulatedEngine:
    """An engine of one input and one output, both of `SHAPE`."""

    names = bound = ("input_0", "output_0")
    num_io_tensors, runs, works = 2, 0, True
    device_memory_size_v2, makes_contexts = 4096, 9
    dtype, numpy_type = "FLOAT", np.float32

    def __init__(self, cuda):
        self.cuda, self.scratch, self.strategies = cuda, [], []

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.dtype)

    def get_tensor_shape(self, name):
        return SHAPE

    def get_tensor_mode(self, name):
        return name.partition("_")[0]

    def create_execution_context(self, strategy=STATIC):
        self.strategies.append(strategy)
        return Context(self, strategy) if len(self.strategies) <= self.makes_contexts else None

    def create_engine_inspector(self):
        layer = {"Name": "__myl_Cast_myl0_1", "Metadata": "[ONNX Layer: /b/Cast]\x1f[ONNX Layer: /c/Add]"}
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": [layer]}))
