"""Memory that a cache may take: what the machine has free, within the limits of the control groups."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ....control_groups import find_groups

_MEMORY = Path("/proc/meminfo")
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files with limit and use of a control group, of version 2 and of version 1."""


def read_free_memory() -> int:
    """Return the bytes of memory that this process can still use; 0 where unknown."""
    rows = (line.split() for line in _read_lines(_MEMORY))
    free = [1024 * int(row[1]) for row in rows if row[:1] == ["MemAvailable:"]]
    for folder in find_groups("memory"):
        for limit, used in _FILES:
            with suppress(OSError, ValueError):  # "max" without a limit
                rest = int((folder / limit).read_text()) - int((folder / used).read_text())
                free.append(max(rest + _read_cached(folder), 0))
    return min(free, default=0)


def _read_cached(folder: Path) -> int:
    """Return the bytes of a group's use that hold files and can be dropped."""
    rows = (line.split() for line in _read_lines(folder / "memory.stat"))
    return sum(int(row[1]) for row in rows if row[0] == "inactive_file")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
