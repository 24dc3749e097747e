"""The fingerprint of the machine: what a latency depends on besides the network, kept in every table."""

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
"""What must be equal for two devices to be as fast: how it is called, its unit, and where a fingerprint has it."""


def fingerprint(target: Target, backend: Backend) -> dict[str, Any]:
    """Describe the machine as a JSON object: device, driver, clocks, library versions, TF32, the backend's settings."""
    from ... import __version__

    found: dict[str, Any] = {
        DEVICE_NAME: list_devices()[target.device],
        "lgc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": backend.versions(),
        "tf32": _uses_tf32(target),
        "settings": backend.settings(target),
    }
    if target.device.is_cpu:
        found["cpu"] = {"cores": os.cpu_count(), "governor": _read_governor()}
    else:
        found["gpu"] = _describe_gpu(target.device.ordinal)
    return found


@contextmanager
def pinned(target: Target, worker: int = 0) -> Iterator[list[int]]:
    """Keep this process, and torch, to as many cores as the target has threads; their numbers, empty where it cannot.

    The last cores are taken: interrupts and other processes crowd the first. Workers with other numbers get other ones,
    as far as there are any. torch is kept to them too, since threads that wait for each other on one core take a
    hundred times as long.
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
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    with suppress(OSError):
        return path.read_text().strip()
    return None


def _uses_tf32(target: Target) -> bool:
    """Whether float32 is computed with TF32 there: torch is asked after having been told; the others are just told."""
    if target.device.is_cpu or target.backend != "torch":
        return False
    from ..backends.torch_.backend import disable_tf32

    return disable_tf32()


def _describe_gpu(index: int) -> dict[str, Any]:
    """What NVML says of a GPU: uuid, driver, clocks (MHz), power limit (W), temperature (Celsius), memory (MiB), modes.

    What it does not tell is None; where it tells nothing, only `uuid` is there and the reason, `nvml`.
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
    """Whether a mode is on; of a pair it is the first that holds now, the second after the next start."""
    if answer is None:
        return None
    return bool(answer[0] if isinstance(answer, (list, tuple)) else answer)


def compare_fingerprints(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints that must not, if both are to fill one table; empty if nothing does.

    Device, driver, library versions, highest clocks, power limit, memory, MIG and ECC mode and TF32 count, and where
    both have them (those of old tables do not) the backend's settings. What one GPU has of its own (uuid), and what
    changes by itself (temperature, clocks of the moment), does not.

    Returns:
        Sentences as `power limit 300.0 W, not 250.0 W`, the value of `a` first.
    """
    kinds = ["versions", "settings"] if "settings" in a and "settings" in b else ["versions"]
    names = [(kind, name) for kind in kinds for name in sorted({*a.get(kind, {}), *b.get(kind, {})})]
    rows = [*_COMPARED, *((name, "", kind, name) for kind, name in names)]
    values = [(what, unit, _get_entry(a, path), _get_entry(b, path)) for what, unit, *path in rows]
    return [f"{what} {_format_value(x, unit)}, not {_format_value(y, unit)}" for what, unit, x, y in values if x != y]


def _get_entry(fingerprint: Mapping[str, Any], path: list[str]) -> Any:
    """The entry at `path`; None if there is none."""
    entry: Any = fingerprint
    for key in path:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry


def _format_value(value: Any, unit: str) -> str:
    if value is None:
        return "unknown"
    return ("on" if value else "off") if isinstance(value, bool) else f"{value}{unit}"
