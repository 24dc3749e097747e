"""Latency of an exported network on a target, compared with the prediction of a latency table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...files import ensure_folder, write_atomic
from ...lut.predictor import Predictor
from ...lut.statistics.measurement import Measurement
from ...lut.table.schema import NOISY
from ...lut.table.table import LatencyTable
from ...lut.target import Target
from ...models.space.protocol import SCOPES, Architecture
from ..backends import Backend, get_backend, require_backend
from ..backends.base import measure_layers
from ..drift import add_references, compute_drift, correct_for_drift
from ..machine.devices import list_devices
from ..machine.environment import fingerprint
from ..machine_match import require_machine
from ..timing.measure import assign, measure_seconds
from ..timing.observer import OnProgress, quiet
from ..timing.starvation import describe_starvation
from .latency_target import LatencyTarget
from .layer_attribution import SlotReport, attribute_layers
from .network import Network
from .parity import Parity, compare_backend, is_within_tolerance

if TYPE_CHECKING:
    from pydantic import JsonValue

NETWORK_KEY = "network"
"""Benchmark of the measured network, next to the sentinels of the table."""
LAYER_RUNS = 50
"""Runs that layer times are the interquartile mean of."""
MAX_ERROR_PCT = 10.0
"""Prediction error above which the result has a remark, if it is outside the prediction interval too."""
_INTERNAL = ("parity", "slots", "trained", "tolerance")
"""Attributes of a result that its JSON object lacks, or has in another form."""
METER_SECONDS = 8.0
"""Duration of one measurement of a search that refines its result by measuring, sentinels included."""


@dataclass(frozen=True)
class TargetResult:
    """Exported network on one target; None where unavailable.

    Attributes:
        backend: name of a backend in `BACKENDS`.
        device: device that ran the network, or that an engine was built for.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        scope: `core`, `dense` or `end-to-end`; tables predict the first two.
        table_ms: prediction of the table, at the machine's speed when the table was measured.
        drift_pct: slowdown of the machine since then, from networks of the table measured again.
        predicted_ms: `table_ms` at the machine's current speed.
        predicted_low_ms: lower end of the 90 % prediction interval.
        predicted_high_ms: upper end of the 90 % prediction interval.
        measured_ms: latency by the table's statistic, comparable with `predicted_ms`.
        error_pct: (predicted - measured) / measured.
        table_error_pct: (table - measured) / measured: error of the table and drift of the machine together.
        fps: images per second, 1000 * `batch` / `median_ms`.
        median_ms: median of all runs.
        p90_ms: 90th percentile of all runs.
        p99_ms: 99th percentile of all runs.
        iqr_ms: interquartile range of all runs.
        runs: number of runs.
        threads: CPU threads per operator; None on a GPU.
        batch: images per run.
        parity: parity of the timed program with torch, on random inputs.
        trained: True if the weights are trained; decides which tolerances apply.
        tolerance: precision whose tolerance applies; None for `precision`.
        settings: settings of the backend.
        slots: entries of the table compared with the layer times.
        layers: file of the layer times.
        engine: file of the TensorRT engine.
        note: remarks for the reader.
        target_ms: target of the search that made the network, by the table's statistic; None without one for this
            target and scope.
        target_fps: frame rate that it was converted from; None for a target in ms.
    """

    backend: str
    device: str
    precision: str
    scope: str
    table_ms: float | None = None
    drift_pct: float | None = None
    predicted_ms: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    measured_ms: float | None = None
    error_pct: float | None = None
    table_error_pct: float | None = None
    fps: float | None = None
    median_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    iqr_ms: float | None = None
    runs: int | None = None
    threads: int | None = None
    batch: int = 1
    parity: Parity | None = None
    trained: bool = True
    tolerance: str | None = None
    settings: dict[str, str] | None = None
    slots: SlotReport | None = None
    layers: str | None = None
    engine: str | None = None
    note: str | None = None
    target_ms: float | None = None
    target_fps: float | None = None

    def as_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object; the differences and the agreement of `parity` are keys of their own."""
        content = {name: value for name, value in vars(self).items() if name not in _INTERNAL}
        names = ("max_abs_diff", "mean_abs_diff", "argmax_agreement_pct")
        content |= {name: None if self.parity is None else getattr(self.parity, name) for name in names}
        content["note"] = "; ".join(remark for remark in (self.note, self.starvation) if remark) or None
        content["target_shortfall_pct"] = self.target_shortfall_pct
        return content | {"slots": None if self.slots is None else asdict(self.slots)}

    @property
    def starvation(self) -> str | None:
        """Remark if runs took far longer than the statistic that is compared with the table; else None."""
        return describe_starvation(self.measured_ms, self.median_ms, self.p90_ms)

    @property
    def target_shortfall_pct(self) -> float | None:
        """By how much the network misses the search's target, in percent; negative if it is faster than that.

        A frame rate is compared as it is, a latency at the machine's speed when the table was measured.
        """
        if self.target_fps is not None and self.fps is not None:
            return (1 - self.fps / self.target_fps) * 100
        if self.target_ms is None or self.undrifted_ms is None:
            return None
        return (self.undrifted_ms / self.target_ms - 1) * 100

    @property
    def undrifted_ms(self) -> float | None:
        """`measured_ms` at the machine's speed when the table was measured."""
        return None if self.measured_ms is None else self.measured_ms / (1 + (self.drift_pct or 0.0) / 100)

    def equals_torch(self) -> bool:
        """Return True if the outputs match torch's within the precision's tolerance, or nothing was run."""
        return self.parity is None or is_within_tolerance(
            self.tolerance or self.precision, self.parity, trained=self.trained
        )

    def within(self, tolerance_pct: float) -> bool:
        """Return True if the prediction error is within the tolerance, or there is no prediction."""
        return self.error_pct is None or abs(self.error_pct) <= tolerance_pct


