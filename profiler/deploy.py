"""Deployment: an architecture as an ONNX file or engine, compared with torch, timed, held against its prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MeasurementError, MismatchError
from ..files import ensure_folder, write_atomic
from ..lut.predictor import Predictor
from ..lut.table import LatencyTable, network_key
from ..lut.target import Target
from ..models.architecture import Architecture
from ..models.plan import CORE, DENSE
from .backends import Backend, Workload, require
from .backends.base import random_inputs
from .environment import fingerprint
from .measure import measure_seconds
from .profile import require_machine
from .rounds import OnProgress, quiet
from .verification import at_speed, drift, with_sentinels
from .workloads import network_module, network_workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .backends.trt_engine import Engine

NETWORK = "network"
"""Subject of the measured network, beside the table's sentinels."""
RULER_SECONDS = 8.0
"""How long a search that lands by measurement measures each architecture, networks of the table beside it."""
MAX_ABS_DIFF = 1e-4
"""Largest difference of fp32 logits from torch's that passes."""
MIN_AGREEMENT_PCT = 99.0
"""Smallest share of pixels of the same class as torch's, in percent, that passes."""


@dataclass(frozen=True)
class Result:
    """One deployed network on one target; what could not be had is None.

    Attributes:
        backend: a name of `backends.BACKENDS`.
        device: where it ran, or what it was built for.
        precision: `fp32`, `fp16` or `bf16`.
        scope: `core` or `dense`.
        table_ms: the table's prediction, at the machine's speed when the table was made.
        drift_pct: how much slower the machine runs now, by networks of the table measured again.
        predicted_ms: table_ms at the machine's present speed.
        predicted_low_ms: lower end of its 90 % interval; likewise predicted_high_ms.
        measured_ms: the table's statistic over the runs, so that it compares with predicted_ms.
        error_pct: (predicted - measured) / measured.
        table_error_pct: (table - measured) / measured: the table's error and the machine's drift together.
        fps: 1000 / median_ms.
        median_ms: median of all runs; likewise p90_ms and p99_ms.
        runs: number of runs.
        max_abs_diff: largest difference of the logits from torch's.
        argmax_agreement_pct: share of pixels with torch's class.
        note: what a reader has to know besides.
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
    runs: int | None = None
    max_abs_diff: float | None = None
    argmax_agreement_pct: float | None = None
    note: str | None = None

    def equals_torch(self) -> bool:
        """Whether the outputs are torch's, as far as the precision allows; true where nothing was run."""
        if self.argmax_agreement_pct is None:
            return True
        close = self.precision != "fp32" or (self.max_abs_diff or 0.0) <= MAX_ABS_DIFF
        return close and self.argmax_agreement_pct >= MIN_AGREEMENT_PCT

    def within(self, tolerance_pct: float) -> bool:
        """Whether the prediction is within the tolerance; true where there is none."""
        return self.error_pct is None or abs(self.error_pct) <= tolerance_pct


@dataclass(frozen=True)
class Network:
    """What is deployed: an architecture, its weights (random ones if None), in a scope."""

    architecture: Architecture
    weights: Mapping[str, Tensor] | None
    scope: str

    def workload(self, scope: str | None = None) -> Workload:
        """The network as a workload, in its own scope or in another."""
        return network_workload(self.architecture, scope or self.scope, self.weights)

    def reference(self, scope: str) -> nn.Module:
        """The network as it was trained and scored: torch, evaluation mode, nothing folded."""
        return network_module(self.architecture, scope, self.weights)

    @property
    def stem(self) -> str:
        """What its files are called: space, input size, eight digits of the architecture's own, scope."""
        height, width = self.architecture.space.input
        digits = hashlib.sha256(network_key(self.architecture, self.scope).encode()).hexdigest()[:8]
        return f"{self.architecture.space.name}-{height}x{width}-{digits}-{self.scope}"


def write_onnx(network: Network, folder: Path) -> Path:
    """Write the network's ONNX file, with architecture and scope in its metadata.

    Raises:
        OutputError: `folder` cannot be written.
    """
    import onnx

    from .. import __version__

    model = onnx.load_from_string(network.workload().onnx)
    notes = {
        "lgc_version": __version__,
        "architecture": network.architecture.to_json(),
        "scope": network.scope,
        "weights": "random" if network.weights is None else "trained",
    }
    onnx.helper.set_model_props(model, notes)
    path = ensure_folder(folder) / f"{network.stem}.onnx"
    write_atomic(path, model.SerializeToString())
    return path


