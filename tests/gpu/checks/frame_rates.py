"""Part 7: frame rates of three architectures against a bare loop and the table, and the energy of a run."""

from __future__ import annotations

from typing import Any

from .common import by_size, module_at, rounds_in, space_of
from .record import Record
from .settings import Settings

PRECISION = "fp16"


def run(record: Record, settings: Settings) -> None:
    from contextlib import nullcontext

    from lgc.lut import LatencyTable, Target
    from lgc.models.space.plan import DENSE
    from lgc.profiler.deployment.deploy import time_network
    from lgc.profiler.deployment.network import Network
    from lgc.profiler.machine.monitor import open_monitor

    precision = settings.precision(PRECISION)
    target = Target(settings.device, settings.backend, precision)
    against_bare_loop = module_at("tests/bench/common/paired_timing.py").against_bare_loop
    networks = by_size(space_of(settings))
    chosen = {"middle": networks[len(networks) // 2], "smallest": networks[0], "largest": networks[-1]}
    path, share_s = settings.table(PRECISION), settings.limit_s / 24
    if settings.rehearsal:  # one, and without the table's networks beside it, fits a rehearsal
        del chosen["smallest"], chosen["largest"]
    with_table = path.exists() and not settings.rehearsal
    with LatencyTable.open(path) if with_table else nullcontext() as table, open_monitor(target) as watch:
        for name, architecture in chosen.items():
            record.at(f"frame rate, {name}")
            network = Network(architecture, None, DENSE)
            result = time_network(network, target, table, seconds=share_s)
            row = {key: getattr(result, key) for key in ("fps", "median_ms", "p90_ms", "p99_ms", "runs", "error_pct")}
            record.at(f"bare loop, {name}")
            workload = network.workload(precision=precision)
            loop = against_bare_loop(workload, target, rounds_in(share_s / 2))
            record.value(name, row | {"our clock / bare loop": loop["ratio"]})
            record.check(f"{name}: equals torch", float(result.equals_torch()), least=1)
            if not settings.rehearsal:
                record.check(f"{name}: our clock / bare loop", loop["ratio"], least=0.98, most=1.02)
            if settings.on_gpu:
                record.at(f"energy, {name}")
                energy(record, name, workload, target, watch)


def energy(record: Record, name: str, workload: Any, target: Any, watch: Any) -> None:
    """Energy of a run over long batches without gaps; the power that it means must be one that the GPU can draw."""
    import statistics

    from lgc.profiler.backends import get_backend
    from lgc.profiler.machine.environment import fingerprint
    from lgc.profiler.timing.measure import energy_per_run

    backend = get_backend(target.backend)
    runner = backend.compile(workload, target)
    runner.prepare()
    spent_mj, latency_ms = energy_per_run(runner, watch.energy_mj), statistics.median(runner.run(20))
    runner.close()
    if spent_mj is None:
        record.value(f"{name}: energy", "this GPU does not count it")
        return
    limit_w = fingerprint(target, backend)["gpu"].get("power_limit_w") or float("inf")
    record.value(f"{name}: energy of a run, mJ", spent_mj)
    record.check(f"{name}: mean power, W", spent_mj / latency_ms, least=10, most=1.05 * limit_w)
