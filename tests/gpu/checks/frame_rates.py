"""Part 7: frame rates of three architectures compared with a bare loop and the table, and energy per run."""

from __future__ import annotations

from typing import Any

from .common import count_rounds, import_file, load_space, sort_by_size
from .record import Record
from .settings import Settings

PRECISION = "fp16"


def run(record: Record, settings: Settings) -> None:
    from contextlib import nullcontext

    from lgc.lut import LatencyTable, Target
    from lgc.models.space.protocol import DENSE
    from lgc.profiler.deployment.latency import time_network
    from lgc.profiler.deployment.network import Network
    from lgc.profiler.machine.monitor import open_monitor

    precision = settings.precision(PRECISION)
    target = Target(settings.device, settings.backend, precision)
    against_bare_loop = import_file("tests/bench/common/paired_timing.py").against_bare_loop
    networks = sort_by_size(load_space(settings))
    chosen = {"middle": networks[len(networks) // 2], "smallest": networks[0], "largest": networks[-1]}
    path, share_s = settings.table(PRECISION), settings.limit_s / 24
    if settings.rehearsal:  # a rehearsal has time for one network, without those of the table
        del chosen["smallest"], chosen["largest"]
    with_table = path.exists() and not settings.rehearsal
    with LatencyTable.open(path) if with_table else nullcontext() as table, open_monitor(target) as monitor:
        for name, architecture in chosen.items():
            record.enter(f"frame rate, {name}")
            network = Network(architecture, None, DENSE)
            result = time_network(network, target, table, seconds=share_s)
            row = {key: getattr(result, key) for key in ("fps", "median_ms", "p90_ms", "p99_ms", "runs", "error_pct")}
            record.enter(f"bare loop, {name}")
            workload = network.workload(precision=precision)
            loop = against_bare_loop(workload, target, count_rounds(share_s / 2))
            record.add_value(name, row | {"our clock / bare loop": loop["ratio"]})
            record.add_check(f"{name}: equals torch", float(result.equals_torch()), min_value=1)
            if not settings.rehearsal:
                record.add_check(f"{name}: our clock / bare loop", loop["ratio"], min_value=0.98, max_value=1.02)
            if settings.on_gpu:
                record.enter(f"energy, {name}")
                measure_energy(record, name, workload, target, monitor)


def measure_energy(record: Record, name: str, workload: Any, target: Any, monitor: Any) -> None:
    """Measure the energy per run over long batches without gaps; the mean power must be plausible for the GPU."""
    import statistics

    from lgc.profiler.backends import get_backend
    from lgc.profiler.machine.environment import fingerprint
    from lgc.profiler.timing.measure import energy_per_run

    backend = get_backend(target.backend)
    runner = backend.compile(workload, target)
    runner.prepare()
    spent_mj, latency_ms = energy_per_run(runner, monitor.energy_mj), statistics.median(runner.run(20))
    runner.close()
    if spent_mj is None:
        record.add_value(f"{name}: energy", "this GPU does not count it")
        return
    limit_w = fingerprint(target, backend)["gpu"].get("power_limit_w") or float("inf")
    record.add_value(f"{name}: energy of a run, mJ", spent_mj)
    record.add_check(f"{name}: mean power, W", spent_mj / latency_ms, min_value=10, max_value=1.05 * limit_w)
