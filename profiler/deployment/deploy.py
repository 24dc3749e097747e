"""Deployment: an architecture as an ONNX file or engine, compared with torch, timed, held against its prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError
from ...files import ensure_folder, write_atomic
from ...lut.predictor import Predictor
from ...lut.table.table import LatencyTable
from ...lut.target import Target
from ...models.space.lgcnet import Architecture
from ...models.space.plan import CORE, DENSE, END_TO_END, SCOPES
from ..backends import Backend, require_backend
from ..backends.base import generate_inputs
from ..machine.environment import fingerprint
from ..profile import require_machine
from ..timing.measure import measure_seconds, placed
from ..timing.rounds import OnProgress, quiet
from ..timing.workloads import image_input
from ..verification import at_speed, drift, with_sentinels
from .network import FILES, INT8, Network, write_onnx
from .parity import (
    IMAGES,
    RANDOM,
    Parity,
    Reference,
    compare_outputs,
    file_outputs,
    passes,
    reference_outputs,
    runner_outputs,
)

if TYPE_CHECKING:
    from ...models.images import RGBImage
    from ..backends.trt.engine import Engine
    from .layer_attribution import SlotReport

NETWORK = "network"
"""Subject of the measured network, beside the table's sentinels."""
RULER_SECONDS = 8.0
"""How long a search that lands by measurement measures each architecture, networks of the table beside it."""
LAYER_RUNS = 50
"""Runs over which the times of layers are taken."""


