"""Parts 5 and 9: a table within a budget, then networks that it has never seen."""

from __future__ import annotations

from typing import Any

from .common import space_of
from .record import Record
from .settings import Settings

PLANS = {5: ("fp16", 12, 12), 9: ("fp32", 8, 0)}
"""Part -> precision, networks in the table, unseen networks."""
BUDGET_SHARE = {5: 95 / 150, 9: 50 / 60}
"""Share of the part's time in which the table is measured."""
VERIFYING = 32
"""Rounds of the verification, which has no budget."""
REHEARSAL_NETWORKS = 4
SEED = 1
COVERED_PCT = 75.0
"""Nine of twelve: a 90 % interval holds fewer of them once in forty times."""


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
    rounds, verifying = (4, 4) if settings.rehearsal else (None, VERIFYING)
    record.at("profiling")
    result = profile(
        space_of(settings),
        target,
        path,
        networks=networks,
        rounds=rounds,
        budget_s=BUDGET_SHARE[part] * settings.limit_s,
        on_progress=lambda progress: record.at(f"{progress.label}, {progress.done:.0%}"),
    )
    for name in ("entries", "measured", "noisy", "interpolated", "pending", "failed", "remarks", "seconds"):
        record.value(name, getattr(result, name))
    record.check("entries without a latency", result.pending + len(result.failed), most=0)
    if result.verification is not None:
        record.value("held out", result.verification.as_dict())
        if not settings.rehearsal:
            record.check("held out: MAPE, %", result.verification.mape_pct, most=1.5)
    if not unseen:
        return
    record.at("verifying")
    with LatencyTable.open(path) as table:
        record.value("launch, us, and lead factor", launches(table.hardware_samples()))
        again = verify(table, unseen, SEED, rounds=verifying)
    record.value("unseen", again.report.as_dict())
    record.value("drift, %", again.drift_pct)
    record.value("inside the 90 % interval, %", again.covered_pct)
    record.value("networks", [{"predicted_ms": n.predicted_ms, "measured_ms": n.measured_ms} for n in again.networks])
    if not settings.rehearsal:
        record.check("unseen: MAPE, %", again.report.mape_pct, most=1.5)
        record.check("unseen: Kendall's tau", again.report.kendall_tau, least=0.9)
        record.check("inside the 90 % interval, %", again.covered_pct or 0.0, least=COVERED_PCT)


def launches(samples: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the median cost of a launch over a table's hardware samples, and the last lead factor."""
    import statistics

    known = [sample["launch_us"] for sample in samples if sample.get("launch_us") is not None]
    return {
        "launch": statistics.median(known) if known else None,
        "factor": samples[-1].get("lead_factor") if samples else None,
    }
