"""Ablation of the protocol: operators isolated or between carriers, with warm or cold caches."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.calibration import design_matrix
from lgc.models import SearchSpace
from lgc.models.space.operators import is_free
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.timing import stopping
from lgc.profiler.timing.contexts import CARRIERS, ISOLATED

STOPPING_RULES = {"warm": stopping.CPU_ALONE, "cold": stopping.CPU_PROBE}


def measure_ablation(space: SearchSpace, target: Target) -> dict[str, Any]:
    """Profile a table per combination and return the errors of plain and corrected sums on networks."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for context in (ISOLATED, CARRIERS):
            for runs, rule in STOPPING_RULES.items():
                path = Path(folder) / f"{context}-{runs}.lut"
                rules = {"CPU_PROBE": replace(rule), "CPU_ALONE": replace(rule)}
                with mock.patch.multiple(stopping, **rules):
                    profiled = profile(space, target, path, context=context)
                assert profiled.verification is not None
                row = {"context": context, "runs": runs, "plain_mape_pct": plain_mape_pct(path)}
                rows.append({**row, "held_out": profiled.verification.as_dict(), "seconds": profiled.seconds})
    height, width = space.input
    return {
        "name": [space.name, f"{height}x{width}"],
        "target": str(target),
        "environment": fingerprint(target, get_backend(target.backend)),
        "rows": rows,
    }


def plain_mape_pct(path: Path) -> float:
    """Return the mean absolute percentage error of plain sums on the table's networks."""
    with LatencyTable.open(path) as table:
        networks = [(subject.latency_ms, a) for subject, a, scope in table.networks() if scope == DENSE]
        parts = [[(s, table.latency_ms(s)) for s in a.specs() if not is_free(s)] for _, a in networks]
    sums = design_matrix("affine", parts)[:, 0]
    return float(np.abs(sums / np.array([ms for ms, _ in networks]) - 1).mean() * 100)
