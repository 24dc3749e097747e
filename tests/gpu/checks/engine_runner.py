"""Part 4: the runner of TensorRT engines without TensorRT: a stand-in queues known work on the given stream.

Everything else is real: pycuda's memory, stream and events, NVIDIA's capture calls, the spin, the copies.
"""

from __future__ import annotations

import statistics
from types import SimpleNamespace
from typing import Any

import numpy as np

from .common import require_gpu
from .record import Record
from .settings import Settings

SHAPE = (1, 3, 256, 512)
SPIN_CYCLES = 1_000_000
"""About 0.5 ms: what a run of the stand-in lasts, besides its own small kernels."""
SCRATCH_BYTES = 3 << 20
RUNS, RUNNERS = 40, 5


class CudaArray:
    """Device memory at an address, as torch takes it."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


def queue(device: str, stream: int, addresses: dict[str, int], dtype: str, scratch: int) -> None:
    """Queue on a stream: scratch memory is written, a spin, and the output becomes twice the input."""
    import torch

    place = torch.device(device)
    given, made = (
        torch.as_tensor(CudaArray(addresses[name], SHAPE, dtype), device=place) for name in ("input_0", "output_0")
    )
    work = torch.as_tensor(CudaArray(scratch, (SCRATCH_BYTES,), "uint8"), device=place)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream, device=place)):
        work.fill_(1)
        torch.cuda._sleep(SPIN_CYCLES)
        torch.mul(given, 2, out=made)


class Context:
    """What an engine of TensorRT gives to run it."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._addresses, self._scratch = engine, {}, 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == SCRATCH_BYTES
        self._scratch = memory

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine = self._engine
        if engine.works:
            queue(engine.device, stream, self._addresses, engine.dtype, self._scratch)
        return engine.works


class Engine:
    """An engine of one input and one output, of `SHAPE`."""

    num_io_tensors, device_memory_size_v2 = 2, SCRATCH_BYTES

    def __init__(self, device: str, dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> None:
        self.device, self.dtype, self.shape, self.works = device, dtype, shape, True

    def get_tensor_name(self, index: int) -> str:
        return ("input_0", "output_0")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name={"float32": "FLOAT", "uint8": "UINT8"}[self.dtype])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def get_tensor_mode(self, name: str) -> str:
        return name.partition("_")[0]

    def create_execution_context(self, strategy: str) -> Context:
        assert strategy == "user managed"
        return Context(self)


def make_runner(engine: Engine) -> Any:
    """Return the real runner of the stand-in."""
    from lgc.device import Device
    from lgc.errors import MeasurementError
    from lgc.profiler.backends.trt import runner as trt_runner
    from lgc.profiler.backends.trt.engine import Engine as Plan
    from lgc.profiler.backends.trt.loader import FULL, Library

    log = SimpleNamespace(logger=None, clear=lambda: None, failure=lambda what: MeasurementError(f"{what}: stand-in"))
    trt_runner.get_log = lambda library: log
    module = SimpleNamespace(
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine),
        TensorIOMode=SimpleNamespace(INPUT="input"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    )
    library = Library(module, FULL, "10.13", can_build_without_gpu=False)
    return trt_runner.EngineRunner(
        library, Plan(b"plan", FULL, "10.13", "fp32", "9.0", False, (), 1.0), Device(engine.device)
    )


def run(record: Record, settings: Settings) -> None:
    require_gpu(settings)
    device = settings.device
    for dtype in ("float32", "uint8"):
        record.at(f"outputs, {dtype}")
        record.check(f"wrong outputs, {dtype}", wrong_outputs(device, dtype), most=0)
    record.at("durations")
    durations(record, device)
    record.at("memory")
    memory(record, device)
    record.at("errors")
    errors(record, device)


def wrong_outputs(device: str, dtype: str) -> int:
    """Return how many outputs of runners that share scratch memory are not twice the input, asked in turn."""
    runners = [make_runner(Engine(device, dtype)) for _ in range(2)]
    wrong = 0
    for number in range(4):
        for runner in runners:
            image = np.random.default_rng(number).integers(0, 100, SHAPE).astype(dtype)
            runner.prepare()
            (out,) = runner.infer([image])
            wrong += int((out != 2 * image).sum())
    for runner in runners:
        runner.close()
    return wrong


def durations(record: Record, device: str) -> None:
    """A run lasts as long as the same work in torch's own graph; untimed runs take no longer."""
    import time

    import torch

    from lgc.device import Device
    from lgc.profiler.backends.cuda.graph import CudaGraph
    from lgc.profiler.backends.cuda.replay_queue import lead_for

    place = torch.device(device)
    given, made = (torch.zeros(SHAPE, device=place) for _ in range(2))
    work = torch.zeros(SCRATCH_BYTES, dtype=torch.uint8, device=place)

    def same() -> Any:
        work.fill_(1)
        torch.cuda._sleep(SPIN_CYCLES)
        return torch.mul(given, 2, out=made)

    graph, runner = CudaGraph(same, place), make_runner(Engine(device))
    runner.prepare()
    graph.time(RUNS)
    ours = statistics.median(ms for _ in range(5) for ms in runner.run(RUNS))
    theirs = statistics.median(ms for _ in range(5) for ms in graph.time(RUNS))
    start = time.perf_counter()
    runner.run_untimed(5 * RUNS)
    untimed = 1e3 * (time.perf_counter() - start) / (5 * RUNS)
    record.value("run, ms", {"engine runner": ours, "torch's graph": theirs, "untimed": untimed})
    record.value("launch with events, us", lead_for(Device(device)).launch_us)
    record.value("lead factor", lead_for(Device(device)).factor)
    record.check("engine runner / torch's graph", ours / theirs, least=0.98, most=1.02)
    record.check("untimed / timed", untimed / ours, least=0.95, most=1.05)
    runner.close()
    graph.close()


def memory(record: Record, device: str) -> None:
    """Closed runners give all memory back; open ones share their scratch."""
    import torch

    free = [torch.cuda.mem_get_info(device)[0]]
    runners = [make_runner(Engine(device)) for _ in range(RUNNERS)]
    free.append(torch.cuda.mem_get_info(device)[0])
    for runner in runners:
        runner.close()
        runner.close()
    free.append(torch.cuda.mem_get_info(device)[0])
    record.value("free bytes before, with runners, after", free)
    record.check("bytes not given back", free[0] - free[2], most=4 << 20)  # the driver keeps a little of a first graph


def errors(record: Record, device: str) -> None:
    """What fails says so, and the next runner works."""
    from lgc.errors import MeasurementError

    broken = Engine(device)
    broken.works = False
    huge = Engine(device, shape=(1, 1 << 20, 1 << 10, 1 << 10))
    for name, engine, words in (
        ("an engine that fails", broken, "failed to run the engine"),
        ("too little memory", huge, "too little GPU memory"),
    ):
        try:
            make_runner(engine)
            told = "no error"
        except MeasurementError as error:
            told = str(error)
        record.value(name, told)
        record.check(f"{name} is named", float(words in told), least=1)
    record.check("wrong outputs after errors", wrong_outputs(device, "float32"), most=0)
