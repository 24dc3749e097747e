"""Simulated CUDA driver and TensorRT engine: queued work runs at once or is captured, and every call is recorded."""

import gc
import json
from enum import IntEnum
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np

from lgc.profiler.backends.cuda import device as cuda_place

SHAPE = (1, 2, 3, 4)
STREAM, REPLAY_MS = 77, 0.5
USER_MANAGED = "user managed"
THREAD_LOCAL = 1


class Result(IntEnum):
    """Result codes of the driver, named as in NVIDIA's bindings."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


NO_MEMORY, NOT_CAPTURED = Result.CUDA_ERROR_OUT_OF_MEMORY, Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED


class Cuda:
    """CUDA driver on the host, with the interfaces of pycuda and of NVIDIA's bindings.

    Attributes:
        journal: executed calls, in order.
        held: kinds of the resources that are not freed.
        memory: address -> allocation.
        refused: function of the bindings -> error that it returns.
        depth: number of contexts on the stack.
        early: number of batches that the device starts before all of their runs are queued.
    """

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=THREAD_LOCAL)

    def __init__(self):
        self.journal, self.held, self.refused, self.memory = [], [], {}, WeakValueDictionary()
        self.depth, self.clock, self.captured, self.graphs, self.early = 0, 0.0, None, {}, 0
        cuda = self

        class Error(Exception):
            pass

        class Thing:
            """Resource that requires a current context when it is created and freed."""

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
            """Event; the first after a spin is queried once before the wait, to see if the device started early."""

            asked, first = 0, False

            def record(self, stream):
                assert stream.handle == STREAM
                self.at, self.first, cuda.spinning = cuda.clock, cuda.spinning, False
                return self

            def query(self):
                self.asked += 1
                if self.first and self.asked == 1:
                    cuda.early -= 1
                    return cuda.early >= 0
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
            pagelocked_zeros=self.pin,
            memset_d8_async=lambda device, value, size, stream: self.queue(
                "set", lambda: copy(bytes([value]) * size, device.bytes)
            ),
            memcpy_htod_async=lambda device, host, stream: self.queue(
                "to device", lambda: copy(host.tobytes(), device.bytes)
            ),
            memcpy_dtoh_async=lambda host, device, stream: self.queue(
                "to host", lambda: copy(device.bytes, memoryview(host).cast("B"))
            ),
        )

        self.spinning, self.pinned, self.handles = False, [], 1000

    def pin(self, shape, dtype):
        self.pinned.append(shape)
        return np.zeros(shape, dtype)

    def spin(self, microseconds):
        """Simulate the kernel that keeps the device busy."""
        self.spinning = True
        self.journal.append(f"spin {microseconds:.0f}")

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
        """Return a function of the bindings that records its call, and fails if it is in `refused`."""
        if not name.startswith("cu"):
            raise AttributeError(name)
        functions = {
            "cuStreamBeginCapture": self.begin,
            "cuStreamEndCapture": self.end,
            "cuGraphInstantiate": lambda graph, flags: self.note(self.graphs[graph]),
            "cuGraphDestroy": self.graphs.__delitem__,
            "cuGraphExecDestroy": self.graphs.__delitem__,
            "cuGraphLaunch": self.launch,
        }

        def function(*arguments):
            self.journal.append(name)
            if name in self.refused:
                return (self.refused[name], None)
            value = functions[name](*arguments)
            return (Result.CUDA_SUCCESS,) if value is None else (Result.CUDA_SUCCESS, value)

        return function

    def begin(self, stream, mode):
        assert (stream, mode) == (STREAM, THREAD_LOCAL)
        assert not gc.isenabled(), "the collector may free memory in a capture"
        self.captured = []

    def end(self, stream):
        work, self.captured = self.captured, None
        return self.note(work)

    def launch(self, graph, stream):
        for what, do in self.graphs[graph]:
            self.queue(what, do)
        self.clock += REPLAY_MS

    def note(self, work):
        self.handles += 1
        self.graphs[self.handles] = work
        return self.handles


class Context:
    """Execution context that writes twice the input to the output, at the bound addresses.

    It requires scratch memory of the size that the engine reports, and records its own deletion.
    """

    def __init__(self, engine, strategy):
        self.engine, self.addresses, self.profiler = engine, {}, None
        self.strategy, self.scratch = strategy, None

    def set_device_memory(self, memory, size):
        self.scratch = memory
        assert len(self.engine.cuda.memory[memory].bytes) >= size >= max(self.engine.device_memory_size_v2, 1)
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
        assert self.strategy == USER_MANAGED
        assert self.scratch in self.engine.cuda.memory, "memory that was freed"
        given, made = (self.engine.cuda.memory[self.addresses[name]] for name in ("input_0", "output_0"))
        values = np.frombuffer(given.bytes, self.engine.numpy_type)
        made.bytes[:] = (2 * values).tobytes()


class SimulatedEngine:
    """Engine with one input and one output, both of shape `SHAPE`."""

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

    def create_execution_context(self, strategy):
        self.strategies.append(strategy)
        return Context(self, strategy) if len(self.strategies) <= self.makes_contexts else None

    def create_engine_inspector(self):
        layer = {"Name": "__myl_Cast_myl0_1", "Metadata": "[ONNX Layer: /b/Cast]\x1f[ONNX Layer: /c/Add]"}
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": [layer]}))
