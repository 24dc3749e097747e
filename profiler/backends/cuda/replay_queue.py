"""Queueing of timed replays ahead of a CUDA device, which spins while the host queues.

A graph shorter than its own launch (some 10 us) is otherwise timed at the pace of the launches. The host's queueing
time is not known beforehand, and a spin counts cycles of a clock that changes. So the spin's length is a closed loop:
where the device starts before the whole batch is queued, the batch is dropped and queued again behind a longer spin, or
in parts where it exceeds the driver's queue.
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

BASE_QUEUE_US = 100.0
"""Host time to queue a batch, in us, apart from its replays."""
INITIAL_LAUNCH_US = 25.0
"""Host time to queue one replay, in us, assumed until it is measured."""
CYCLES_PER_US = 2000
"""Cycles per us of a device at 2 GHz; a slower one spins for longer, which is harmless."""
MIN_FACTOR, MAX_FACTOR, DECAY = 1.5, 192.0, 0.95
"""Range of the spin factor, and its decay per successful batch."""
MAX_ATTEMPTS = 16
"""Failed batches before the error."""
BLOCKED_GROWTH = 1.5
"""Growth of the queueing time behind a spin twice as long from which the driver's queue counts as full."""

EventPairs = list[tuple[Any, Any]]
"""Events (start, end) around each replay; an event has `query()`."""


@dataclass
class SpinCalibration:
    """Calibration of a device's spin, shared by all graphs of the process on that device.

    Attributes:
        factor: ratio of the spin to the expected queueing time; doubled after each batch that the device started early,
            and decays otherwise.
        launch_us: host time to queue one replay and its two events, in the last batch; None before the first.
    """

    factor: float = MIN_FACTOR
    launch_us: float | None = None


@cache
def get_spin_calibration(device: Device) -> SpinCalibration:
    """Return the calibration of a device, e.g. `cuda:0`."""
    return SpinCalibration()


class ReplayQueue:
    """Queue of the replays of one graph on a device."""

    def __init__(self, device: Device) -> None:
        self._calibration = get_spin_calibration(device)
        self._launch_us, self._max_batch = INITIAL_LAUNCH_US, sys.maxsize

    def replay(
        self,
        repeats: int,
        *,
        spin: Callable[[float], object],
        enqueue: Callable[[int], EventPairs],
        synchronize: Callable[[], object],
    ) -> EventPairs:
        """Queue `repeats` replays ahead of the device and wait for them.

        Args:
            repeats: number of replays.
            spin: function that keeps the stream busy for the given microseconds, without waiting.
            enqueue: function that queues the given number of replays, each between two events, and returns the events.
            synchronize: function that waits until the device is idle.

        Returns:
            The events of all replays. They were queued in one batch, or in several, each behind its own spin, where
            the driver's queue does not hold all replays. The device started no batch before all of it was queued.

        Raises:
            MeasurementError: the device started early in every attempt.
        """
        events: EventPairs = []
        while len(events) < repeats:
            events += self._replay_batch(min(self._max_batch, repeats - len(events)), spin, enqueue, synchronize)
        return events

    def _replay_batch(
        self,
        repeats: int,
        spin: Callable[[float], object],
        enqueue: Callable[[int], EventPairs],
        synchronize: Callable[[], object],
    ) -> EventPairs:
        """Queue one batch of at most `repeats` replays and wait for it."""
        calibration, previous_us, queued_us = self._calibration, float("inf"), 0.0
        for _ in range(MAX_ATTEMPTS):
            spin_us = calibration.factor * (BASE_QUEUE_US + repeats * self._launch_us)
            spin(spin_us)
            start = time.perf_counter_ns()
            events = enqueue(repeats)
            queued_us = (time.perf_counter_ns() - start) / 1e3
            ahead = not events[0][0].query()
            synchronize()
            if ahead:
                self._launch_us = calibration.launch_us = queued_us / repeats
                calibration.factor = max(DECAY * calibration.factor, MIN_FACTOR)
                return events
            if queued_us > max(BLOCKED_GROWTH * previous_us, spin_us / 2) and repeats > 1:
                # the host waited for the device: the batch exceeds the driver's queue, whatever the spin
                repeats, previous_us = repeats // 2, float("inf")
                self._max_batch, calibration.factor = repeats, max(calibration.factor / 2, MIN_FACTOR)
            else:
                calibration.factor, previous_us = min(2 * calibration.factor, MAX_FACTOR), queued_us
        raise MeasurementError(
            f"the host cannot queue runs ahead of the device: queueing {repeats} runs took {queued_us:.0f} us, and the "
            f"first had started in each of {MAX_ATTEMPTS} attempts; close other programs on the host"
        )


def queue_spin(microseconds: float) -> None:
    """Queue a kernel on torch's current stream that spins for the given time."""
    import torch

    torch.cuda._sleep(int(microseconds * CYCLES_PER_US))  # type: ignore[no-untyped-call]
