"""Control groups: the limits that containers and job schedulers set for this process."""

from __future__ import annotations

from collections.abc import Iterator
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
