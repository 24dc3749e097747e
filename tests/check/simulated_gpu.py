"""Simulated GPU for torch: work on `cuda:0` runs on the CPU at the CPU's speed; NVML returns constants."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode

from lgc.profiler.backends import base
from lgc.profiler.backends.cuda import graph as cuda_graph
from lgc.profiler.backends.cuda import replay_queue

NAME, DIGITS = "Simulated GPU", "00000000-0000-0000-0000-000000000000"
CYCLES_PER_SECOND = 2e9
POWER_W = 100.0


def on_cpu(value):
    """Return the CPU for a CUDA device, and anything else unchanged."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.startswith("cuda") else value


class OnCpu(TorchFunctionMode):
    """Mode that removes CUDA devices and page-locked memory from all torch calls."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        kwargs = {name: on_cpu(value) for name, value in (kwargs or {}).items() if name != "pin_memory"}
        return function(*map(on_cpu, args), **kwargs)


class Event:
    """Event recorded by the host's clock, at which all earlier work is done."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at_ms = 1e3 * time.perf_counter()

    def query(self):
        return False

    def elapsed_time(self, end):
        return max(end.at_ms - self.at_ms, 1e-4)


class Graph:
    """Graph that runs the captured work again at each replay and copies the results into the captured ones."""

    work = result = None

    def replay(self):
        with torch.inference_mode():
            copy(self.work(), self.result)

    def pool(self):
        return "pool"

    def reset(self):
        self.work = self.result = None


def copy(source, target):
    if isinstance(source, torch.Tensor):
        if source is not target:
            target.copy_(source)
    elif source is not None:
        for inner_source, inner_target in zip(source, target, strict=True):
            copy(inner_source, inner_target)


@contextmanager
def do_nothing(*_, **__):
    yield


started = []


def reset_peak_memory_stats(device):
    """Fail before CUDA is initialised, as torch's function does."""
    if not started:
        raise RuntimeError("Invalid device argument : did you call init?")


def spin(cycles):
    time.sleep(cycles / CYCLES_PER_SECOND)


TORCH_CUDA = {
    "is_available": lambda: True,
    "is_initialized": lambda: bool(started),
    "device_count": lambda: 1,
    "get_device_name": lambda *_: NAME,
    "get_device_properties": lambda index: SimpleNamespace(uuid=DIGITS),
    "get_device_capability": lambda *_: (9, 0),
    "current_stream": lambda *_: None,
    "synchronize": lambda *_: None,
    "mem_get_info": lambda *_: (8 << 30, 16 << 30),
    "max_memory_allocated": lambda *_: 1 << 30,
    "init": lambda: started.append(True),
    "reset_peak_memory_stats": reset_peak_memory_stats,
    "empty_cache": lambda: None,
    "Stream": lambda *_: SimpleNamespace(wait_stream=lambda other: None),
    "Event": Event,
    "CUDAGraph": Graph,
    "stream": do_nothing,
    "device": do_nothing,
    "graph": do_nothing,
    "_sleep": spin,
}
PRECISE = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
"""Parts of torch in which a GPU's backends disable TF32."""


def fake_nvml():
    """Return a stand-in for the module pynvml."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda *_: 1980,
        "nvmlDeviceGetMaxClockInfo": lambda *_: 1980,
        "nvmlDeviceGetTemperatureV": lambda *_: 40,
        "nvmlDeviceGetPowerUsage": lambda *_: 1e3 * POWER_W,
        "nvmlDeviceGetEnforcedPowerLimit": lambda *_: 700_000,
        "nvmlDeviceGetMemoryInfo": lambda *_: SimpleNamespace(total=80 << 30),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda *_: 0,
        "nvmlDeviceGetComputeRunningProcesses": lambda *_: [1],
        "nvmlDeviceGetTotalEnergyConsumption": lambda *_: 1e3 * POWER_W * (time.perf_counter() // 0.02 * 0.02),
    }
    return SimpleNamespace(NVMLError=RuntimeError, **answers)


@contextmanager
def simulated_gpu(patch):
    """Simulate `cuda:0` inside the context; `patch` is a MonkeyPatch."""
    started.clear()
    for name, fake in TORCH_CUDA.items():
        assert hasattr(torch.cuda, name)
        patch.setattr(torch.cuda, name, fake)
    patch.setattr(torch.version, "cuda", "13.0")
    patch.setitem(__import__("sys").modules, "pynvml", fake_nvml())
    patch.setattr(base, "_warm_devices", {"cuda:0"})
    patch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    precisions = [(part, part.fp32_precision) for part in PRECISE]
    capture = cuda_graph.CudaGraph.__init__

    def captured(graph, work, device):
        capture(graph, work, device)
        graph._graph.work, graph._graph.result = work, graph.result

    patch.setattr(cuda_graph.CudaGraph, "__init__", captured)
    cached = (cuda_graph._get_open_graphs, cuda_graph._get_side_stream, replay_queue.get_spin_calibration)
    for function in cached:
        function.cache_clear()
    try:
        with OnCpu():
            yield
    finally:
        for part, precision in precisions:
            part.fp32_precision = precision
        for function in cached:
            function.cache_clear()
