"""Worker: the part of one process in filling a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest

from ...device import Device
from ...lut.statistics.measurement import Measurement, SampleBatch
from ...lut.table.recorder import Recorder
from ...lut.table.rows import Benchmark
from ...lut.table.schema import FAILED, NOISY, PENDING
from ...lut.table.table import NETWORK_PREFIX, UNFINISHED, LatencyTable
from ...lut.target import Target
from ..backends import Backend, Workload
from ..machine.environment import fingerprint
from ..machine.monitor import Monitor, open_monitor
from ..timing.measure import MIN_ROUNDS, MeasureJob, measure
from ..timing.observer import MeasurementObserver, OnProgress, RoundProgress
from ..timing.rounds import MIN_ROUND_SIZE, Session
from ..timing.stopping import stopping_rule

HEARTBEAT_S = 30.0
"""Seconds between two heartbeats while compiling."""
SENTINELS = 8
"""Minimum of benchmarks that every process measures in common: they link the speeds of the processes."""


@dataclass(frozen=True)
class ProcessShare:
    """Share of one process in filling a table.

    Attributes:
        device: device of this process; the target's if None.
        worker: index of this process among those on this machine.
        fraction: share of the open benchmarks, in (0, 1].
    """

    device: Device | None = None
    worker: int = 0
    fraction: float = 1.0


SOLE_PROCESS = ProcessShare()
"""Share of a process that fills a table alone."""


class TableObserver(MeasurementObserver):
    """Observer that records a measurement in a table, with a hardware sample for each commit.

    Heartbeats during compilation keep other processes from taking over the claimed benchmarks.
    """

    def __init__(self, recorder: Recorder, monitor: Monitor, report_progress: OnProgress) -> None:
        super().__init__(report_progress)
        self.recorder, self.monitor = recorder, monitor
        self._heartbeat_s = time.monotonic()

    def on_progress(self, progress: RoundProgress) -> None:
        """Report progress, with a heartbeat every `HEARTBEAT_S`."""
        if time.monotonic() - self._heartbeat_s > HEARTBEAT_S:
            self.recorder.record([])
            self._heartbeat_s = time.monotonic()
        super().on_progress(progress)

    def on_failure(self, benchmark: str, workload: Workload, reason: str) -> None:
        """Mark the benchmark as failed."""
        self.recorder.fail(benchmark, reason)

    def on_start(self) -> None:
        """Restart the counts of the hardware monitor."""
        self.monitor.sample()

    def on_batches(self, batches: list[SampleBatch]) -> None:
        """Commit sample batches and the state of the hardware."""
        self.recorder.record(batches, [asdict(self.monitor.sample())])

    def on_decisions(self, measurement: Measurement, decisions: Mapping[str, str]) -> None:
        """Record decisions; an empty string means that the benchmark has converged."""
        if decisions:
            self.recorder.finish(
                {key: (measurement.summary(key), decision or None) for key, decision in decisions.items()}
            )

    def on_energy(self, energy_mj: Mapping[str, float]) -> None:
        """Record the energy per run of the networks."""
        self.recorder.record_energy(energy_mj)


class Worker:
    """Measures open benchmarks of a table.

    Args:
        table: table to fill.
        backend: backend of the target, checked by `require_backend`.
        target: the table's target; `process` may name an equal device.
        workloads: benchmark -> workload.
        process: share of this process.
        rounds: maximum of batches each; the protocol's if None.
        seed: seed of the measuring order.

    Attributes:
        changed: True once this process has claimed benchmarks.
        elsewhere: benchmarks that other processes were measuring at the end of the last run.
    """

    def __init__(
        self,
        table: LatencyTable,
        backend: Backend,
        target: Target,
        workloads: Mapping[str, Workload],
        process: ProcessShare = SOLE_PROCESS,
        *,
        rounds: int | None = None,
        seed: int = 0,
    ) -> None:
        self.changed, self.elsewhere = False, 0
        self._table, self._backend, self._workloads = table, backend, workloads
        self._target = replace(target, device=process.device or target.device)
        self._process, self._rounds, self._seed = process, rounds, seed
        self._tried: set[str] = set()

    def open(self) -> bool:
        """Return True if benchmarks are open that this process has not tried."""
        return any(_is_open(benchmark) and benchmark.key not in self._tried for benchmark in self._table.benchmarks())

    def run(self, budget_s: float, on_progress: OnProgress) -> bool:
        """Claim a share of the open benchmarks and measure them within `budget_s` seconds.

        Returns:
            True if benchmarks were claimed and all were decided in time.

        Raises:
            UsageError: `budget_s` is too short to measure anything.
        """
        recorder = Recorder(self._table, self._target.device, fingerprint(self._target, self._backend))
        claimed = recorder.claim(self._process.fraction, [key for key in self._workloads if key not in self._tried])
        self._tried |= set(claimed)
        self.changed = self.changed or bool(claimed)
        try:
            with open_monitor(self._target) as monitor:
                late = self._measure(claimed, TableObserver(recorder, monitor, on_progress), budget_s)
        finally:
            recorder.release()
        self.elsewhere = recorder.count_other_claims()
        return bool(claimed) and not late

    def _measure(self, claimed: list[str], observer: TableObserver, budget_s: float) -> bool:
        """Measure the claimed benchmarks; return True if time ran out."""
        earlier = self._table.sample_batches()
        jobs = self._still_open(self._make_jobs(claimed), earlier, observer)
        if all(job.is_reference for job in jobs.values()):
            return False
        session = Session(observer.recorder.session, earlier, seed=self._seed, worker=self._process.worker)
        measurement, undecided = measure(
            self._backend,
            self._target,
            jobs,
            observer,
            session=session,
            budget_s=budget_s,
            energy_mj=observer.monitor.energy_mj,
        )
        enough = [key for key in undecided if len(measurement.points(key)) >= MIN_ROUNDS]
        observer.on_decisions(measurement, dict.fromkeys(enough, UNFINISHED))
        return bool(undecided)

    def _make_jobs(self, claimed: list[str]) -> dict[str, MeasureJob]:
        """Return the jobs of the claimed benchmarks and of the reference benchmarks, by benchmark."""
        kinds = {benchmark.key: benchmark.kind for benchmark in self._table.benchmarks()}
        context = str(self._table.protocol["context"])
        jobs = {}
        for key in _interleave(claimed, self._sentinels(claimed)):
            rule = stopping_rule(self._target, kinds[key], context).limit_batches(self._rounds)
            jobs[key] = MeasureJob(self._workloads[key], rule, is_reference=key not in claimed)
        return jobs

    def _sentinels(self, claimed: list[str]) -> list[str]:
        """Return common benchmarks that link this process to the others; none if it measures everything."""
        every = [key for key in self._workloads if not key.startswith(NETWORK_PREFIX)]
        if set(every) <= set(claimed):
            return []
        count = max(SENTINELS, MIN_ROUND_SIZE - len(claimed))
        return [key for key in every[:: max(len(every) // count, 1)] if key not in claimed]

    def _still_open(
        self, jobs: dict[str, MeasureJob], earlier: list[SampleBatch], observer: TableObserver
    ) -> dict[str, MeasureJob]:
        """Record decisions that earlier sample batches allow; return the other jobs."""
        if not earlier:
            return jobs
        measurement = Measurement(earlier, str(self._table.protocol["statistic"]))
        decisions = {}
        for key, job in jobs.items():
            if not job.is_reference:
                decision = job.rule.decide(measurement.points(key), instances=measurement.instances(key))
                if decision is not None:
                    decisions[key] = decision
        observer.on_decisions(measurement, decisions)
        return {key: job for key, job in jobs.items() if key not in decisions}


def _interleave(claimed: list[str], sentinels: list[str]) -> list[str]:
    """Alternate both lists: even if compiling uses up the budget, this process stays linked to the others."""
    return [key for pair in zip_longest(claimed, sentinels) for key in pair if key is not None]


def _is_open(benchmark: Benchmark) -> bool:
    return benchmark.status in (PENDING, FAILED) or (benchmark.status == NOISY and benchmark.reason == UNFINISHED)