def time_network(
    network: Network,
    target: Target,
    table: LatencyTable | None,
    *,
    seconds: float = 10.0,
    on_progress: OnProgress = quiet,
) -> TargetResult:
    """Measure a network on `target`, and compare its outputs with torch and its latency with the prediction.

    The network is timed by `measure_seconds`, interleaved with sentinels of the table, which measure the drift.

    Args:
        network: network to run.
        target: target to run it on.
        table: table with the prediction; None for no prediction. Not used in scope end-to-end.
        seconds: duration of the measurement, sentinels included.
        on_progress: progress callback.

    Raises:
        BackendUnavailableError: the target is not available on this machine.
        MismatchError: the table belongs to another target, space or machine.
        UsageError: int8 for a network without images.
    """
    backend = require_backend(target)
    if network.scope not in SCOPES or network.architecture is None:
        table = None
    provenance = {} if network.architecture is None else network.architecture.provenance
    device_name = list_devices()[target.device] if provenance else None
    goal = LatencyTarget.from_provenance(provenance, target, network.scope, table, device_name)
    predictor = None if table is None else make_predictor(network, target, table, backend)
    parity = compare_backend(network, backend, target)
    workloads = {NETWORK_KEY: network.workload(precision=target.precision)}
    if table is not None:
        workloads = add_references(table, workloads, network.scope)
    measurement = measure_seconds(assign(backend, target, workloads), seconds, on_progress=on_progress)
    result = replace(
        summarize_runs(measurement, target, network.scope), parity=parity, trained=network.weights is not None
    )
    if goal is not None:
        result = replace(result, target_ms=goal.ms, target_fps=goal.fps)
    if table is None or predictor is None or network.architecture is None:
        return result
    result = _add_prediction(result, predictor, network.architecture, compute_drift(table, measurement))
    return replace(result, note=_describe_error(result.error_pct, predictor.correction.half_width_pct(), table))


def summarize_runs(measurement: Measurement, target: Target, scope: str, batch: int = 1) -> TargetResult:
    """Return the latency of the benchmark `NETWORK_KEY`, which runs `batch` images, of a measurement on `target`."""
    runs = np.concatenate(measurement.durations(NETWORK_KEY))
    low, median, high, p90, p99 = np.quantile(runs, [0.25, 0.5, 0.75, 0.9, 0.99]).tolist()
    return TargetResult(
        target.backend,
        target.device,
        target.precision,
        scope,
        measured_ms=measurement.summary(NETWORK_KEY).latency_ms,
        fps=1000 * batch / median,
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        iqr_ms=high - low,
        runs=len(runs),
        threads=target.threads if target.device.is_cpu else None,
        batch=batch,
        settings=get_backend(target.backend).settings(target),
    )


