"""Verification: networks that a table has never seen, predicted and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..lut.predictor import Predictor
from ..lut.statistics.calibration import PredictionReport, evaluate_predictions
from ..lut.statistics.measurement import Measurement
from ..lut.table.table import LatencyTable, network_key
from ..models.space.lgcnet import Architecture
from ..models.space.plan import DENSE, SCOPES
from .backends import Workload, require_backend
from .machine.environment import fingerprint
from .profile import require_machine
from .timing.measure import measure_rounds
from .timing.rounds import OnProgress, quiet
from .timing.workloads import network_workload

SENTINELS = 6
"""Networks of the table that are measured again, to see how fast the machine runs now."""


@dataclass(frozen=True)
class Checked:
    """A network that was predicted and measured; latencies in milliseconds, the prediction at the present speed."""

    architecture: Architecture
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        report: predictions against measurements of networks that the table has not seen.
        drift_pct: how much slower the machine runs now than when the table was made; None if that is not known.
        covered_pct: share of the networks whose latency is inside the prediction's interval, which is meant to hold
            `calibration.LEVEL` of them; None if the table is not calibrated.
        networks: each network.
    """

    report: PredictionReport
    drift_pct: float | None
    covered_pct: float | None
    networks: tuple[Checked, ...]


def verify(
    table: LatencyTable, networks: int, seed: int, *, rounds: int | None = None, on_progress: OnProgress = quiet
) -> Verification:
    """Measure `networks` random architectures that the table does not hold, and compare with its predictions.

    Predictions are taken at the speed at which the machine runs now, as the table's sentinels tell it; see `drift`.

    Args:
        table: a table measured on this machine.
        networks: how many; at least 2, as a rank correlation needs.
        seed: of the architectures; the table's own networks are passed over.
        rounds: visits to each; the protocol's if None.
        on_progress: told how far it is.

    Raises:
        MismatchError: the table was measured on another kind of device.
        MissingEntryError: the table is not finished.
        UsageError: fewer than 2 networks.
    """
    if networks < 2:
        raise UsageError(f"networks to verify by: {networks} asked for, at least 2 are needed (--networks)")
    backend = require_backend(table.target)
    require_machine(table, fingerprint(table.target, backend))
    predictor = Predictor(table.space, table, DENSE)
    fresh = unseen(table, networks, seed)
    workloads = {key: network_workload(architecture, DENSE) for key, architecture in fresh.items()}
    subjects = with_sentinels(table, workloads, DENSE)
    found = measure_rounds(backend, table.target, subjects, rounds, on_progress=on_progress)
    drift_pct = drift(table, found)
    checked = tuple(
        Checked(architecture, at_speed(predictor.predict(architecture), drift_pct), found.summary(key).latency_ms)
        for key, architecture in fresh.items()
    )
    predicted, measured = ([getattr(one, name) for one in checked] for name in ("predicted_ms", "measured_ms"))
    even, odd = found.split_halves()
    pairs = [(even.summary(key).latency_ms, odd.summary(key).latency_ms) for key in fresh]
    half_pct = predictor.correction.half_width_pct()
    errors_pct = np.abs(np.array(measured) / np.array(predicted) - 1) * 100
    covered = None if half_pct is None else float((errors_pct <= half_pct).mean() * 100)
    return Verification(evaluate_predictions(predicted, measured, pairs), drift_pct, covered, checked)


def unseen(table: LatencyTable, count: int, seed: int) -> dict[str, Architecture]:
    """`count` architectures, spread over the space, that are not among the table's networks; by key.

    Raises:
        UsageError: the space does not have so many.
    """
    seen = {entry.key for entry, _, _ in table.networks()}
    fresh: dict[str, Architecture] = {}
    for architecture in table.space.spread(20 * count, seed + 1_000_003):
        key = network_key(architecture, DENSE)
        if key not in seen:
            fresh[key] = architecture
        if len(fresh) == count:
            return fresh
    raise UsageError(f"space {table.space.name} has only {len(fresh)} networks that the table has not seen")


def with_sentinels(table: LatencyTable, workloads: Mapping[str, Workload], scope: str) -> dict[str, Workload]:
    """The workloads, and with them the table's sentinels: up to `SENTINELS` of its measured networks in the scope."""
    return {
        **workloads,
        **{key: network_workload(architecture, scope) for key, architecture, _ in _known(table, scope)},
    }


def drift(table: LatencyTable, found: Measurement) -> float | None:
    """How much slower the machine runs now than when the table was made, in percent, by the sentinels in `found`.

    Absolute times of different hours, or of a GPU at different clocks, compare only through something measured in both.
    None if there were no sentinels.
    """
    measured = set(found.benchmarks)
    known = [row for scope in SCOPES for row in _known(table, scope) if row[0] in measured]
    if not known:
        return None
    ratios = [found.summary(key).latency_ms / then_ms for key, _, then_ms in known]
    return float((np.exp(np.mean(np.log(ratios))) - 1) * 100)


def at_speed(predicted_ms: float, drift_pct: float | None) -> float:
    """A prediction of the table, in milliseconds, for the machine as fast as it runs now."""
    return predicted_ms * (1 + (drift_pct or 0.0) / 100)


def _known(table: LatencyTable, scope: str) -> list[tuple[str, Architecture, float]]:
    """The sentinels: key, architecture, and latency when the table was made (ms)."""
    rows = [
        (entry.key, architecture, entry.latency_ms)
        for entry, architecture, at in table.networks()
        if at == scope and entry.latency_ms is not None
    ]
    return rows[:SENTINELS]
