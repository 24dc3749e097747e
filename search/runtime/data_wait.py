"""Time that the steps of a training wait for their batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import torch

from ...control_groups import count_own_cores
from ..data.cache.store import FileStore, PixelStore

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item")
MAX_SHARE = 0.2
"""Share of the time of the steps above which waiting is worth a remark."""
REMARK_S = 30.0
"""Seconds of steps after which the share is precise enough for a remark."""
MIN_REMARK_S = 10.0
"""Seconds of steps that are enough for a remark at the end of a training."""
_LOG = logging.getLogger("lgc.training")
_REMARKED: WeakSet[Fabric] = WeakSet()
"""Fabric of the commands that have made the remark."""


class DataWait:
    """Clock for batches. The first batch and its step are not counted: they start processes and choose kernels.

    A GPU computes while the host waits for the next batch. Then only the time counts in which it has nothing to do.

    Args:
        fabric: device and processes.
        advice: phrase for the remark, see `advise_loading`.
    """

    def __init__(self, fabric: Fabric, advice: str = "") -> None:
        self._fabric = fabric
        self._advice = advice
        self._is_gpu = fabric.device.type == "cuda"
        self._started: float | None = None
        self._waited_s = 0.0
        self._pending: list[tuple[float, torch.cuda.Event, torch.cuda.Event]] = []

    def watch(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches."""
        iterator, end = iter(batches), object()
        first = next(iterator, end)
        if first is end:
            return
        yield first  # type: ignore[misc]  # not the sentinel
        self._started = time.monotonic()
        while True:
            start, before = time.monotonic(), self._mark()
            batch = next(iterator, end)
            if batch is end:
                return
            waited_s, after = time.monotonic() - start, self._mark()
            if before is None or after is None:
                self._waited_s += waited_s
            else:
                self._pending.append((waited_s, before, after))
            yield batch  # type: ignore[misc]

    def _mark(self) -> torch.cuda.Event | None:
        """Mark the present end of the GPU's work."""
        if not self._is_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def leave_out(self, seconds: float) -> None:
        """Leave out seconds since the last step, e.g. of a validation."""
        if self._started is not None:
            self._started += seconds

    def read(self) -> float | None:
        """Return the share of the time since the first step that was spent waiting; None before a second step.

        The GPU must have finished the last step.
        """
        for waited_s, before, after in self._pending:
            self._waited_s += min(waited_s, before.elapsed_time(after) / 1000)
        self._pending = []
        if self._started is None or (elapsed_s := time.monotonic() - self._started) <= 0:
            return None
        return self._waited_s / elapsed_s

    def remark(self, *, is_last: bool) -> None:
        """Log a remark, once per command, if the steps so far have waited too long."""
        share = self.read()
        if share is None or share <= MAX_SHARE or self._started is None or self._fabric in _REMARKED:
            return
        if time.monotonic() - self._started >= (MIN_REMARK_S if is_last else REMARK_S):
            _REMARKED.add(self._fabric)
            if self._fabric.is_global_zero:
                advice = f": {self._advice}" if self._advice else ""
                _LOG.warning("%.0f %% of the time of the steps went into waiting for data%s", 100 * share, advice)


def advise_loading(workers: int, store: PixelStore) -> str:
    """Return what loads faster than this number of data-loading processes that read from `store`, as a phrase."""
    ways = []
    if workers == 0:
        ways.append("load it in several processes with --workers N")
    elif workers < count_own_cores() - 1:
        ways.append(f"load it in more than {workers} processes with --workers N")
    if isinstance(store, FileStore):
        ways.append("keep decoded images with --cache ram or disk")
    return " or ".join(ways) or "only more CPU cores load it faster"
