"""Number of data-loading processes, by the device, the cores and the shared memory of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from ...control_groups import count_local_processes, count_own_cores

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ...models.nets.definition import Log
    from ..data.datasets import SegmentationDataset

MAX_WORKERS = 8
"""Largest number of data-loading processes of a training process by default."""
PREFETCHED = 2
"""Batches that each data-loading process prepares ahead: torch's default."""
SHARED_MEMORY = "/dev/shm"
"""Folder in which torch puts what processes share."""


def choose_workers(
    requested: int | None,
    loads: Iterable[tuple[SegmentationDataset, int]],
    fabric: Fabric,
    log: Log = lambda line: None,
) -> int:
    """Return the number of data-loading processes of this process: the requested one, or by the machine.

    A training on a CPU needs none: a thread reads ahead, and all cores compute. On a GPU the other cores load, if the
    shared memory has room for their batches.

    Args:
        requested: Number that the user asked for; None for the default.
        loads: Datasets that are loaded at the same time, each by its own processes, and the images in a batch of each.
        fabric: Device and processes.
        log: Receives a remark if the shared memory has no room.

    Raises:
        DataError: An image is damaged.
    """
    if requested is not None:
        return requested
    if fabric.device.type == "cpu":
        return 0
    wanted = min(count_own_cores() - 1, MAX_WORKERS)
    size = (PREFETCHED + 1) * sum(4 * batch * dataset.estimate_pixels() for dataset, batch in loads)  # one is in use
    room = _read_free_bytes(SHARED_MEMORY) // (size * count_local_processes())
    if wanted > 0 and room < 1:
        log(
            f"no data-loading processes: {SHARED_MEMORY} has no room for batches (Docker: --shm-size 8g); --workers N "
            "tries anyway"
        )
    return max(min(wanted, room), 0)


def _read_free_bytes(folder: str) -> int:
    """Return the free bytes of a file system; 0 where it does not exist."""
    with suppress(OSError):
        status = os.statvfs(folder)
        return status.f_bavail * status.f_frsize
    return 0
