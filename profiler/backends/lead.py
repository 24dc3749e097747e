"""Queue timed replays ahead of a CUDA device: it spins while the host queues, and is checked not to have begun.

Without a lead, a graph shorter than its own launch (some 10 us) is timed at the pace of the launches. How long the
host takes to queue is not known beforehand, and a spin counts cycles of a clock that changes. So the lead is a closed
loop: a batch that the device began too early is dropped and queued again behind a longer spin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...errors import MeasurementError

BASE_US = 100.0
LAUNCH_US = 25.0
"""Cost of queueing one replay, assumed until it is measured."""
CYCLES_PER_US = 2000
"""Cycles of a device at 2 GHz; a slower one spins for longer, which does no harm."""
MIN_FACTOR, MAX_FACTOR = 1.5, 192.0
ATTEMPTS = 12
"""Batches queued before giving up: one for each doubling up to `MAX_FACTOR`, and four at that."""

Marks = Sequence[tuple[Any, Any]]
"""Events (start, end) around each replay; an event has `query()`."""


@dataclass
class Lead:
    """How long a device spins, learnt by all graphs of the process that run there.

    Attributes:
        factor: spin over the expected time of queueing; doubled whenever the device began too early, and kept.
        launch_us: host time to queue one replay and its two events, in the last batch; None before the first.
    """

    factor: float = MIN_FACTOR
    launch_us: float | None = None


@cache
def lead_for(device: str) -> Lead:
    """Return the lead of a device, say `cuda:0`."""
    return Lead()


class ReplayQueue:
    """Queues the replays of one graph on a device."""

    def __init__(self, device: str) -> None:
        self._lead, self._launch_us = lead_for(device), LAUNCH_US

    def fill(
        self,
        repeats: int,
        *,
        hold: Callable[[float], object],
        enqueue: Callable[[], Marks],
        wait: Callable[[], object],
    ) -> Marks:
        """Queue `repeats` replays ahead of the device.

        Args:
            repeats: replays in the batch.
            hold: keeps the stream busy for so many microseconds; does not wait.
            enqueue: queues the replays, each between two events, and returns the events.
            wait: waits until the device is idle.

        Returns:
            What `enqueue` returned; nothing of it had begun when all of it was queued.

        Raises:
            MeasurementError: the device began first, each time.
        """
        queued_us = 0.0
        for _ in range(ATTEMPTS):
            hold(self._lead.factor * (BASE_US + repeats * self._launch_us))
            start = time.perf_counter_ns()
            marks = enqueue()
            queued_us = (time.perf_counter_ns() - start) / 1e3
            if not marks or not marks[0][0].query():
                self._launch_us = self._lead.launch_us = queued_us / max(len(marks), 1)
                return marks
            wait()
            self._lead.factor = min(2 * self._lead.factor, MAX_FACTOR)
        raise MeasurementError(
            f"the device cannot be kept waiting for the host: queueing {repeats} runs took {queued_us:.0f} us, and the "
            f"first had begun in each of {ATTEMPTS} attempts; end other programs on the host"
        )


def spin(microseconds: float) -> None:
    """Queue a kernel on torch's current stream that does nothing for so long."""
    import torch

    torch.cuda._sleep(int(microseconds * CYCLES_PER_US))  # type: ignore[no-untyped-call]
