"""The fingerprint of the machine: what a latency depends on besides the network, kept in every table."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..lut.target import Target
from .backends import Backend
from .devices import list_devices, torch_threads

DEVICE_NAME = "device_name"


def fingerprint(target: Target, backend: Backend) -> dict[str, Any]:
    """Describe the machine as a JSON object: device, driver, clocks, library versions, thread and TF32 settings."""
    from .. import __version__

    found: dict[str, Any] = {
        DEVICE_NAME: list_devices()[target.device],
        "lgc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": backend.versions(),
        "tf32": False,
    }
    if target.device == "cpu":
        found["cpu"] = {"cores": os.cpu_count(), "governor": _governor()}
    else:
        found["gpu"] = _gpu(int(target.device.partition(":")[2]))
    return found


@contextmanager
def pinned(target: Target) -> Iterator[list[int]]:
    """Keep this process, and torch, to as many cores as the target has threads; their numbers, empty where it cannot.

    The last cores are taken: interrupts and other processes crowd the first. torch is kept to them too, since threads
    that wait for each other on one core take a hundred times as long.
    """
    if target.device != "cpu" or not hasattr(os, "sched_setaffinity"):
        yield []
        return
    before = os.sched_getaffinity(0)
    cores = sorted(before)[-target.threads :]
    os.sched_setaffinity(0, cores)
    try:
        with torch_threads(target.threads):
            yield cores
    finally:
        os.sched_setaffinity(0, before)


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    with suppress(OSError):
        return path.read_text().strip()
    return None


def _gpu(index: int) -> dict[str, Any]:
    """What NVML says of a GPU: uuid, driver, clocks (MHz), power limit (W), temperature (Celsius)."""
    import pynvml
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return {
            "uuid": uuid,
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "sm_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "max_sm_clock_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_clock_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            "temperature_c": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        }
    except pynvml.NVMLError as error:
        return {"uuid": uuid, "nvml": str(error)}
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