def _add_prediction(
    result: TargetResult, predictor: Predictor, architecture: Architecture, drift_pct: float | None
) -> TargetResult:
    """Return the result with the prediction and its error."""
    assert result.measured_ms is not None
    table_ms, interval = predictor.predict(architecture), predictor.interval(architecture)
    predicted_ms = correct_for_drift(table_ms, drift_pct)
    return replace(
        result,
        table_ms=table_ms,
        drift_pct=drift_pct,
        predicted_ms=predicted_ms,
        predicted_low_ms=None if interval is None else correct_for_drift(interval.low_ms, drift_pct),
        predicted_high_ms=None if interval is None else correct_for_drift(interval.high_ms, drift_pct),
        error_pct=(predicted_ms / result.measured_ms - 1) * 100,
        table_error_pct=(table_ms / result.measured_ms - 1) * 100,
    )


def _describe_error(error_pct: float | None, half_pct: float | None, table: LatencyTable) -> str | None:
    """Return a remark on a prediction that is far off, with the likeliest cause; else None."""
    if error_pct is None or abs(error_pct) <= max(MAX_ERROR_PCT, half_pct or 0.0):
        return None
    entries = table.entries()
    noisy = sum(entry.status == NOISY for entry in entries)
    interval = "" if half_pct is None else f", with a 90 % interval of ± {half_pct:.0f} %"
    cause = "the table of entries and layers (--layers) shows which deviate"
    if noisy:
        cause = f"{noisy} of {len(entries)} entries of {table.path} are noisy: continue with {table.profile_command()}"
    return f"the prediction is off by {error_pct:+.0f} %{interval}: {cause}"


def make_predictor(network: Network, target: Target, table: LatencyTable, backend: Backend) -> Predictor:
    """Return the table's predictor in the network's scope.

    Raises:
        MismatchError: the table belongs to another target or machine.
    """
    table.require(target=target)
    require_machine(table, fingerprint(target, backend))
    return Predictor(table.space, table, network.scope)


def add_layer_times(
    network: Network, target: Target, table: LatencyTable, result: TargetResult, folder: Path
) -> TargetResult:
    """Time the network's layers, write them to a file, and compare the table's entries with them.

    Raises:
        MeasurementError: the backend does not report layer times.
        OutputError: the file cannot be written.
    """
    backend = require_backend(target)
    runner = backend.compile(network.workload(precision=target.precision), target)
    try:
        layers = measure_layers(runner, LAYER_RUNS)
    finally:
        runner.close()
    assert result.measured_ms is not None
    assert network.architecture is not None  # else it has no prediction
    report = attribute_layers(
        network.architecture,
        table,
        make_predictor(network, target, table, backend),
        layers,
        measured_ms=result.measured_ms,
        drift_pct=result.drift_pct,
    )
    path = ensure_folder(folder) / f"{network.stem}-{target.backend}-{target.precision}-layers.json"
    content = {"target": str(target), "layers": [asdict(layer) for layer in layers], "slots": asdict(report)}
    write_atomic(path, json.dumps(content, indent=2) + "\n")
    return replace(result, slots=report, layers=str(path))


def make_latency_meter(path: Path, scope: str, seconds: float = METER_SECONDS) -> Callable[[Architecture], float]:
    """Return a function that measures architectures on the table's target, in ms at the table's machine speed.

    Args:
        path: latency table.
        scope: `core` or `dense`.
        seconds: duration of each measurement.

    Raises:
        BackendUnavailableError: the target is not available on this machine.
        MismatchError: the table was measured on another machine.
    """
    with LatencyTable.open(path) as table:
        require_machine(table, fingerprint(table.target, require_backend(table.target)))

    def measure(architecture: Architecture) -> float:
        with LatencyTable.open(path) as table:
            result = time_network(Network(architecture, None, scope), table.target, table, seconds=seconds)
        assert result.undrifted_ms is not None
        return result.undrifted_ms

    return measure
