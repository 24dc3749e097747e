"""Part 2: accuracy of CUDA events and of the replay queue."""

from __future__ import annotations

import statistics
import time
from typing import Any

from .common import count_rounds, import_file, load_space, sort_by_size
from .record import Record
from .settings import Settings

SPIN_CYCLES = 20_000_000
"""About 10 ms at 2 GHz: long compared with every wait of the host."""
SPINS, REPLAYS, BATCHES = 12, 40, 20
KERNELS = (1, 100)


def run(record: Record, settings: Settings) -> None:
    from lgc.lut import Target
    from lgc.models.space.protocol import DENSE
    from lgc.profiler.timing.workloads import network_workload

    if settings.on_gpu:
        import torch

        device = torch.device(settings.device)
        record.enter("spins of known length")
        check_spins(record, device)
        for kernels in KERNELS:
            record.enter(f"queueing graphs of {kernels} kernels")
            check_queueing(record, device, kernels)
    record.enter("bare loop")
    workload = network_workload(sort_by_size(load_space(settings))[4], DENSE)
    target = Target(settings.device, settings.backend)
    loop = import_file("tests/bench/common/paired_timing.py").against_bare_loop(
        workload, target, count_rounds(settings.limit_s / 4)
    )
    record.add_value("our clock against a bare loop", loop)
    if not settings.rehearsal:
        record.add_check("our clock / bare loop", loop["ratio"], min_value=0.98, max_value=1.02)


def check_spins(record: Record, device: Any) -> None:
    """Check that events and host agree on a spin's duration, and that four times the cycles take four times as long."""
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
        record.add_value(f"spin of {factor} x {SPIN_CYCLES} cycles, ms", {"events": events, "host": waits})
        record.add_check(
            f"events / host, spin x{factor}", lengths[factor] / statistics.median(waits), min_value=0.98, max_value=1.02
        )
        graph.close()
    record.add_check("spin x4 / spin x1", lengths[4] / lengths[1], min_value=3.92, max_value=4.08)
    record.add_value("cycles a microsecond", SPIN_CYCLES / lengths[1] / 1e3)


def check_queueing(record: Record, device: Any, kernels: int) -> None:
    """Check that replays are queued ahead of the device, so that the latencies exclude the launches."""
    import torch

    from lgc.device import Device
    from lgc.profiler.backends.cuda.graph import CudaGraph
    from lgc.profiler.backends.cuda.replay_queue import MAX_FACTOR, get_spin_calibration

    x = torch.zeros(64, device=device)

    def work() -> Any:
        for _ in range(kernels):
            x.add_(1.0)
        return x

    graph, calibration = CudaGraph(work, device), get_spin_calibration(Device(str(device)))
    graph.time(REPLAYS)
    durations = [ms for _ in range(BATCHES) for ms in graph.time(REPLAYS)]
    start = time.perf_counter()
    graph.replay_batch(REPLAYS * BATCHES)
    paced_ms = 1e3 * (time.perf_counter() - start) / (REPLAYS * BATCHES)
    name = f"graph of {kernels} kernels"
    low, middle, high = statistics.quantiles(durations, n=4)
    record.add_value(
        name,
        {
            "median, us": 1e3 * middle,
            "interquartile range, us": 1e3 * (high - low),
            "paced by the host, us": 1e3 * paced_ms,
            "launched alone, us": 1e3 * import_file("tests/gpu/pace.py").measure_isolated_ms(graph.replay),
            "launch with events, us": calibration.launch_us,
            "lead factor": calibration.factor,
        },
    )
    record.add_check(f"{name}: lead factor", calibration.factor, max_value=MAX_FACTOR / 2)
    if kernels > 1:  # the two events around a short kernel take as long as the kernel
        record.add_check(f"{name}: median / pace of the host", middle / paced_ms, max_value=1.05)
    graph.close()
