"""Queue timed replays ahead of a CUDA device: it spins while the host queues, and is checked not to have begun.

Without a lead, a graph shorter than its own launch (some 10 us) is timed at the pace of the launches. How long the
host takes to queue is not known beforehand, and a spin counts cycles of a clock that changes. So the lead is a closed
loop: a batch that the device began too early is dropped and queued again behind a longer spin, or in parts where it is
more than the driver queues.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ....device import Device
from ....errors import MeasurementError

BASE_US = 100.0
LAUNCH_US = 25.0
"""Cost of queueing one replay, assumed until it is measured."""
CYCLES_PER_US = 2000
"""Cycles of a device at 2 GHz; a slower one spins for longer, which does no harm."""
MIN_FACTOR, MAX_FACTOR, DECAY = 1.5, 192.0, 0.95
ATTEMPTS = 16
"""Batches queued before giving up."""
BLOCKED = 1.5
"""Growth of the time of queueing, behind a spin twice as long, by which a full launch queue is known."""

Marks = list[tuple[Any, Any]]
"""Events (start, end) around each replay; an event has `query()`."""


@dataclass
class Lead:
    """How long a device spins, learnt by all graphs of the process that run there.

    Attributes:
        factor: spin over the expected time of queueing; doubled where the device began too early, and slowly taken
            back where it did not.
        launch_us: host time to queue one replay and its two events, in the last batch; None before the first.
    """

    factor: float = MIN_FACTOR
    launch_us: float | None = None


@cache
def lead_for(device: Device) -> Lead:
    """Return the lead of a device, say `cuda:0`."""
    return Lead()


class ReplayQueue:
    """Queues the replays of one graph on a device."""

    def __init__(self, device: Device) -> None:
        self._lead, self._launch_us, self._batch = lead_for(device), LAUNCH_US, sys.maxsize

    def fill(
        self,
        repeats: int,
        *,
        hold: Callable[[float], object],
        enqueue: Callable[[int], Marks],
        wait: Callable[[], object],
    ) -> Marks:
        """Queue `repeats` replays ahead of the device, and wait for them.

        Args:
            repeats: number of replays.
            hold: keeps the stream busy for so many microseconds; does not wait.
            enqueue: queues so many replays, each between two events, and returns the events.
            wait: waits until the device is idle.

        Returns:
            The events of all replays, queued in one batch, or in several, each behind a spin of its own, where the
            driver's queue does not hold all of them. Nothing of a batch had begun when all of it was queued.

        Raises:
            MeasurementError: the device began first, each time.
        """
        marks: Marks = []
        while len(marks) < repeats:
            marks += self._ahead(min(self._batch, repeats - len(marks)), hold, enqueue, wait)
        return marks

    def _ahead(
        self,
        repeats: int,
        hold: Callable[[float], object],
        enqueue: Callable[[int], Marks],
        wait: Callable[[], object],
    ) -> Marks:
        """Queue one batch, of `repeats` replays or fewer, and wait for it."""
        lead, before_us, queued_us = self._lead, float("inf"), 0.0
        for _ in range(ATTEMPTS):
            hold_us = lead.factor * (BASE_US + repeats * self._launch_us)
            hold(hold_us)
            start = time.perf_counter_ns()
            marks = enqueue(repeats)
            queued_us = (time.perf_counter_ns() - start) / 1e3
            ahead = not marks[0][0].query()
            wait()
            if ahead:
                self._launch_us = lead.launch_us = queued_us / repeats
                lead.factor = max(DECAY * lead.factor, MIN_FACTOR)
                return marks
            if queued_us > max(BLOCKED * before_us, hold_us / 2) and repeats > 1:
                # the host had to wait for the device: more replays than the driver queues, whatever the spin
                repeats, before_us = repeats // 2, float("inf")
                self._batch, lead.factor = repeats, max(lead.factor / 2, MIN_FACTOR)
            else:
                lead.factor, before_us = min(2 * lead.factor, MAX_FACTOR), queued_us
        raise MeasurementError(
            f"the device cannot be kept waiting for the host: queueing {repeats} runs took {queued_us:.0f} us, and the "
            f"first had begun in each of {ATTEMPTS} attempts; end other programs on the host"
        )


def spin(microseconds: float) -> None:
    """Queue a kernel on torch's current stream that does nothing for so long."""
    import torch

    torch.cuda._sleep(int(microseconds * CYCLES_PER_US))  # type: ignore[no-untyped-call]
