"""Part 6: gain of the protocol on this device over isolated operators, warm caches and one build of a graph."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from .common import import_file, load_space, sort_by_size
from .record import Record, SkipPartError
from .settings import Settings
from .table import SEED

BUILDS, BUILD_RUNS, BUILD_ROUNDS = 5, 20, 6
PROBES, PROBE_RUNS = 10, 20
FLUSH_BYTES = 256 << 20
"""Several times the size of the largest level-2 cache."""


def run(record: Record, settings: Settings) -> None:
    from lgc.lut import LatencyTable

    path = settings.table("fp16")
    if not path.exists():
        raise SkipPartError("needs the table of part 5 in --out")
    with LatencyTable.open(path) as table:
        record.enter("builds of one graph")
        record.add_value("one graph built anew", measure_builds(settings, table.target))
        if settings.on_gpu:
            record.enter("probes with caches hot and flushed")
            record.add_value("probes hot and flushed", measure_probes(settings, table.target))
            record.enter("isolated operators")
            record.add_value("isolated operators: MAPE, %", measure_isolated(table, settings.scratch))


def measure_isolated(table: Any, scratch: Path) -> dict[str, float] | str:
    """Return the error of a table of isolated operators on part 5's unseen networks.

    The errors are those of the plain sum, of the sum at its best scale, and of the sum with our fitted correction.
    """
    from lgc.profiler.verification import VerifiedNetwork, sample_unseen

    rows = Record.read(scratch / "part-5.json").values.get("networks")
    if rows is None:
        return "skipped: part 5 measured no unseen networks in this run"
    networks = [
        VerifiedNetwork(architecture, row["predicted_ms"], row["measured_ms"])
        for architecture, row in zip(sample_unseen(table, len(rows), seed=SEED).values(), rows, strict=True)
    ]
    usual = import_file("tests/bench/latency/conventional.py")
    errors = usual.conventional_errors_pct(usual.measure_conventional(table.space, table.target), networks)
    return dict(zip(("plain sum", "at its best scale", "with our correction"), errors, strict=True))


def measure_builds(settings: Settings, target: Any) -> dict[str, dict[str, Any]]:
    """Return the latencies of several builds of a network and of a probe, timed in turn, and their spread."""
    from lgc.models.space.protocol import DENSE
    from lgc.profiler.backends import get_backend
    from lgc.profiler.timing.workloads import network_workload

    workloads = {
        "network": network_workload(sort_by_size(load_space(settings))[4], DENSE),
        "probe": make_probe_workloads(settings)[0],
    }
    results = {}
    for name, workload in workloads.items():
        runners = [get_backend(target.backend).compile(workload, target) for _ in range(BUILDS)]
        for runner in runners:
            runner.prepare()
        times: list[list[float]] = [[] for _ in runners]
        for _ in range(BUILD_ROUNDS):
            for runner, own in zip(runners, times, strict=True):
                own += runner.run(BUILD_RUNS)
        medians = [statistics.median(own) for own in times]
        for runner in runners:
            runner.close()
        results[name] = {"ms": medians, "spread, %": 100 * (max(medians) / min(medians) - 1)}
    return results


def make_probe_workloads(settings: Settings) -> list[Any]:
    """Return probes of operators from all over the space."""
    from lgc.models.space.operators import is_free
    from lgc.profiler.timing.contexts import CARRIERS, list_terms

    specs = [spec for spec in load_space(settings).specs() if not is_free(spec)]
    return [list_terms(spec, CARRIERS)[0].workload for spec in specs[:: max(len(specs) // PROBES, 1)][:PROBES]]


def measure_probes(settings: Settings, target: Any) -> dict[str, Any]:
    """Return each probe's median latency with a warm level-2 cache and with a flushed one."""
    import torch

    from lgc.profiler.backends import get_backend

    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=target.device)
    rows = []
    for workload in make_probe_workloads(settings):
        runner = get_backend(target.backend).compile(workload, target)
        runner.prepare()
        hot = statistics.median(runner.run(PROBE_RUNS))
        cold = []
        for _ in range(PROBE_RUNS):
            flush.zero_()
            cold += runner.run(1)
        runner.close()
        rows.append({"probe": workload.name, "hot_ms": hot, "flushed_ms": statistics.median(cold)})
    ratios = [row["flushed_ms"] / row["hot_ms"] for row in rows]
    return {"rows": rows, "flushed / hot, median": statistics.median(ratios), "flushed / hot, worst": max(ratios)}
