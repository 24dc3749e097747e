"""Verification: networks that a table has never seen, predicted and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError
from ..lut.calibration import Report, report
from ..lut.predictor import Predictor
from ..lut.table import LatencyTable, network_key
from ..models.architecture import Architecture
from ..models.plan import DENSE
from .backends import Workload, require
from .environment import fingerprint
from .measure import halves, measure_rounds, summarise_for
from .profile import require_machine
from .rounds import OnProgress, quiet
from .workloads import network_workload

SENTINEL = "sentinel"


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        report: predictions against measurements of networks that the table has not seen.
        drift_pct: how much slower the machine runs now than when the table was made; None if that is not known.
    """

    report: Report
    drift_pct: float | None


def verify(
    table: LatencyTable, networks: int, seed: int, *, rounds: int | None = None, on_progress: OnProgress = quiet
) -> Verification:
    """Measure `networks` random architectures that the table does not hold, and compare with its predictions.

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
        raise UsageError(f"{networks} networks cannot be correlated: at least 2")
    backend = require(table.target)
    require_machine(table, fingerprint(table.target, backend))
    predictor = Predictor(table.space, table, DENSE)
    fresh = unseen(table, networks, seed)
    workloads = {key: network_workload(architecture, DENSE) for key, architecture in fresh.items()}
    subjects = with_sentinel(table, workloads)
    visits = measure_rounds(backend, table.target, subjects, rounds, on_progress=on_progress)
    measured = [summarise_for(table.target, visits[key]).latency_ms for key in fresh]
    pairs = [halves(visits[key], table.protocol["statistic"]) for key in fresh]
    predicted = [predictor.predict(architecture) for architecture in fresh.values()]
    return Verification(report(predicted, measured, pairs), drift(table, visits))


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


def with_sentinel(table: LatencyTable, workloads: Mapping[str, Workload]) -> dict[str, Workload]:
    """The workloads, and with them the table's first measured network, the sentinel."""
    subjects = dict(workloads)
    for entry, architecture, scope in table.networks():
        if entry.latency_ms is not None:
            return subjects | {SENTINEL: network_workload(architecture, scope)}
    return subjects


def drift(table: LatencyTable, visits: Mapping[str, list[list[float]]]) -> float | None:
    """How much slower the machine runs now than when the table was made, in percent, by the sentinel's visits.

    None if the table holds no measured network, so that there was no sentinel.
    """
    if SENTINEL not in visits:
        return None
    now_ms = summarise_for(table.target, visits[SENTINEL]).latency_ms
    then_ms = next(entry.latency_ms for entry, _, _ in table.networks() if entry.latency_ms is not None)
    return (now_ms / then_ms - 1) * 100
