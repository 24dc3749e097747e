"""CPU cores that this process may use: by the machine, its CPU affinity, and the CPU quota of its control groups."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...control_groups import count_allowed_cores, find_groups, read_cpu_quota, read_quota
from ...errors import UsageError
from ...lut.target import Target


@dataclass(frozen=True)
class CpuLimits:
    """Limits of this process.

    Attributes:
        cores: Cores of the machine.
        allowed: Cores in the CPU affinity.
        quota: CPU time per time that the control groups grant, e.g. 1.5 cores; None without a quota.
    """

    cores: int
    allowed: int
    quota: float | None

    def explain(self, threads: int) -> str | None:
        """Return why `threads` threads cannot run at the same time; None if they can."""
        if threads > self.cores:
            return f"this machine has {self.cores} cores"
        if threads > self.allowed:
            return (
                f"this process may use {self.allowed} of the machine's {self.cores} cores (CPU affinity, set e.g. by "
                "taskset or a job scheduler)"
            )
        if self.quota is not None and threads > self.quota:
            return (
                f"the CPU quota is {self.quota:g} cores (control group, set e.g. by docker --cpus), which throttles "
                f"{'one thread' if threads == 1 else 'more threads'}: raise the quota"
            )
        return None


@dataclass(frozen=True)
class Throttling:
    """Stops of this process's control groups by their CPU quota.

    Attributes:
        periods: Scheduling periods in which threads were stopped.
        ms: Time that they waited, in ms, summed over cores.
    """

    periods: int
    ms: float

    def since(self, earlier: Throttling) -> Throttling:
        """Return the stops after `earlier`."""
        return Throttling(self.periods - earlier.periods, self.ms - earlier.ms)


def read_cpu_limits() -> CpuLimits:
    """Return the limits of this process."""
    return CpuLimits(os.cpu_count() or 1, count_allowed_cores(), read_cpu_quota())


def require_threads(target: Target) -> None:
    """Check that the threads of a target on a CPU can run at the same time.

    Raises:
        UsageError: They cannot: too few cores, or a narrower CPU affinity or quota.
    """
    if (reason := explain_threads(target)) is not None:
        raise UsageError(f"--threads {target.threads}: {reason}")


def explain_threads(target: Target) -> str | None:
    """Return why the threads of a target on a CPU cannot run at the same time; None if they can."""
    return read_cpu_limits().explain(target.threads) if target.device.is_cpu else None


def read_throttling() -> Throttling | None:
    """Return the stops so far, of all control groups with a quota; None without a quota."""
    groups = [folder for folder in find_groups("cpu") if read_quota(folder) is not None]
    if not groups:
        return None
    statistics = [_read_statistics(folder) for folder in groups]
    return Throttling(
        sum(statistic.get("nr_throttled", 0) for statistic in statistics),
        sum(  # microseconds in version 2 of control groups, nanoseconds in version 1
            statistic.get("throttled_usec", 0) / 1e3 + statistic.get("throttled_time", 0) / 1e6
            for statistic in statistics
        ),
    )


def _read_statistics(folder: Path) -> dict[str, int]:
    """Return the counters in a control group's `cpu.stat`; empty where unavailable."""
    with suppress(OSError, ValueError):
        pairs = (line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        return {name: int(value) for name, value in pairs}
    return {}
