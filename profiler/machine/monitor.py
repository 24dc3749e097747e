"""Hardware monitor: clocks, throttling, steal time and context switches while the machine measures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ...lut.target import Target
from ..backends.cuda.replay_queue import SpinCalibration, get_spin_calibration
from .cpu_limits import Throttling, read_throttling
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
"""Bit of NVML's clock event reasons -> reason why a GPU runs below its maximum clock."""

_PROC_STAT = Path("/proc/stat")
_STEAL, _NUM_TICKS = 7, 8
"""Column of steal time in a line of `_PROC_STAT`; number of columns that sum to all time (later ones repeat others)."""


@dataclass(frozen=True)
class HardwareSample:
    """State of the machine at one time, or since the previous sample; None where unavailable.

    Attributes:
        at_unix_s: time of the sample, in seconds since 1970.
        sm_clock_mhz: clock of the GPU's multiprocessors.
        memory_clock_mhz: clock of the GPU's memory.
        temperature_c: GPU temperature in degrees Celsius.
        power_w: power draw of the GPU in watts; most GPUs average it over about a second.
        throttle: reasons of `THROTTLE_REASONS` why the GPU runs below its maximum clock; empty if it does not.
        other_gpu_processes: number of other processes that compute on the GPU.
        launch_us: host time to queue one timed run on the GPU, in microseconds, in the last batch.
        lead_factor: ratio of the GPU's spin to the expected queueing time; see `SpinCalibration`.
        steal_pct: share of the watched cores' time since the previous sample that the hypervisor gave to other guests.
        involuntary_switches: involuntary context switches of this thread since the previous sample.
        cpu_throttled_periods: scheduling periods since then in which the CPU quota stopped this process.
        cpu_throttled_ms: time that their threads waited.
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
    cpu_throttled_periods: int | None = None
    cpu_throttled_ms: float | None = None


class Monitor:
    """Sampler of a target's machine; a context manager, entered and sampled in the measuring thread.

    It watches the cores that the process is pinned to when the context is entered.
    """

    def __init__(self, gpu: Gpu | None, calibration: SpinCalibration | None = None) -> None:
        """Watch the CPU, and if given a GPU and the spin calibration of its launches."""
        self._gpu, self._calibration = gpu, calibration
        self._reset()

    def __enter__(self) -> Self:
        self._reset()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._gpu is not None:
            self._gpu.close()

    def sample(self) -> HardwareSample:
        """Return the current state; counts cover the time since the previous sample, or since the context was entered.

        Never raises: unavailable values are None.
        """
        gpu, at = self._gpu, time.time()
        host = HardwareSample(at, steal_pct=self._steal_pct(), involuntary_switches=self._new_switches())
        throttling = self._new_throttling()
        if throttling is not None:
            host = replace(host, cpu_throttled_periods=throttling.periods, cpu_throttled_ms=throttling.ms)
        if gpu is None:
            return host
        power_mw = gpu.query("nvmlDeviceGetPowerUsage")
        return replace(
            host,
            sm_clock_mhz=gpu.clock_mhz(CLOCK_SM),
            memory_clock_mhz=gpu.clock_mhz(CLOCK_MEMORY),
            temperature_c=gpu.temperature_c,
            power_w=None if power_mw is None else power_mw / 1000,
            throttle=_read_throttle_reasons(gpu),
            other_gpu_processes=_count_other_processes(gpu),
            launch_us=None if self._calibration is None else self._calibration.launch_us,
            lead_factor=None if self._calibration is None else self._calibration.factor,
        )

    def energy_mj(self) -> float | None:
        """Return the energy in mJ that the GPU has consumed since its driver was loaded; None on GPUs before Volta."""
        energy = None if self._gpu is None else self._gpu.query("nvmlDeviceGetTotalEnergyConsumption")
        return None if energy is None else float(energy)

    def _reset(self) -> None:
        """Restart the counts, for the cores that the process may use now."""
        self._cores = _usable_cores()
        self._ticks, self._switches = _read_ticks(self._cores), _count_switches()
        self._throttling = read_throttling()

    def _steal_pct(self) -> float | None:
        before, self._ticks = self._ticks, _read_ticks(self._cores)
        if before is None or self._ticks is None:
            return None
        steal, total = (after - earlier for after, earlier in zip(self._ticks, before, strict=True))
        return steal / total * 100 if total > 0 else None  # the kernel counts in hundredths of a second

    def _new_switches(self) -> int | None:
        before, self._switches = self._switches, _count_switches()
        return None if before is None or self._switches is None else self._switches - before

    def _new_throttling(self) -> Throttling | None:
        before, self._throttling = self._throttling, read_throttling()
        return None if before is None or self._throttling is None else self._throttling.since(before)


def open_monitor(target: Target) -> Monitor:
    """Return a monitor of the machine that measures on `target`."""
    if target.device.is_cpu:
        return Monitor(None)
    return Monitor(Gpu(target.device.ordinal), get_spin_calibration(target.device))


def decode_throttle_reasons(reasons: int) -> tuple[str, ...]:
    """Return the names of the bits set in NVML's `reasons`; `reason 0x...` for an unknown bit."""
    bits = (1 << index for index in range(reasons.bit_length()) if reasons >> index & 1)
    return tuple(THROTTLE_REASONS.get(bit, f"reason {bit:#x}") for bit in bits)


def _read_throttle_reasons(gpu: Gpu) -> tuple[str, ...] | None:
    reasons = gpu.query("nvmlDeviceGetCurrentClocksEventReasons")  # name since driver 535
    if reasons is None:
        reasons = gpu.query("nvmlDeviceGetCurrentClocksThrottleReasons")
    return None if reasons is None else decode_throttle_reasons(reasons)


def _count_other_processes(gpu: Gpu) -> int | None:
    """Return the number of other processes on the GPU; process IDs do not match NVML's inside a container."""
    import torch

    processes = gpu.query("nvmlDeviceGetComputeRunningProcesses")
    own = int(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return None if processes is None else max(len(processes) - own, 0)


def _usable_cores() -> set[str]:
    """Return the kernel's names of the cores that this process may use, e.g. `cpu3`."""
    numbers = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {f"cpu{number}" for number in numbers}


def _read_ticks(cores: set[str]) -> tuple[int, int] | None:
    """Return the steal and total ticks of `cores` since boot; None where unavailable."""
    try:
        rows = [line.split() for line in _PROC_STAT.read_text().splitlines() if line.startswith("cpu")]
        return _sum_ticks([int(entry) for entry in row[1 : 1 + _NUM_TICKS]] for row in rows if row[0] in cores)
    except (OSError, ValueError, IndexError):
        return None


def _sum_ticks(rows: Iterable[list[int]]) -> tuple[int, int]:
    steal, total = 0, 0
    for row in rows:
        steal, total = steal + row[_STEAL], total + sum(row)
    return steal, total


def _count_switches() -> int | None:
    """Return the involuntary context switches of this thread since its start; None where unavailable."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError, OSError):
        return None
