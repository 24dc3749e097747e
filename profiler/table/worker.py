"""Filling a table: one process's part in it, alone or beside others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import zip_longest

from ...lut.statistics.measurement import Measurement, SampleBatch
from ...lut.table.recorder import Recorder
from ...lut.table.schema import FAILED, NOISY, PENDING
from ...lut.table.table import NETWORK_PREFIX, UNFINISHED, Benchmark, LatencyTable
from ...lut.target import Target
from ..backends import Backend, Workload
from ..machine.environment import fingerprint
from ..machine.monitor import Monitor, open_monitor
from ..timing.measure import MIN_ROUNDS, MeasureJob, measure
from ..timing.rounds import MIN_ROUND_SIZE, OnProgress, RoundProgress
from ..timing.stopping import stopping_rule

AWAKE_S = 30.0
SENTINELS = 8
"""Subjects that every process measures where others have measured too: they tie the processes' speeds together. More,
where they and what is measured would be less than the company that keeps a probe cold."""


class Worker:
    """Measures what a table lacks.

    Args:
        table: where it goes.
        backend: made for the target by `require`.
        target: where this process measures: the table's, or an equal device.
        workloads: subject -> what it runs.
        rounds: visits to each at most; the protocol's if None.
        seed: of the visiting order.
        worker: which of several processes on this machine this is.

    Attributes:
        changed: whether this process has measured, or tried to.
        elsewhere: number of subjects that other processes were measuring when this one was last done.
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
        """Whether anything is left that this process has not tried."""
        return any(_is_open(subject) and subject.key not in self._tried for subject in self._table.benchmarks())

    def run(self, share: float, budget_s: float | None, on_progress: OnProgress) -> bool:
        """Take on a share of what is open and measure it.

        Returns:
            Whether there was anything to take on, and time to finish it.

        Raises:
            UsageError: `budget_s` is too small to measure anything.
        """
        recorder = Recorder(self._table, self._target.device, fingerprint(self._target, self._backend))
        claimed = recorder.claim(share, [key for key in self._workloads if key not in self._tried])
        self._tried |= set(claimed)
        self.changed = self.changed or bool(claimed)
        try:
            with open_monitor(self._target) as watch:
                late = self._measure(recorder, watch, claimed, budget_s, on_progress)
        finally:
            recorder.release()
        self.elsewhere = recorder.count_other_claims()
        return bool(claimed) and not late

    def _measure(
        self, recorder: Recorder, watch: Monitor, claimed: list[str], budget_s: float | None, on_progress: OnProgress
    ) -> bool:
        """Measure what was taken on; whether time ran out."""
        kinds = {subject.key: subject.kind for subject in self._table.benchmarks()}
        context = str(self._table.protocol["context"])
        jobs = {
            key: MeasureJob(
                self._workloads[key], stopping_rule(self._target, kinds[key], context).limit_batches(self._rounds)
            )
            for key in _in_turn(claimed, self._sentinels(claimed))
        }
        before = self._table.sample_batches()
        jobs = self._still_open(jobs, claimed, before, recorder)
        if not set(jobs) & set(claimed):
            return False
        energy: dict[str, float] = {}
        found, undecided = measure(
            self._backend,
            self._target,
            jobs,
            session=recorder.session,
            before=before,
            always=[key for key in jobs if key not in claimed],
            on_batches=lambda visits: recorder.record(visits, [asdict(watch.sample())]),
            on_decisions=lambda so_far, verdicts: _finish(recorder, so_far, verdicts),
            on_failure=recorder.fail,
            on_pinned=watch.sample,
            on_energy=energy.__setitem__,
            energy_mj=watch.energy_mj,
            budget_s=budget_s,
            seed=self._seed,
            worker=self._worker,
            on_progress=self._awake(recorder, on_progress),
        )
        recorder.record_energy(energy)
        enough = [key for key in undecided if len(found.points(key)) >= MIN_ROUNDS]
        _finish(recorder, found, dict.fromkeys(enough, UNFINISHED))
        return bool(undecided)

    def _awake(self, recorder: Recorder, on_progress: OnProgress) -> OnProgress:
        """Progress that also tells the other processes that this one lives: compiling may take long."""
        told = time.monotonic()

        def tell(progress: RoundProgress) -> None:
            nonlocal told
            if time.monotonic() - told > AWAKE_S:
                recorder.record([])
                told = time.monotonic()
            on_progress(progress)

        return tell

    def _sentinels(self, claimed: list[str]) -> list[str]:
        """Subjects that tie this process to the others, where it does not measure all by itself."""
        every = [key for key in self._workloads if not key.startswith(NETWORK_PREFIX)]
        if set(every) <= set(claimed):
            return []
        wanted = max(SENTINELS, MIN_ROUND_SIZE - len(claimed))
        return [key for key in every[:: max(len(every) // wanted, 1)] if key not in claimed]

    def _still_open(
        self, jobs: dict[str, MeasureJob], claimed: list[str], before: list[SampleBatch], recorder: Recorder
    ) -> dict[str, MeasureJob]:
        """The jobs without those on which visits of earlier processes allow a verdict; it is written down."""
        if not before:
            return jobs
        found = Measurement(before, str(self._table.protocol["statistic"]))
        verdicts = {key: jobs[key].rule.decide(found.points(key), instances=found.instances(key)) for key in claimed}
        known = {key: verdict for key, verdict in verdicts.items() if verdict is not None}
        _finish(recorder, found, known)
        return {key: job for key, job in jobs.items() if key not in known}


def _finish(recorder: Recorder, found: Measurement, verdicts: Mapping[str, str]) -> None:
    """Write verdicts down; an empty one says that the subject is known well enough."""
    if verdicts:
        recorder.finish({key: (found.summary(key), verdict or None) for key, verdict in verdicts.items()})


def _in_turn(claimed: list[str], sentinels: list[str]) -> list[str]:
    """Both, one after the other: a budget that compiling uses up must not leave this process untied to the others."""
    return [key for pair in zip_longest(claimed, sentinels) for key in pair if key is not None]


def _is_open(subject: Benchmark) -> bool:
    return subject.status in (PENDING, FAILED) or (subject.status == NOISY and subject.reason == UNFINISHED)
