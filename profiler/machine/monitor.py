"""Watching the machine while it measures: what slowed it down can then be told from what the code costs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ...lut.target import Target
from ..backends.cuda.replay_queue import SpinCalibration, get_spin_calibration
from .nvml import CLOCK_MEMORY, CLOCK_SM, Gpu

THROTTLE_REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bit of NVML's clocks event reasons -> why a GPU runs below the clock it could reach, in words."""

_PROC_STAT = Path("/proc/stat")
_STEAL, _NUM_TICKS = 7, 8
"""Column of steal time in a line of `_PROC_STAT`; number of columns that sum to all time (later ones repeat others)."""


@dataclass(frozen=True)
class HardwareSample:
    """How the machine was at one moment, or since the sample before; None for what it does not tell.

    Attributes:
        at_unix_s: when, in seconds since 1970.
        sm_clock_mhz: clock of the GPU's multiprocessors.
        memory_clock_mhz: clock of the GPU's memory.
        temperature_c: of the GPU, in degrees Celsius.
        power_w: what the GPU draws, in watts, averaged over about a second by most.
        throttle: why the GPU's clock is below what it could reach; empty if it is not. See `THROTTLE_REASONS`.
        other_gpu_processes: processes besides this one that compute on the GPU.
        launch_us: host time to queue one timed run on the GPU, in microseconds, lately.
        lead_factor: how much longer than expected the GPU is kept waiting for the host; see `backends.lead`.
        steal_pct: since the last sample, time that the hypervisor gave to others, of all time of the watched cores.
        involuntary_switches: since the last sample, how often this thread was made to give way on its core.
    """

    at_unix_s: float
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttle: tuple[str, ...] | None = None
    other_gpu_processes: int | None = None
    launch_us: float | None = None
    lead_factor: float | None = None
    steal_pct: float | None = None
    involuntary_switches: int | None = None


class Monitor:
    """Takes samples of a target's machine; a context, to be entered and asked in the thread that measures.

    Entered once the process is pinned, it watches the cores that it is pinned to.
    """

    def __init__(self, gpu: Gpu | None, lead: SpinCalibration | None = None) -> None:
        """Watch `gpu`, if there is one, the host's launches on it by its `lead`, and the CPU."""
        self._gpu, self._lead = gpu, lead
        self._begin()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._gpu is not None:
            self._gpu.close()

    def sample(self) -> HardwareSample:
        """How the machine is now, and what it did since the last sample; the first counts from the context's start.

        Never fails: what cannot be read is None.
        """
        gpu, at = self._gpu, time.time()
        steal, switches = self._steal_pct(), self._new_switches()
        if gpu is None:
            return HardwareSample(at, steal_pct=steal, involuntary_switches=switches)
        power_mw = gpu.query("nvmlDeviceGetPowerUsage")
        return HardwareSample(
            at,
            sm_clock_mhz=gpu.clock_mhz(CLOCK_SM),
            memory_clock_mhz=gpu.clock_mhz(CLOCK_MEMORY),
            temperature_c=gpu.temperature_c,
            power_w=None if power_mw is None else power_mw / 1000,
            throttle=_read_throttle_reasons(gpu),
            other_gpu_processes=_count_other_processes(gpu),
            launch_us=None if self._lead is None else self._lead.launch_us,
            lead_factor=None if self._lead is None else self._lead.factor,
            steal_pct=steal,
            involuntary_switches=switches,
        )

    def energy_mj(self) -> float | None:
        """Energy that the GPU has used since its driver was loaded, in millijoules; None on GPUs older than Volta."""
        used = None if self._gpu is None else self._gpu.query("nvmlDeviceGetTotalEnergyConsumption")
        return None if used is None else float(used)

    def _begin(self) -> None:
        """Count from now on."""
        self._cores = _usable_cores()
        self._ticks, self._switches = _read_ticks(self._cores), _count_switches()

    def _steal_pct(self) -> float | None:
        before, self._ticks = self._ticks, _read_ticks(self._cores)
        if before is None or self._ticks is None:
            return None
        stolen, passed = (now - then for now, then in zip(self._ticks, before, strict=True))
        return stolen / passed * 100 if passed > 0 else None  # the kernel counts in hundredths of a second

    def _new_switches(self) -> int | None:
        before, self._switches = self._switches, _count_switches()
        return None if before is None or self._switches is None else self._switches - before


def open_monitor(target: Target) -> Monitor:
    """A watcher of the machine that measures on `target`."""
    if target.device.is_cpu:
        return Monitor(None)
    return Monitor(Gpu(target.device.ordinal), get_spin_calibration(target.device))


def decode_throttle_reasons(reasons: int) -> tuple[str, ...]:
    """NVML's bits in words; a bit of no known meaning by its number."""
    bits = (1 << place for place in range(reasons.bit_length()) if reasons >> place & 1)
    return tuple(THROTTLE_REASONS.get(bit, f"reason {bit:#x}") for bit in bits)


def _read_throttle_reasons(gpu: Gpu) -> tuple[str, ...] | None:
    reasons = gpu.query("nvmlDeviceGetCurrentClocksEventReasons")  # the name since driver 535
    if reasons is None:
        reasons = gpu.query("nvmlDeviceGetCurrentClocksThrottleReasons")
    return None if reasons is None else decode_throttle_reasons(reasons)


def _count_other_processes(gpu: Gpu) -> int | None:
    """Processes on the GPU besides this one, which is not sought by its number: in a container NVML knows another."""
    import torch

    processes = gpu.query("nvmlDeviceGetComputeRunningProcesses")
    own = int(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return None if processes is None else max(len(processes) - own, 0)


def _usable_cores() -> set[str]:
    """The kernel's names of the cores that this process may use."""
    numbers = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {f"cpu{number}" for number in numbers}


def _read_ticks(cores: set[str]) -> tuple[int, int] | None:
    """Stolen and all ticks of `cores` so far; None on a system that does not tell."""
    try:
        rows = [line.split() for line in _PROC_STAT.read_text().splitlines() if line.startswith("cpu")]
        return _sum_ticks([int(entry) for entry in row[1 : 1 + _NUM_TICKS]] for row in rows if row[0] in cores)
    except (OSError, ValueError, IndexError):
        return None


def _sum_ticks(rows: Iterable[list[int]]) -> tuple[int, int]:
    stolen, passed = 0, 0
    for row in rows:
        stolen, passed = stolen + row[_STEAL], passed + sum(row)
    return stolen, passed


def _count_switches() -> int | None:
    """Involuntary context switches of this thread so far; None on a system that does not tell."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError, OSError):
        return None
