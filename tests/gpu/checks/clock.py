"""Part 2: whether CUDA events and our way of queueing give true durations."""

from __future__ import annotations

import statistics
import time
from typing import Any

from .common import by_size, module_at, rounds_in, space_of
from .record import Record
from .settings import Settings

SPIN_CYCLES = 20_000_000
"""About 10 ms at 2 GHz: long against every wait of the host."""
SPINS, REPLAYS, BATCHES = 12, 40, 20
KERNELS = (1, 100)


def run(record: Record, settings: Settings) -> None:
    from lgc.lut import Target
    from lgc.models.space.plan import DENSE
    from lgc.profiler.timing.workloads import network_workload

    if settings.on_gpu:
        import torch

        device = torch.device(settings.device)
        record.at("spins of known length")
        spins(record, device)
        for kernels in KERNELS:
            record.at(f"queueing graphs of {kernels} kernels")
            queueing(record, device, kernels)
    record.at("bare loop")
    workload = network_workload(by_size(space_of(settings))[4], DENSE)
    target = Target(settings.device, settings.backend)
    loop = module_at("tests/bench/common/paired_timing.py").against_bare_loop(
        workload, target, rounds_in(settings.limit_s / 4)
    )
    record.value("our clock against a bare loop", loop)
    if not settings.rehearsal:
        record.check("our clock / bare loop", loop["ratio"], least=0.98, most=1.02)


def spins(record: Record, device: Any) -> None:
    """A spin between two events lasts as long as the host waits for it; four times the cycles, four times as long."""
    import torch

    from lgc.profiler.backends.cuda.graph import CudaGraph

    lengths = {}
    for factor in (1, 4):
        graph = CudaGraph(lambda factor=factor: torch.cuda._sleep(factor * SPIN_CYCLES), device)
        graph.time(2)
        events, waits = [], []
        for _ in range(SPINS):
            events += graph.time(1)
            start = time.perf_counter()
            graph.replay_batch(1)
            waits.append(1e3 * (time.perf_counter() - start))
        lengths[factor] = statistics.median(events)
        record.value(f"spin of {factor} x {SPIN_CYCLES} cycles, ms", {"events": events, "host": waits})
        record.check(
            f"events / host, spin x{factor}", lengths[factor] / statistics.median(waits), least=0.98, most=1.02
        )
        graph.close()
    record.check("spin x4 / spin x1", lengths[4] / lengths[1], least=3.92, most=4.08)
    record.value("cycles a microsecond", SPIN_CYCLES / lengths[1] / 1e3)


def queueing(record: Record, device: Any, kernels: int) -> None:
    """Replays are queued ahead of the device; the launch costs the host what it costs, and the durations none of it."""
    import torch

    from lgc.profiler.backends.cuda.graph import CudaGraph
    from lgc.profiler.backends.cuda.replay_queue import MAX_FACTOR, lead_for

    x = torch.zeros(64, device=device)

    def work() -> Any:
        for _ in range(kernels):
            x.add_(1.0)
        return x

    graph, lead = CudaGraph(work, device), lead_for(str(device))
    graph.time(REPLAYS)
    durations = [ms for _ in range(BATCHES) for ms in graph.time(REPLAYS)]
    start = time.perf_counter()
    graph.replay_batch(REPLAYS * BATCHES)
    paced_ms = 1e3 * (time.perf_counter() - start) / (REPLAYS * BATCHES)
    name = f"graph of {kernels} kernels"
    low, middle, high = statistics.quantiles(durations, n=4)
    record.value(
        name,
        {
            "median, us": 1e3 * middle,
            "interquartile range, us": 1e3 * (high - low),
            "paced by the host, us": 1e3 * paced_ms,
            "launched alone, us": 1e3 * module_at("tests/gpu/pace.py").launched_alone_ms(graph.replay),
            "launch with events, us": lead.launch_us,
            "lead factor": lead.factor,
        },
    )
    record.check(f"{name}: lead factor", lead.factor, most=MAX_FACTOR / 2)
    if kernels > 1:  # the two events around one short kernel take as long as itself
        record.check(f"{name}: median / pace of the host", middle / paced_ms, most=1.05)
    graph.close()
