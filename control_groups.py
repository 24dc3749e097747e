"""Control groups: the limits that containers and job schedulers set for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_PROC_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def find_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups that can limit a resource, from its own up to the root.

    Inside a container the path may be that on the host, and only the root of the mount exists.

    Args:
        controller: `cpu` or `memory`.
    """
    try:
        lines = _PROC_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            roots = [_CGROUPS, _CGROUPS / "unified"]
        elif controller in controllers.split(","):
            roots = [_CGROUPS / controllers, _CGROUPS / controller]
        else:
            continue
        root = next((folder for folder in roots if folder.is_dir()), None)
        if root is not None:
            relative = PurePosixPath(path.lstrip("/"))
            yield from (root / part for part in (relative, *relative.parents) if (root / part).is_dir())


def read_quota(folder: Path) -> float | None:
    """Return the CPU quota of a control group in cores, e.g. 1.5; None without one."""
    with suppress(OSError, ValueError):  # version 2: "150000 100000" or "max 100000"
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def read_cpu_quota() -> float | None:
    """Return the smallest CPU quota of this process's control groups in cores; None without one."""
    return min((quota for folder in find_groups("cpu") if (quota := read_quota(folder)) is not None), default=None)


def count_allowed_cores() -> int:
    """Return the number of cores in the CPU affinity of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_usable_cores() -> int:
    """Return the number of cores that this process can keep busy, by its CPU affinity and quota; at least 1."""
    quota, allowed = read_cpu_quota(), count_allowed_cores()
    return allowed if quota is None else max(min(allowed, int(quota)), 1)


def count_local_processes() -> int:
    """Return the number of processes that torchrun started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def count_own_cores() -> int:
    """Return this process's share of the usable cores, if torchrun's processes share them equally."""
    return count_usable_cores() // count_local_processes()
