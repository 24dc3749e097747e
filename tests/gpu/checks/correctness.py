"""Part 3: the torch backend's outputs in every precision and scope, order of replays, TF32."""

from __future__ import annotations

from dataclasses import asdict

from .common import import_file, load_space, sort_by_size
from .record import Record
from .settings import Settings

GRAPHS, ORDERS = 4, ((3, 1, 0, 2), (0, 2, 3, 1))
MAX_DIFFERENCE = 1e-5
"""Largest difference between two replays of one graph over the same input."""


def run(record: Record, settings: Settings) -> None:
    device = settings.device
    wide_dot = import_file("tests/profiler/backends/wide_dot.py")
    record.enter("TF32")
    record.add_check(
        "error of float32 dot products",
        wide_dot.measure_error("torch", device),
        min_value=1e-8,
        max_value=wide_dot.BOUND,
    )
    record.enter("order of replays")
    record.add_check("difference by order of replays", compare_replay_orders(settings), max_value=MAX_DIFFERENCE)
    compare_outputs(record, settings)


def compare_outputs(record: Record, settings: Settings) -> None:
    """Compare logits and classes in each precision and scope with torch's on this machine's CPU."""
    from lgc.device import Device
    from lgc.lut import Target
    from lgc.models.space.protocol import CORE, DENSE, END_TO_END
    from lgc.profiler.backends import get_backend
    from lgc.profiler.backends.base import generate_inputs
    from lgc.profiler.deployment.parity import (
        RANDOM,
        compare_outputs,
        compute_reference,
        compute_runner_outputs,
        is_within_tolerance,
    )
    from lgc.profiler.timing.workloads import image_input, network_module, network_workload

    device, backend = settings.device, get_backend("torch")
    architecture = sort_by_size(load_space(settings))[4]
    logits = network_workload(architecture, CORE)
    for scope in (DENSE, END_TO_END):
        record.enter(f"{scope}: torch on the CPU")
        shape, dtype = image_input(architecture.space.input, scope)
        reference = compute_reference(network_module(architecture, DENSE), generate_inputs([shape], dtype), RANDOM)
        classes = network_workload(architecture, scope)
        for precision in backend.precisions(Device(device)) if settings.on_gpu else ("fp32",):
            record.enter(f"{scope} {precision}")
            target = Target(device, "torch", precision)
            outputs = [
                compute_runner_outputs(backend, workload, target, inputs)
                for workload, inputs in ((classes, reference.inputs), (logits, reference.tensors))
            ]
            result = compare_outputs(reference, *outputs)
            record.add_value(f"{scope} {precision}", asdict(result))
            record.add_check(
                f"{scope} {precision} equals torch",
                float(is_within_tolerance(precision, result, trained=False)),
                min_value=1,
            )


def compare_replay_orders(settings: Settings) -> float:
    """Return the largest difference between outputs of graphs that share memory, in different orders of replay."""
    import numpy as np

    from lgc.lut import Target
    from lgc.models import SearchSpace
    from lgc.profiler.backends import get_backend
    from lgc.profiler.timing.workloads import network_workload

    space = load_space(settings) if settings.rehearsal else SearchSpace.load("tiny")
    workloads = [network_workload(space.sample(seed), "core") for seed in range(GRAPHS)]
    inputs = workloads[0].inputs()
    runners = [get_backend("torch").compile(workload, Target(settings.device, "torch")) for workload in workloads]
    alone = [runner.infer(inputs)[0] for runner in runners]
    worst = 0.0
    for order in ORDERS:
        for index in order:
            runners[index].run(2)
        for index in order:
            worst = max(worst, float(np.abs(runners[index].infer(inputs)[0] - alone[index]).max()))
    for runner in runners:
        runner.close()
    return worst
