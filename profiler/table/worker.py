"""Worker: the part of one process in filling a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import zip_longest

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
from ..timing.rounds import MIN_ROUND_SIZE, OnProgress, RoundProgress
from ..timing.stopping import stopping_rule

HEARTBEAT_S = 30.0
"""Seconds between two heartbeats while compiling."""
SENTINELS = 8
"""Minimum of benchmarks that every process measures in common: they link the speeds of the processes."""


class Worker:
    """Measures open benchmarks of a table.

    Args:
        table: table to fill.
        backend: backend of the target, checked by `require_backend`.
        target: target of this process: the table's, or one with an equal device.
        workloads: benchmark -> workload.
        rounds: maximum of batches each; the protocol's if None.
        seed: seed of the measuring order.
        worker: index of this process among those on this machine.

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
        *,
        rounds: int | None = None,
        seed: int = 0,
        worker: int = 0,
    ) -> None:
        self.changed, self.elsewhere = False, 0
        self._table, self._backend, self._target, self._workloads = table, backend, target, workloads
        self._rounds, self._seed, self._worker = rounds, seed, worker
        self._tried: set[str] = set()

    def open(self) -> bool:
        """Return True if benchmarks are open that this process has not tried."""
        return any(_is_open(benchmark) and benchmark.key not in self._tried for benchmark in self._table.benchmarks())

    def run(self, share: float, budget_s: float | None, on_progress: OnProgress) -> bool:
        """Claim a share of the open benchmarks and measure them.

        Returns:
            True if benchmarks were claimed and all were decided in time.

        Raises:
            UsageError: `budget_s` is too short to measure anything.
        """
        recorder = Recorder(self._table, self._target.device, fingerprint(self._target, self._backend))
        claimed = recorder.claim(share, [key for key in self._workloads if key not in self._tried])
        self._tried |= set(claimed)
        self.changed = self.changed or bool(claimed)
        try:
            with open_monitor(self._target) as monitor:
                late = self._measure(recorder, monitor, claimed, budget_s, on_progress)
        finally:
            recorder.release()
        self.elsewhere = recorder.count_other_claims()
        return bool(claimed) and not late

    def _measure(
        self, recorder: Recorder, monitor: Monitor, claimed: list[str], budget_s: float | None, on_progress: OnProgress
    ) -> bool:
        """Measure the claimed benchmarks; return True if time ran out."""
        kinds = {benchmark.key: benchmark.kind for benchmark in self._table.benchmarks()}
        context = str(self._table.protocol["context"])
        jobs = {
            key: MeasureJob(
                self._workloads[key], stopping_rule(self._target, kinds[key], context).limit_batches(self._rounds)
            )
            for key in _interleave(claimed, self._sentinels(claimed))
        }
        before = self._table.sample_batches()
        jobs = self._still_open(jobs, claimed, before, recorder)
        if not set(jobs) & set(claimed):
            return False
        energy: dict[str, float] = {}
        measurement, undecided = measure(
            self._backend,
            self._target,
            jobs,
            session=recorder.session,
            before=before,
            always=[key for key in jobs if key not in claimed],
            on_batches=lambda batches: recorder.record(batches, [asdict(monitor.sample())]),
            on_decisions=lambda measurement, decisions: _finish(recorder, measurement, decisions),
            on_failure=recorder.fail,
            on_pinned=monitor.sample,
            on_energy=energy.__setitem__,
            energy_mj=monitor.energy_mj,
            budget_s=budget_s,
            seed=self._seed,
            worker=self._worker,
            on_progress=self._with_heartbeat(recorder, on_progress),
        )
        recorder.record_energy(energy)
        enough = [key for key in undecided if len(measurement.points(key)) >= MIN_ROUNDS]
        _finish(recorder, measurement, dict.fromkeys(enough, UNFINISHED))
        return bool(undecided)

    def _with_heartbeat(self, recorder: Recorder, on_progress: OnProgress) -> OnProgress:
        """Return `on_progress` with a heartbeat for the other processes: compiling may take long."""
        last_s = time.monotonic()

        def report(progress: RoundProgress) -> None:
            nonlocal last_s
            if time.monotonic() - last_s > HEARTBEAT_S:
                recorder.record([])
                last_s = time.monotonic()
            on_progress(progress)

        return report

    def _sentinels(self, claimed: list[str]) -> list[str]:
        """Return common benchmarks that link this process to the others; none if it measures everything."""
        every = [key for key in self._workloads if not key.startswith(NETWORK_PREFIX)]
        if set(every) <= set(claimed):
            return []
        count = max(SENTINELS, MIN_ROUND_SIZE - len(claimed))
        return [key for key in every[:: max(len(every) // count, 1)] if key not in claimed]

    def _still_open(
        self, jobs: dict[str, MeasureJob], claimed: list[str], before: list[SampleBatch], recorder: Recorder
    ) -> dict[str, MeasureJob]:
        """Record decisions that earlier batches allow; return the other jobs."""
        if not before:
            return jobs
        measurement = Measurement(before, str(self._table.protocol["statistic"]))
        decisions = {
            key: jobs[key].rule.decide(measurement.points(key), instances=measurement.instances(key)) for key in claimed
        }
        known = {key: decision for key, decision in decisions.items() if decision is not None}
        _finish(recorder, measurement, known)
        return {key: job for key, job in jobs.items() if key not in known}


def _finish(recorder: Recorder, measurement: Measurement, decisions: Mapping[str, str]) -> None:
    """Record decisions; an empty string means that the benchmark has converged."""
    if decisions:
        recorder.finish({key: (measurement.summary(key), decision or None) for key, decision in decisions.items()})


def _interleave(claimed: list[str], sentinels: list[str]) -> list[str]:
    """Alternate both lists: even if compiling uses up the budget, this process stays linked to the others."""
    return [key for pair in zip_longest(claimed, sentinels) for key in pair if key is not None]


def _is_open(benchmark: Benchmark) -> bool:
    return benchmark.status in (PENDING, FAILED) or (benchmark.status == NOISY and benchmark.reason == UNFINISHED)
