"""Fingerprint of the machine, stored in every table, and CPU affinity of the measuring process."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...lut.target import Target
from ..backends import Backend
from .devices import list_devices, torch_threads
from .nvml import CLOCK_MEMORY, CLOCK_SM, Gpu

DEVICE_NAME = "device_name"
"""Key of the device's model name in a fingerprint."""

_COMPARED = (
    ("device", "", DEVICE_NAME),
    ("TF32", "", "tf32"),
    ("driver", "", "gpu", "driver"),
    ("highest SM clock", " MHz", "gpu", "max_sm_clock_mhz"),
    ("highest memory clock", " MHz", "gpu", "max_memory_clock_mhz"),
    ("power limit", " W", "gpu", "power_limit_w"),
    ("memory", " MiB", "gpu", "memory_mib"),
    ("MIG", "", "gpu", "mig"),
    ("ECC", "", "gpu", "ecc"),
)
"""Properties that determine a device's speed: name, unit, keys of the entry in a fingerprint."""


def fingerprint(target: Target, backend: Backend) -> dict[str, Any]:
    """Return the properties of this machine that latencies on `target` depend on, as a JSON object.

    It has the device's name, library versions, TF32, the backend's settings, and `cpu` (cores, governor) or `gpu`
    (driver, clocks, power limit, modes).
    """
    from ...version import __version__

    environment: dict[str, Any] = {
        DEVICE_NAME: list_devices()[target.device],
        "lgc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": backend.versions(),
        "tf32": _uses_tf32(target),
        "settings": backend.settings(target),
    }
    if target.device.is_cpu:
        environment["cpu"] = {"cores": os.cpu_count(), "governor": _read_governor()}
    else:
        environment["gpu"] = _describe_gpu(target.device.ordinal)
    return environment


@contextmanager
def pinned(target: Target, worker: int = 0) -> Iterator[list[int]]:
    """Pin this process to as many cores as the target has threads, and limit torch to that number of threads.

    The last cores are used, since interrupts and other processes favour the first. Workers get different cores while
    enough are available. More torch threads than cores would make operators a hundred times slower.

    Args:
        target: target to measure; its `threads` is the number of cores.
        worker: number of this process among the workers on this machine.

    Yields:
        Indices of the cores; empty on a GPU and on systems without CPU affinity.
    """
    if not target.device.is_cpu or not hasattr(os, "sched_setaffinity"):
        yield []
        return
    before = os.sched_getaffinity(0)
    usable = sorted(before, reverse=True)
    first = worker * target.threads % max(len(usable) - target.threads + 1, 1)
    cores = usable[first : first + target.threads]
    os.sched_setaffinity(0, cores)
    try:
        with torch_threads(target.threads):
            yield cores
    finally:
        os.sched_setaffinity(0, before)


def _read_governor() -> str | None:
    """Return the frequency governor of the first core; None where unavailable."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    with suppress(OSError):
        return path.read_text().strip()
    return None


def _uses_tf32(target: Target) -> bool:
    """Return True if torch still uses TF32 for float32 after disabling it; False for the other backends."""
    if target.device.is_cpu or target.backend != "torch":
        return False
    from ...precisions import disable_tf32

    return disable_tf32()


def _describe_gpu(index: int) -> dict[str, Any]:
    """Return NVML's properties of a GPU: clocks in MHz, power in W, temperature in degrees Celsius, memory in MiB.

    Unavailable properties are None. Without NVML there are only `uuid` and, under `nvml`, the error.
    """
    with Gpu(index) as gpu:
        if gpu.error is not None:
            return {"uuid": gpu.uuid, "nvml": gpu.error}
        limit_mw, memory = gpu.query("nvmlDeviceGetEnforcedPowerLimit"), gpu.query("nvmlDeviceGetMemoryInfo")
        return {
            "uuid": gpu.uuid,
            "driver": gpu.driver,
            "sm_clock_mhz": gpu.clock_mhz(CLOCK_SM),
            "max_sm_clock_mhz": gpu.max_clock_mhz(CLOCK_SM),
            "memory_clock_mhz": gpu.clock_mhz(CLOCK_MEMORY),
            "max_memory_clock_mhz": gpu.max_clock_mhz(CLOCK_MEMORY),
            "power_limit_w": None if limit_mw is None else limit_mw / 1000,
            "temperature_c": gpu.temperature_c,
            "memory_mib": None if memory is None else memory.total // 2**20,
            "persistence": _parse_mode(gpu.query("nvmlDeviceGetPersistenceMode")),
            "ecc": _parse_mode(gpu.query("nvmlDeviceGetEccMode")),
            "mig": _parse_mode(gpu.query("nvmlDeviceGetMigMode")),
        }


def _parse_mode(answer: Any) -> bool | None:
    """Return True if a mode is enabled, None if unknown; a pair is (current, after the next reboot)."""
    if answer is None:
        return None
    return bool(answer[0] if isinstance(answer, (list, tuple)) else answer)


def compare_fingerprints(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the differences that forbid measuring one table on both machines; empty if they are equally fast.

    The properties are those of `_COMPARED`, the library versions and, if both fingerprints have them (old tables do
    not), the backend's settings. Identity (uuid) and state (temperature, current clocks) are ignored.

    Returns:
        Phrases such as `power limit 300.0 W, not 250.0 W`, with the value of `a` first.
    """
    groups = ["versions", "settings"] if "settings" in a and "settings" in b else ["versions"]
    keys = [(group, key) for group in groups for key in sorted({*a.get(group, {}), *b.get(group, {})})]
    properties = [*_COMPARED, *((key, "", group, key) for group, key in keys)]
    values = [(name, unit, _get_entry(a, path), _get_entry(b, path)) for name, unit, *path in properties]
    return [f"{name} {_format_value(x, unit)}, not {_format_value(y, unit)}" for name, unit, x, y in values if x != y]


def _get_entry(fingerprint: Mapping[str, Any], path: list[str]) -> Any:
    """Return the entry under nested keys; None if it does not exist."""
    entry: Any = fingerprint
    for key in path:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry


def _format_value(value: Any, unit: str) -> str:
    if value is None:
        return "unknown"
    return ("on" if value else "off") if isinstance(value, bool) else f"{value}{unit}"
