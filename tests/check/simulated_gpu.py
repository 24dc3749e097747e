"""A simulated GPU for torch: what is asked of `cuda:0` is done on the CPU, as long as that takes; NVML makes it up."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode

from lgc.profiler.backends import base
from lgc.profiler.backends.cuda import graph as cuda_graph
from lgc.profiler.backends.cuda import replay_queue as lead

NAME, DIGITS = "Simulated GPU", "00000000-0000-0000-0000-000000000000"
CYCLES_A_SECOND = 2e9
POWER_W = 100.0


def on_cpu(value):
    """Return a device argument as the CPU; anything else as it is."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.startswith("cuda") else value


class OnCpu(TorchFunctionMode):
    """Every call of torch that names a CUDA device or page-locked memory, without them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        kwargs = {name: on_cpu(value) for name, value in (kwargs or {}).items() if name != "pin_memory"}
        return function(*map(on_cpu, args), **kwargs)


class Event:
    """Recorded when the host records it: everything before has been done by then."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at_ms = 1e3 * time.perf_counter()

    def query(self):
        return False

    def elapsed_time(self, end):
        return max(end.at_ms - self.at_ms, 1e-4)


class Graph:
    """Does the captured work again at each replay, and copies the results to where the capture left them."""

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
        for one, other in zip(source, target, strict=True):
            copy(one, other)


@contextmanager
def nothing(*_, **__):
    yield


started = []


def reset_peak_memory_stats(device):
    """As torch's, which does not start CUDA by itself."""
    if not started:
        raise RuntimeError("Invalid device argument : did you call init?")


def spin(cycles):
    time.sleep(cycles / CYCLES_A_SECOND)


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
    "stream": nothing,
    "device": nothing,
    "graph": nothing,
    "_sleep": spin,
}


def fake_nvml():
    """Return what `import pynvml` gives."""
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
    """Context in which `cuda:0` is there; `patch` is a MonkeyPatch."""
    started.clear()
    for name, fake in TORCH_CUDA.items():
        assert hasattr(torch.cuda, name)
        patch.setattr(torch.cuda, name, fake)
    patch.setattr(torch.version, "cuda", "13.0")
    patch.setitem(__import__("sys").modules, "pynvml", fake_nvml())
    patch.setattr(base, "_warm_devices", {"cuda:0"})
    capture = cuda_graph.CudaGraph.__init__

    def captured(graph, work, device):
        capture(graph, work, device)
        graph._graph.work, graph._graph.result = work, graph.result

    patch.setattr(cuda_graph.CudaGraph, "__init__", captured)
    cached = (cuda_graph._get_open_graphs, cuda_graph._get_side_stream, lead.get_spin_calibration)
    for function in cached:
        function.cache_clear()
    with OnCpu():
        yield
    for function in cached:
        function.cache_clear()
