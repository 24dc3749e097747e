"""Part 1: versions, unavailable backends, and NVML's samples for a table."""

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
"""Time in seconds for which the energy counter is polled to find its steps."""


def run(record: Record, settings: Settings) -> None:
    from lgc.device import Device
    from lgc.lut import Target
    from lgc.profiler.backends import BACKENDS, get_backend
    from lgc.profiler.machine.environment import fingerprint
    from lgc.profiler.machine.monitor import open_monitor

    record.add_value(
        "versions", {"python": platform.python_version(), **{name: get_version(name) for name in PACKAGES}}
    )
    device, target = settings.device, Target(settings.device, settings.backend)
    with open_monitor(target) as monitor:
        record.enter("hardware sample")
        record.add_value("sample", vars(monitor.sample()))
        times_us = [time_us(monitor.sample) for _ in range(SAMPLES)]
        record.add_value("sample cost, us", statistics.median(times_us))
        if settings.on_gpu:
            sample = monitor.sample()
            for name in ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w"):
                record.add_check(name, getattr(sample, name) or float("nan"), min_value=1)
            record.add_check("throttle reasons readable", float(sample.throttle is not None), min_value=1)
            record.add_check("sample cost, ms", statistics.median(times_us) / 1e3, max_value=50)
            record.enter("energy counter")
            measure_energy_steps(record, monitor.energy_mj)
    record.enter("fingerprint")
    record.add_value("fingerprint", fingerprint(target, get_backend(target.backend)))
    record.enter("backends")
    record.add_value("backends", {name: get_backend(name).diagnose(Device(device)) or "available" for name in BACKENDS})


def get_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def time_us(work: Any) -> float:
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) / 1e3


def measure_energy_steps(record: Record, energy_mj: Any) -> None:
    """Record the period and the step of the energy counter on an idle device."""
    changes = [(time.perf_counter(), energy_mj())]
    end = changes[0][0] + COUNTER_S
    while (now := time.perf_counter()) < end:
        if (energy := energy_mj()) != changes[-1][1]:
            changes.append((now, energy))
    record.add_check("energy counter moves", len(changes) - 1, min_value=2)
    if len(changes) > 2:
        pairs = list(pairwise(changes[1:]))  # the first change comes after a fraction of a period
        record.add_value("energy counter period, ms", statistics.median((b[0] - a[0]) * 1e3 for a, b in pairs))
        record.add_value("energy counter step, mJ", statistics.median(b[1] - a[1] for a, b in pairs))
