"""Observer of a measurement: receives progress and results while the measurement runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import MeasurementError
from ...lut.statistics.measurement import Measurement, SampleBatch
from ..backends import Workload


@dataclass(frozen=True)
class RoundProgress:
    """Progress of a measurement.

    Attributes:
        label: activity, e.g. `measuring`.
        done: completed share, 0 to 1.
        left_s: estimated seconds left; None where unknown.
    """

    label: str
    done: float
    left_s: float | None


OnProgress = Callable[[RoundProgress], None]


def quiet(_: RoundProgress) -> None:
    """Ignore progress."""


class MeasurementObserver:
    """Observer of a measurement; a subclass overrides the events that it needs.

    This class passes on the progress, raises an error if a workload is rejected, and ignores all other events.

    Args:
        report_progress: receives the progress.
    """

    def __init__(self, report_progress: OnProgress = quiet) -> None:
        self._report_progress = report_progress

    def on_progress(self, progress: RoundProgress) -> None:
        """Handle the progress of compiling or measuring."""
        self._report_progress(progress)

    def on_failure(self, benchmark: str, workload: Workload, reason: str) -> None:
        """Handle a workload that the backend rejects; an override that returns leaves the workload out.

        Raises:
            MeasurementError: always; the message names the workload.
        """
        raise MeasurementError(reason if workload.name in reason else f"{workload.name}: {reason}")

    def on_start(self) -> None:
        """Handle the start of the rounds: the process is pinned to its cores and the graphs are compiled."""

    def on_batches(self, batches: list[SampleBatch]) -> None:
        """Handle new sample batches."""

    def on_decisions(self, measurement: Measurement, decisions: Mapping[str, str]) -> None:
        """Handle new decisions, by benchmark, and the measurement so far."""

    def on_energy(self, energy_mj: Mapping[str, float]) -> None:
        """Handle the energy per run of the networks, in millijoules, measured after the last round."""
