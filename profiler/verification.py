"""Verification of a table on networks outside it: prediction against measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..lut.predictor import Predictor
from ..lut.statistics.calibration import PredictionReport, evaluate_predictions
from ..lut.table.table import LatencyTable, network_key
from ..models.space.lgcnet import LGCNetSpace
from ..models.space.protocol import DENSE, Architecture
from .backends import require_backend
from .drift import add_references, compute_drift, correct_for_drift
from .machine.environment import fingerprint
from .machine_match import require_machine
from .network_checks import check_networks
from .timing.measure import measure_rounds
from .timing.observer import OnProgress, quiet
from .timing.workloads import NetworkBuilder, network_workload

REFERENCES = 12
"""Networks of the table that are measured again: an error of the drift would be one of all predictions."""


@dataclass(frozen=True)
class VerifiedNetwork:
    """A verified network.

    Attributes:
        architecture: the network.
        predicted_ms: prediction, corrected for machine drift.
        measured_ms: measured latency.
        halves_ms: the same by either half of the measurement; NaN where unknown.
    """

    architecture: Architecture
    predicted_ms: float
    measured_ms: float
    halves_ms: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Verification:
    """Result of a verification.

    Attributes:
        report: prediction errors on networks outside the table.
        drift_pct: slowdown of the machine since the table was measured; None where unknown.
        covered_pct: share of the networks inside the prediction interval, nominally `PREDICTION_LEVEL`; None for an
            uncalibrated table.
        networks: verified networks.
    """

    report: PredictionReport
    drift_pct: float | None
    covered_pct: float | None
    networks: tuple[VerifiedNetwork, ...]


def verify(
    table: LatencyTable,
    networks: int,
    seed: int,
    *,
    rounds: int | None = None,
    build_network: NetworkBuilder | None = None,
    on_progress: OnProgress = quiet,
) -> Verification:
    """Measure random architectures outside the table and compare them with its predictions.

    Predictions are corrected for machine drift, see `drift`.

    Args:
        table: complete table of this machine.
        networks: number of networks; a rank correlation needs at least 2.
        seed: seed of the network sample; networks of the table are skipped.
        rounds: maximum of batches each; the protocol's if None.
        build_network: function from an architecture and a scope to the workload of the whole network; lgc's own for
            LGCNet's spaces if None.
        on_progress: receives the progress.

    Raises:
        MismatchError: the table was measured on a different device model, or with other networks.
        MissingEntryError: the table is incomplete.
        UsageError: fewer than 2 networks, or whole networks of the space cannot be built, or those of `build_network`
            do not have the multiply-accumulates of the slots.
    """
    if networks < 2:
        raise UsageError(f"networks {networks}: at least 2 are needed for a rank correlation")
    if build_network is None and not isinstance(table.space, LGCNetSpace):
        raise UsageError(
            f"lgc cannot build networks of space {table.space.name}: call lgc.verify in Python with your own build"
        )
    backend = require_backend(table.target)
    require_machine(table, fingerprint(table.target, backend))
    predictor = Predictor(table.space, table, DENSE)
    fresh = sample_unseen(table, networks, seed)
    if build_network is not None:
        check_networks(table, fresh.values(), build_network)
    build_network = build_network or network_workload
    workloads = {key: build_network(architecture, DENSE) for key, architecture in fresh.items()}
    benchmarks = add_references(table, workloads, DENSE, build_network, REFERENCES)
    measurement = measure_rounds(backend, table.target, benchmarks, rounds, on_progress=on_progress)
    drift_pct = compute_drift(table, measurement)
    even, odd = measurement.split_halves()
    verified = tuple(
        VerifiedNetwork(
            architecture,
            correct_for_drift(predictor.predict(architecture), drift_pct),
            measurement.summary(key).latency_ms,
            (even.summary(key).latency_ms, odd.summary(key).latency_ms),
        )
        for key, architecture in fresh.items()
    )
    names = ("predicted_ms", "measured_ms", "halves_ms")
    predicted, measured, halves = ([getattr(network, name) for network in verified] for name in names)
    half_pct = predictor.correction.half_width_pct()
    errors_pct = np.abs(np.array(measured) / np.array(predicted) - 1) * 100
    covered_pct = None if half_pct is None else float((errors_pct <= half_pct).mean() * 100)
    return Verification(evaluate_predictions(predicted, measured, halves), drift_pct, covered_pct, verified)


def sample_unseen(table: LatencyTable, count: int, seed: int) -> dict[str, Architecture]:
    """Return `count` architectures spread over the space and outside the table, by key.

    Raises:
        UsageError: the space has fewer.
    """
    known = {entry.key for entry, _, _ in table.networks()}
    fresh: dict[str, Architecture] = {}
    for architecture in table.space.spread(20 * count, seed + 1_000_003):
        key = network_key(architecture, DENSE)
        if key not in known:
            fresh[key] = architecture
        if len(fresh) == count:
            return fresh
    raise UsageError(f"space {table.space.name} has only {len(fresh)} networks outside the table")
