"""The usual latency table, to compare with: operators alone, one after another, means of back-to-back runs, summed."""

from __future__ import annotations

import numpy as np

from lgc.lut import Target
from lgc.lut.statistics.calibration import Parts, choose
from lgc.models import OpSpec, SearchSpace
from lgc.models.space.operators import is_free
from lgc.profiler.backends import require_backend
from lgc.profiler.machine.environment import pinned
from lgc.profiler.timing.measure import placed, prepared
from lgc.profiler.timing.workloads import operator_workload
from lgc.profiler.verification import Checked

RUNS = 50


def usual_table(space: SearchSpace, target: Target) -> dict[OpSpec, float]:
    """Mean latency of every operator of the space in milliseconds, each measured to its end before the next."""
    found = {}
    backend = require_backend(target)
    with pinned(target):
        for spec in space.specs():
            if not is_free(spec):
                with prepared(placed(backend, target, {str(spec): operator_workload(spec)}), refuse) as runners:
                    found[spec] = float(np.mean(runners[str(spec)].run(RUNS)))
    return found


def refuse(key: str, reason: str) -> None:
    raise RuntimeError(f"{key}: {reason}")


def usual_error_pct(table: dict[OpSpec, float], networks: tuple[Checked, ...]) -> tuple[float, float, float]:
    """Mean absolute error on measured networks in percent, of three predictions.

    The plain sum; the sum times the factor that suits it best, so that the machine's speed is no excuse; and with our
    own correction fitted to it, which the usual table has not: what is left when only the measuring is the usual one.
    """
    parts: list[Parts] = [
        [(spec, table[spec]) for spec in one.architecture.specs() if not is_free(spec)] for one in networks
    ]
    measured = np.array([one.measured_ms for one in networks])
    sums = np.array([sum(ms for _, ms in part) for part in parts])
    scaled = sums * np.median(measured / sums)
    held_out = choose(parts, measured.tolist()).held_out_ms
    plain, at_speed, corrected = (float(np.abs(p / measured - 1).mean() * 100) for p in (sums, scaled, held_out))
    return plain, at_speed, corrected
