"""Conventional latency table for comparison: isolated operators in sequence, means of back-to-back runs, summed."""

from __future__ import annotations

import numpy as np

from lgc.lut import Target
from lgc.lut.statistics.calibration import OperatorLatencies, choose_correction
from lgc.models import OpSpec, SearchSpace
from lgc.models.space.operators import is_free
from lgc.profiler.backends import require_backend
from lgc.profiler.machine.environment import pinned
from lgc.profiler.timing.measure import assign, prepared
from lgc.profiler.timing.observer import MeasurementObserver
from lgc.profiler.timing.workloads import operator_workload
from lgc.profiler.verification import VerifiedNetwork

RUNS = 50


def measure_conventional(space: SearchSpace, target: Target) -> dict[OpSpec, float]:
    """Measure the mean latency in milliseconds of every operator of a space, one after the other."""
    table = {}
    backend = require_backend(target)
    with pinned(target):
        for spec in space.specs():
            if not is_free(spec):
                assignments = assign(backend, target, {str(spec): operator_workload(spec)})
                with prepared(assignments, MeasurementObserver()) as runners:
                    table[spec] = float(np.mean(runners[str(spec)].run(RUNS)))
    return table


def conventional_errors_pct(
    table: dict[OpSpec, float], networks: tuple[VerifiedNetwork, ...]
) -> tuple[float, float, float]:
    """Return the mean absolute percentage errors of three predictions on measured networks.

    They are the plain sum, the sum times the best common factor, and the sum with lgc's correction, held out.
    """
    parts: list[OperatorLatencies] = [
        [(spec, table[spec]) for spec in network.architecture.specs() if not is_free(spec)] for network in networks
    ]
    measured = np.array([network.measured_ms for network in networks])
    sums = np.array([sum(ms for _, ms in part) for part in parts])
    scaled = sums * np.median(measured / sums)
    held_out = choose_correction(parts, measured.tolist()).held_out_ms
    plain, rescaled, corrected = (float(np.abs(p / measured - 1).mean() * 100) for p in (sums, scaled, held_out))
    return plain, rescaled, corrected
