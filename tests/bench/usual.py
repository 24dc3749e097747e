"""The usual latency table, to compare with: operators alone, one after another, means of back-to-back runs, summed."""

from __future__ import annotations

import numpy as np

from lgc.lut import Target
from lgc.lut.calibration import Parts, choose
from lgc.models import OpSpec, SearchSpace
from lgc.models.operators import is_free
from lgc.profiler.backends import require
from lgc.profiler.measure import prepared
from lgc.profiler.verification import Checked
from lgc.profiler.workloads import operator_workload

RUNS = 50


def usual_table(space: SearchSpace, target: Target) -> dict[OpSpec, float]:
    """Mean latency of every operator of the space in milliseconds, each measured to its end before the next."""
    found = {}
    backend = require(target)
    for spec in space.specs():
        if not is_free(spec):
            with prepared(backend, target, {str(spec): operator_workload(spec)}, refuse) as runners:
                found[spec] = float(np.mean(runners[str(spec)].run(RUNS)))
    return found


def refuse(key: str, reason: str) -> None:
    raise RuntimeError(f"{key}: {reason}")


def usual_error_pct(table: dict[OpSpec, float], networks: tuple[Checked, ...]) -> tuple[float, float]:
    """Mean absolute error on measured networks in percent: of the plain sum, and after our own correction of it.

    The second is more than the usual table has; it shows what is left when the measuring alone is the usual one.
    """
    parts: list[Parts] = [
        [(spec, table[spec]) for spec in one.architecture.specs() if not is_free(spec)] for one in networks
    ]
    measured = np.array([one.measured_ms for one in networks])
    sums = np.array([sum(ms for _, ms in part) for part in parts])
    _, held_out = choose(parts, measured.tolist())
    return tuple(float(np.abs(p / measured - 1).mean() * 100) for p in (sums, held_out))
