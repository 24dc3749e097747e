"""Part 1: versions, what is missing, and whether NVML tells what a table keeps of the machine."""

from __future__ import annotations

import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

from .record import Record
from .settings import Settings

PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "pycuda",
    "cuda-bindings",
    "nvidia-ml-py",
    "pydantic",
    "lightning",
    "lightning-fabric",
)
SAMPLES = 20
COUNTER_S = 1.5
"""How long the energy counter is read, without a pause, to see its steps."""


def run(record: Record, settings: Settings) -> None:
    from lgc.device import Device
    from lgc.lut import Target
    from lgc.profiler.backends import BACKENDS, get_backend
    from lgc.profiler.machine.environment import fingerprint
    from lgc.profiler.machine.monitor import open_monitor

    record.value("versions", {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}})
    device, target = settings.device, Target(settings.device, settings.backend)
    with open_monitor(target) as watch:
        record.at("hardware sample")
        record.value("sample", vars(watch.sample()))
        times_us = [timed_us(watch.sample) for _ in range(SAMPLES)]
        record.value("sample cost, us", statistics.median(times_us))
        if settings.on_gpu:
            sample = watch.sample()
            for name in ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w"):
                record.check(name, getattr(sample, name) or float("nan"), least=1)
            record.check("throttle reasons readable", float(sample.throttle is not None), least=1)
            record.check("sample cost, ms", statistics.median(times_us) / 1e3, most=50)
            record.at("energy counter")
            energy_steps(record, watch.energy_mj)
    record.at("fingerprint")
    record.value("fingerprint", fingerprint(target, get_backend(target.backend)))
    record.at("backends")
    record.value("backends", {name: get_backend(name).unavailable(Device(device)) or "available" for name in BACKENDS})


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def timed_us(work: Any) -> float:
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) / 1e3


def energy_steps(record: Record, energy_mj: Any) -> None:
    """Record how often the counter moves, and by how much while the device is idle."""
    changes = [(time.perf_counter(), energy_mj())]
    end = changes[0][0] + COUNTER_S
    while (now := time.perf_counter()) < end:
        if (energy := energy_mj()) != changes[-1][1]:
            changes.append((now, energy))
    record.check("energy counter moves", len(changes) - 1, least=2)
    if len(changes) > 2:
        pairs = list(pairwise(changes[1:]))  # the first change came after a part of a period
        record.value("energy counter period, ms", statistics.median((b[0] - a[0]) * 1e3 for a, b in pairs))
        record.value("energy counter step, mJ", statistics.median(b[1] - a[1] for a, b in pairs))
