"""Part 4: the runner of TensorRT engines with a simulated TensorRT, which queues known work on the runner's stream.

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
"""About 0.5 ms: duration of a simulated run, apart from its small kernels."""
SCRATCH_BYTES = 3 << 20
RUNS, RUNNERS = 40, 5


class CudaArray:
    """Device memory at an address, in a form that torch accepts."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


def queue(device: str, stream: int, addresses: dict[str, int], dtype: str, scratch: int) -> None:
    """Queue work on a stream: write the scratch memory, spin, and set the output to twice the input."""
    import torch

    cuda = torch.device(device)
    source, target = (
        torch.as_tensor(CudaArray(addresses[name], SHAPE, dtype), device=cuda) for name in ("input_0", "output_0")
    )
    work = torch.as_tensor(CudaArray(scratch, (SCRATCH_BYTES,), "uint8"), device=cuda)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream, device=cuda)):
        work.fill_(1)
        torch.cuda._sleep(SPIN_CYCLES)
        torch.mul(source, 2, out=target)


class Context:
    """Simulated execution context."""

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
    """Simulated engine with one input and one output of `SHAPE`."""

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
    """Return the real runner of a simulated engine."""
    from lgc.device import Device
    from lgc.errors import MeasurementError
    from lgc.profiler.backends.trt import runner as trt_runner
    from lgc.profiler.backends.trt.engine import Engine as Plan
    from lgc.profiler.backends.trt.loader import FULL, Library

    log = SimpleNamespace(
        logger=None, clear=lambda: None, make_error=lambda summary: MeasurementError(f"{summary}: simulated")
    )
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
        record.enter(f"outputs, {dtype}")
        record.add_check(f"wrong outputs, {dtype}", count_wrong_outputs(device, dtype), max_value=0)
    record.enter("durations")
    check_durations(record, device)
    record.enter("memory")
    check_memory(record, device)
    record.enter("errors")
    check_errors(record, device)


def count_wrong_outputs(device: str, dtype: str) -> int:
    """Return the number of wrong outputs of runners that share scratch memory and run in turn."""
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


def check_durations(record: Record, device: str) -> None:
    """Check that a run takes as long as the same work in torch's own graph, and untimed runs as long as timed ones."""
    import time

    import torch

    from lgc.device import Device
    from lgc.profiler.backends.cuda.graph import CudaGraph
    from lgc.profiler.backends.cuda.replay_queue import get_spin_calibration

    cuda = torch.device(device)
    source, target = (torch.zeros(SHAPE, device=cuda) for _ in range(2))
    scratch = torch.zeros(SCRATCH_BYTES, dtype=torch.uint8, device=cuda)

    def work() -> Any:
        scratch.fill_(1)
        torch.cuda._sleep(SPIN_CYCLES)
        return torch.mul(source, 2, out=target)

    graph, runner = CudaGraph(work, cuda), make_runner(Engine(device))
    runner.prepare()
    graph.time(RUNS)
    ours = statistics.median(ms for _ in range(5) for ms in runner.run(RUNS))
    theirs = statistics.median(ms for _ in range(5) for ms in graph.time(RUNS))
    start = time.perf_counter()
    runner.run_untimed(5 * RUNS)
    untimed = 1e3 * (time.perf_counter() - start) / (5 * RUNS)
    record.add_value("run, ms", {"engine runner": ours, "torch's graph": theirs, "untimed": untimed})
    record.add_value("launch with events, us", get_spin_calibration(Device(device)).launch_us)
    record.add_value("lead factor", get_spin_calibration(Device(device)).factor)
    record.add_check("engine runner / torch's graph", ours / theirs, min_value=0.98, max_value=1.02)
    record.add_check("untimed / timed", untimed / ours, min_value=0.95, max_value=1.05)
    runner.close()
    graph.close()


def check_memory(record: Record, device: str) -> None:
    """Check that closed runners free all memory and open ones share their scratch memory."""
    import torch

    free = [torch.cuda.mem_get_info(device)[0]]
    runners = [make_runner(Engine(device)) for _ in range(RUNNERS)]
    free.append(torch.cuda.mem_get_info(device)[0])
    for runner in runners:
        runner.close()
        runner.close()
    free.append(torch.cuda.mem_get_info(device)[0])
    record.add_value("free bytes before, with runners, after", free)
    record.add_check(
        "bytes not given back", free[0] - free[2], max_value=4 << 20
    )  # the driver keeps some memory of the first graph


def check_errors(record: Record, device: str) -> None:
    """Check that errors name their cause and that the next runner works."""
    from lgc.errors import MeasurementError

    broken = Engine(device)
    broken.works = False
    huge = Engine(device, shape=(1, 1 << 20, 1 << 10, 1 << 10))
    for name, engine, text in (
        ("an engine that fails", broken, "failed to run the engine"),
        ("too little memory", huge, "not enough GPU memory"),
    ):
        try:
            make_runner(engine)
            message = "no error"
        except MeasurementError as error:
            message = str(error)
        record.add_value(name, message)
        record.add_check(f"{name} is named", float(text in message), min_value=1)
    record.add_check("wrong outputs after errors", count_wrong_outputs(device, "float32"), max_value=0)