def time_network(
    network: Network,
    target: Target,
    table: LatencyTable | None,
    *,
    seconds: float = 10.0,
    on_progress: OnProgress = quiet,
) -> Result:
    """Run the network on `target`: outputs against torch's, latency against the table's prediction.

    Timed as `measure_seconds` does, interleaved with networks of the table, which show how fast the machine runs now.

    Raises:
        BackendUnavailableError: the target cannot be used here.
        MismatchError: the table is of another target, space or machine.
    """
    backend = require(target)
    predictor = None if table is None else predictor_of(network, target, table, backend)
    table_ms = None if predictor is None else predictor.predict(network.architecture)
    interval = None if predictor is None else predictor.interval(network.architecture)
    diff, agreement = compare_with_torch(network, backend, target)
    subjects = {NETWORK: network.workload()}
    if table is not None:
        subjects = with_sentinels(table, subjects, network.scope)
    found = measure_seconds(backend, target, subjects, seconds, on_progress=on_progress)
    drift_pct = None if table is None else drift(table, found)
    predicted = None if table_ms is None else at_speed(table_ms, drift_pct)
    summary = found.summary(NETWORK)
    runs = np.concatenate(found.durations(NETWORK))
    p90, p99 = np.quantile(runs, [0.9, 0.99])
    return Result(
        backend=target.backend,
        device=target.device,
        precision=target.precision,
        scope=network.scope,
        table_ms=table_ms,
        drift_pct=drift_pct,
        predicted_ms=predicted,
        predicted_low_ms=None if interval is None else at_speed(interval.low_ms, drift_pct),
        predicted_high_ms=None if interval is None else at_speed(interval.high_ms, drift_pct),
        measured_ms=summary.latency_ms,
        error_pct=None if predicted is None else (predicted / summary.latency_ms - 1) * 100,
        table_error_pct=None if table_ms is None else (table_ms / summary.latency_ms - 1) * 100,
        fps=1000 / float(np.median(runs)),
        median_ms=float(np.median(runs)),
        p90_ms=float(p90),
        p99_ms=float(p99),
        runs=len(runs),
        max_abs_diff=diff,
        argmax_agreement_pct=agreement,
    )


def ruler_of(path: Path, scope: str, seconds: float = RULER_SECONDS) -> Callable[[Architecture], float]:
    """What measures architectures on a table's own target, in milliseconds at the speed the machine had for the table.

    Raises:
        BackendUnavailableError: the target cannot be used here.
        MismatchError: this is another machine than the table's.
    """
    with LatencyTable.open(path) as table:
        require_machine(table, fingerprint(table.target, require(table.target)))

    def measure(architecture: Architecture) -> float:
        with LatencyTable.open(path) as table:
            found = time_network(Network(architecture, None, scope), table.target, table, seconds=seconds)
        assert found.measured_ms is not None  # it ran
        return found.measured_ms / (1 + (found.drift_pct or 0.0) / 100)

    return measure


def predictor_of(network: Network, target: Target, table: LatencyTable, backend: Backend) -> Predictor:
    """The table's predictor in the network's scope, after showing that it speaks of this target and machine."""
    table.require(target=target)
    require_machine(table, fingerprint(target, backend))
    return Predictor(table.space, table, network.scope)


def compare_with_torch(network: Network, backend: Backend, target: Target) -> tuple[float, float]:
    """Largest difference of the logits, and share of pixels of the same class (percent), from torch's in fp32."""
    import torch

    outputs: dict[str, tuple[Any, Any]] = {}
    for scope in (CORE, DENSE):
        workload = network.workload(scope)
        inputs = random_inputs(workload.input_shapes)
        with torch.inference_mode():
            wanted = network.reference(scope)(*(torch.from_numpy(x) for x in inputs)).numpy()
        runner = backend.compile(workload, target)
        outputs[scope] = runner.infer(inputs)[0], wanted
        runner.close()
    got, wanted = outputs[CORE]
    if got.shape != wanted.shape or not np.all(np.isfinite(got)):
        raise MeasurementError(f"{target.backend} gave logits of shape {got.shape} with values that are not finite")
    labels, wanted_labels = outputs[DENSE]
    return float(np.abs(got - wanted).max()), float((labels == wanted_labels).mean() * 100)


def build_ahead(network: Network, folder: Path, precision: str, compute_capability: str | None) -> tuple[Path, Result]:
    """Build a TensorRT engine for a GPU that is not here, and say so.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed; the message has the install command.
        MeasurementError: the builder refuses the network.
    """
    from .backends.trt_engine import build_engine

    engine = build_engine(network.workload().onnx, precision=precision, compute_capability=compute_capability)
    path = write_engine(network, engine, folder)
    note = (
        f"built ahead of time with {engine.flavour} {engine.version} for compute capability "
        f"{engine.compute_capability}, {len(engine.layers)} layers; not run: there is no NVIDIA GPU here"
    )
    device = f"sm_{engine.compute_capability.replace('.', '')}"
    return path, Result("tensorrt", device, precision, network.scope, note=note)


def build_here(network: Network, folder: Path, target: Target) -> Path:
    """Build and write the TensorRT engine that `time_network` runs on `target`.

    Raises:
        BackendUnavailableError: TensorRT or the GPU cannot be used here.
        MeasurementError: the builder refuses the network.
    """
    from .backends.trt import engine_for

    require(target)
    return write_engine(network, engine_for(network.workload(), target), folder)


def write_engine(network: Network, engine: Engine, folder: Path) -> Path:
    """Write a serialised engine under a name that says what it is of and for."""
    name = f"{network.stem}-{engine.precision}-sm{engine.compute_capability.replace('.', '')}.engine"
    path = ensure_folder(folder) / name
    write_atomic(path, engine.data)
    return path


def matching(table: LatencyTable, targets: list[Target]) -> list[Target]:
    """Those of `targets` that the table was measured on.

    Raises:
        MismatchError: none is; the message says what differs and which command makes a table that fits.
    """
    found = [target for target in targets if not table.target.differences(target)]
    if targets and not found:
        wanted = targets[0]
        raise MismatchError(
            f"{table.path} is a table of another target: {'; '.join(table.target.differences(wanted))}. Make one that "
            f"fits: {table.profile_command(wanted, Path('T.lut'))}"
        )
    return found