@dataclass(frozen=True)
class Result:
    """One deployed network on one target; what could not be had is None.

    Attributes:
        backend: a name of `backends.BACKENDS`.
        device: where it ran, or what it was built for.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        scope: `core`, `dense` or `end-to-end`, for which there are no predictions.
        table_ms: the table's prediction, at the machine's speed when the table was made.
        drift_pct: how much slower the machine runs now, by networks of the table measured again.
        predicted_ms: table_ms at the machine's present speed.
        predicted_low_ms: lower end of its 90 % interval; likewise predicted_high_ms.
        measured_ms: the table's statistic over the runs, so that it compares with predicted_ms.
        error_pct: (predicted - measured) / measured.
        table_error_pct: (table - measured) / measured: the table's error and the machine's drift together.
        fps: 1000 / median_ms.
        median_ms: median of all runs; likewise p90_ms, p99_ms and iqr_ms, the distance of the quartiles.
        runs: number of runs.
        agreement: the outputs of the program that is timed, against torch's on noise.
        trained: whether the weights are, which decides what of that is judged.
        settings: how the backend ran it.
        slots: the table's entries held against the times of layers, see `slots.SlotReport`.
        layers: file with the times of the layers.
        engine: file of the TensorRT engine.
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
    iqr_ms: float | None = None
    runs: int | None = None
    parity: Parity | None = None
    trained: bool = True
    settings: dict[str, str] | None = None
    slots: SlotReport | None = None
    layers: str | None = None
    engine: str | None = None
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object: the agreement's numbers stand beside the others."""
        found = {name: value for name, value in vars(self).items() if name not in ("parity", "slots", "trained")}
        names = ("max_abs_diff", "mean_abs_diff", "argmax_agreement_pct")
        found |= {name: None if self.parity is None else getattr(self.parity, name) for name in names}
        return found | {"slots": None if self.slots is None else self.slots.as_dict()}

    def equals_torch(self) -> bool:
        """Whether the outputs are torch's, as far as the precision allows; true where nothing was run."""
        return self.parity is None or passes(self.precision, self.parity, trained=self.trained)

    def within(self, tolerance_pct: float) -> bool:
        """Whether the prediction is within the tolerance; true where there is none."""
        return self.error_pct is None or abs(self.error_pct) <= tolerance_pct


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
        UsageError: int8 of a network without images.
    """
    backend = require_backend(target)
    if network.scope not in SCOPES:
        table = None  # end-to-end is in none
    predictor = None if table is None else predictor_of(network, target, table, backend)
    agrees = compare_with_torch(network, backend, target)
    subjects = {NETWORK: network.workload(precision=target.precision)}
    if table is not None:
        subjects = with_sentinels(table, subjects, network.scope)
    found = measure_seconds(placed(backend, target, subjects), seconds, on_progress=on_progress)
    latency_ms = found.summary(NETWORK).latency_ms
    runs = np.concatenate(found.durations(NETWORK))
    low, median, high, p90, p99 = np.quantile(runs, [0.25, 0.5, 0.75, 0.9, 0.99]).tolist()
    result = Result(
        target.backend,
        target.device,
        target.precision,
        network.scope,
        measured_ms=latency_ms,
        fps=1000 / median,
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        iqr_ms=high - low,
        runs=len(runs),
        parity=agrees,
        trained=network.weights is not None,
        settings=backend.settings(target),
    )
    if table is None or predictor is None:
        return result
    return _held_against(result, predictor, network.architecture, drift(table, found))


def _held_against(result: Result, predictor: Predictor, architecture: Architecture, drift_pct: float | None) -> Result:
    """The result with the prediction, and how far that is from the measurement."""
    assert result.measured_ms is not None  # it ran
    table_ms, interval = predictor.predict(architecture), predictor.interval(architecture)
    predicted = at_speed(table_ms, drift_pct)
    return replace(
        result,
        table_ms=table_ms,
        drift_pct=drift_pct,
        predicted_ms=predicted,
        predicted_low_ms=None if interval is None else at_speed(interval.low_ms, drift_pct),
        predicted_high_ms=None if interval is None else at_speed(interval.high_ms, drift_pct),
        error_pct=(predicted / result.measured_ms - 1) * 100,
        table_error_pct=(table_ms / result.measured_ms - 1) * 100,
    )


def drift_reference(path: Path, scope: str, seconds: float = RULER_SECONDS) -> Callable[[Architecture], float]:
    """What measures architectures on a table's own target, in milliseconds at the speed the machine had for the table.

    Raises:
        BackendUnavailableError: the target cannot be used here.
        MismatchError: this is another machine than the table's.
    """
    with LatencyTable.open(path) as table:
        require_machine(table, fingerprint(table.target, require_backend(table.target)))

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


def latencies_of(table: LatencyTable, scope: str) -> str:
    """Fingerprint of what a table predicts from in a scope, as an exported file keeps it."""
    return Predictor(table.space, table, scope if scope in SCOPES else DENSE).fingerprint


def compare_with_torch(network: Network, backend: Backend, target: Target) -> Parity:
    """The outputs of the program that is timed on `target`, held against torch's on noise.

    Raises:
        MeasurementError: the backend refuses the network, or gives something of another shape.
    """
    reference = _reference(network, _noise(network), RANDOM)
    core, whole = (network.workload(scope, target.precision) for scope in (CORE, _labelled(network)))
    labels = runner_outputs(backend, whole, target, reference.inputs)
    return compare_outputs(reference, labels, runner_outputs(backend, core, target, reference.tensors))


def write_compared(network: Network, folder: Path, precision: str, images: Sequence[RGBImage]) -> dict[str, Any]:
    """Write the network's file in a precision, and hold its outputs against torch's on noise and on images.

    ONNX Runtime's CPU provider computes them. Of bf16 the file is the one in fp32, which the backends convert.

    Args:
        network: what is written.
        folder: where.
        precision: of `network.PRECISIONS`.
        images: RGB, of the network's size, others than those that int8 takes its ranges from.

    Returns:
        onnx (path), precision, bytes, agreement (a list), passes.
    """
    precision = FILES[precision]
    path = write_onnx(network, folder, precision)
    found: list[Parity] = []
    for inputs, source in ((_noise(network), RANDOM), (replace(network, images=tuple(images)).inputs(), IMAGES)):
        if inputs:
            reference = _reference(network, inputs, source)
            labels = file_outputs(network.model(precision, _labelled(network)), reference.inputs, path.name)
            logits = file_outputs(network.model(precision, CORE), reference.tensors, path.name)
            found.append(compare_outputs(reference, labels, logits))
    good = all(passes(precision, one, trained=network.weights is not None) for one in found)
    size = path.stat().st_size
    told = [asdict(one) for one in found]
    return {"onnx": str(path), "precision": precision, "bytes": size, "agreement": told, "passes": good}


def _reference(network: Network, inputs: Sequence[NDArray[Any]], source: str) -> Reference:
    return reference_outputs(network.reference(DENSE), inputs, source)


def _noise(network: Network) -> list[NDArray[Any]]:
    shape, dtype = image_input(network.architecture.space.input, network.scope)
    return generate_inputs([shape], dtype)


def _labelled(network: Network) -> str:
    """The scope that gives classes: end-to-end for itself, else dense."""
    return END_TO_END if network.scope == END_TO_END else DENSE


def with_layers(network: Network, target: Target, table: LatencyTable, result: Result, folder: Path) -> Result:
    """Time the network's layers, write them to a file, and hold the table's entries against them.

    Raises:
        MeasurementError: the backend cannot tell its layers.
        OutputError: `folder` cannot be written.
    """
    from .layer_attribution import slot_report

    backend = require_backend(target)
    runner = backend.compile(network.workload(precision=target.precision), target)
    try:
        layers = runner.measure_layers(LAYER_RUNS)
    finally:
        runner.close()
    assert result.measured_ms is not None  # it ran
    report = slot_report(
        network.architecture,
        table,
        predictor_of(network, target, table, backend),
        layers,
        measured_ms=result.measured_ms,
        drift_pct=result.drift_pct,
    )
    path = ensure_folder(folder) / f"{network.stem}-{target.backend}-{target.precision}-layers.json"
    content = {"target": str(target), "layers": [asdict(layer) for layer in layers], "slots": report.as_dict()}
    write_atomic(path, json.dumps(content, indent=2) + "\n")
    return replace(result, slots=report, layers=str(path))


def build_ahead(network: Network, folder: Path, precision: str, compute_capability: str | None) -> Result:
    """Build a TensorRT engine for a GPU that is not here, and say so.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed; the message has the install command.
        MeasurementError: the builder refuses the network.
    """
    from ..backends.trt.engine import get_device_capability
    from ..backends.trt.engine_cache import load_or_build_engine

    model = network.model(INT8 if precision == INT8 else "fp32")
    engine = load_or_build_engine(model, precision=precision, compute_capability=compute_capability)
    why = "there is no NVIDIA GPU here" if get_device_capability() is None else "it is built ahead of time"
    built = (
        f"built ahead of time with {engine.flavour} {engine.version} for compute capability "
        f"{engine.compute_capability}: {len(engine.layers)} layers, {len(engine.fusions)} of them fused, "
        f"{len(engine.data) / 1e6:.1f} MB; not run: {why}"
    )
    device = f"sm_{engine.compute_capability.replace('.', '')}"
    path, note = write_engine(network, engine, folder), "; ".join([built, *engine.remarks])
    return Result("tensorrt", device, precision, network.scope, engine=str(path), note=note)


def build_here(network: Network, folder: Path, target: Target) -> tuple[Path, tuple[str, ...]]:
    """Write the TensorRT engine that `time_network` runs on `target`: its file, and what is to know of it.

    Raises:
        BackendUnavailableError: TensorRT or the GPU cannot be used here.
        MeasurementError: the builder refuses the network.
    """
    from ..backends.trt.backend import get_engine

    require_backend(target)
    engine = get_engine(network.workload(precision=target.precision), target)
    return write_engine(network, engine, folder), engine.remarks


def write_engine(network: Network, engine: Engine, folder: Path) -> Path:
    """Write a serialised engine under a name that says what it is of and for, and a file beside it that says more."""
    from ..backends.trt.engine_files import write_engine_files

    name = f"{network.stem}-{engine.precision}-sm{engine.compute_capability.replace('.', '')}.engine"
    path = ensure_folder(folder) / name
    write_engine_files(engine, path)
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
