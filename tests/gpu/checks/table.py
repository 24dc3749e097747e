"""Parts 5 and 9: a table within a time budget, then a verification on unseen networks."""

from __future__ import annotations

from typing import Any

from .common import load_space
from .record import Record
from .settings import Settings

PLANS = {5: ("fp16", 12, 12), 9: ("fp32", 8, 0)}
"""Part -> precision, number of networks in the table, number of unseen networks."""
BUDGET_SHARE = {5: 95 / 150, 9: 50 / 60}
"""Share of the part's time for measuring the table."""
VERIFICATION_ROUNDS = 32
"""Rounds of the verification, which has no time budget."""
REHEARSAL_NETWORKS = 4
SEED = 1
MIN_COVERED_PCT = 75.0
"""Nine of twelve: with 90 % intervals, fewer are covered with a probability of 1/40."""


def run(record: Record, settings: Settings) -> None:
    from lgc.lut import LatencyTable, Target
    from lgc.profiler.profile import profile
    from lgc.profiler.verification import verify

    part = settings.part
    precision, networks, unseen = PLANS[part]
    if settings.rehearsal:
        networks, unseen = REHEARSAL_NETWORKS, min(unseen, REHEARSAL_NETWORKS)
    path = settings.table(precision)
    path.unlink(missing_ok=True)
    target = Target(settings.device, settings.backend, settings.precision(precision))
    rounds, verification_rounds = (4, 4) if settings.rehearsal else (None, VERIFICATION_ROUNDS)
    record.enter("profiling")
    result = profile(
        load_space(settings),
        target,
        path,
        networks=networks,
        rounds=rounds,
        budget_s=BUDGET_SHARE[part] * settings.limit_s,
        on_progress=lambda progress: record.enter(f"{progress.label}, {progress.done:.0%}"),
    )
    for name in ("entries", "measured", "noisy", "interpolated", "pending", "failed", "remarks", "seconds"):
        record.add_value(name, getattr(result, name))
    record.add_check("entries without a latency", result.pending + len(result.failed), max_value=0)
    if result.verification is not None:
        record.add_value("held out", result.verification.as_dict())
        if not settings.rehearsal:
            record.add_check("held out: MAPE, %", result.verification.mape_pct, max_value=1.5)
    if not unseen:
        return
    record.enter("verifying")
    with LatencyTable.open(path) as table:
        record.add_value("launch, us, and lead factor", summarize_launches(table.hardware_samples()))
        verification = verify(table, unseen, SEED, rounds=verification_rounds)
    record.add_value("unseen", verification.report.as_dict())
    record.add_value("drift, %", verification.drift_pct)
    record.add_value("inside the 90 % interval, %", verification.covered_pct)
    record.add_value(
        "networks", [{"predicted_ms": n.predicted_ms, "measured_ms": n.measured_ms} for n in verification.networks]
    )
    if not settings.rehearsal:
        record.add_check("unseen: MAPE, %", verification.report.mape_pct, max_value=1.5)
        record.add_check("unseen: Kendall's tau", verification.report.kendall_tau, min_value=0.9)
        record.add_check("inside the 90 % interval, %", verification.covered_pct or 0.0, min_value=MIN_COVERED_PCT)


def summarize_launches(samples: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the median launch time over a table's hardware samples, and the last spin factor."""
    import statistics

    known = [sample["launch_us"] for sample in samples if sample.get("launch_us") is not None]
    return {
        "launch": statistics.median(known) if known else None,
        "factor": samples[-1].get("lead_factor") if samples else None,
    }
