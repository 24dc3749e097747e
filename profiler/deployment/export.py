"""Export of a network: files, parity with torch, latency on targets, comparison with the table's prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...device import CPU
from ...errors import DeviceError, MeasurementError, MismatchError, UsageError
from ...lut.predictor import Predictor
from ...lut.table.table import LatencyTable
from ...lut.target import Target
from ...models.images import RGBImage, read_pixels
from ...models.nets.definition import Log
from ...models.nets.sources import NetworkSource
from ...models.space.protocol import DENSE, SCOPES
from ...precisions import INT8
from ..backends import require_backend
from ..machine.devices import check_device, list_devices
from ..machine.environment import fingerprint
from ..machine_match import find_machine_mismatch, require_machine
from ..timing.observer import OnProgress, quiet
from .engines import TENSORRT, EngineSource, build_engine_ahead, build_target_engine
from .half_range import describe_fp16
from .latency import TargetResult, add_layer_times, time_network
from .network import FILE_PRECISIONS, Network, list_file_precisions, load_network, write_onnx
from .parity import IMAGES, RANDOM, Parity, compare_file, is_within_tolerance, random_inputs

if TYPE_CHECKING:
    from pydantic import JsonValue

MAX_IMAGES = 32
"""Images for the ranges of int8, and as many others for the comparison with torch."""
NO_IMAGES = "int8 needs images for its ranges: add --data DIR, a dataset or a folder of images"
DEFAULT_TARGET = Target(CPU, "onnxruntime")
"""Source of device and threads without a table."""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export.

    Attributes:
        source: run folder, or architecture file.
        out: output folder; None for `export/` in the run folder.
        table: latency table for predictions; None for the table of the search, if it still exists.
        backends: backends to run and time the network on.
        device: device of the backends; None for the table's.
        threads: CPU threads; None for the table's, or 1.
        precisions: precisions, each with its file and its targets.
        scope: `core`, `dense` or `end-to-end`.
        calibration_images: image files for the ranges of int8; at most `MAX_IMAGES` are read.
        comparison_images: image files for the comparison with torch; at most `MAX_IMAGES` are read.
        tolerance_pct: largest prediction error that passes; None for no check.
        layers: True to compare the table's entries with layer times even if the prediction passes.
        seconds: duration of the measurement per target.
        compute_capability: GPU to build TensorRT engines for, ahead of time; None to run them on this machine.
        network: network that the user named; required for the run of a factory.
    """

    source: Path
    out: Path | None = None
    table: Path | None = None
    backends: tuple[str, ...] = ()
    device: str | None = None
    threads: int | None = None
    precisions: tuple[str, ...] = ("fp32",)
    scope: str = DENSE
    calibration_images: Sequence[Path] = ()
    comparison_images: Sequence[Path] = ()
    tolerance_pct: float | None = None
    layers: bool = False
    seconds: float = 10.0
    compute_capability: str | None = None
    network: NetworkSource | None = None

    @property
    def run_folder(self) -> Path:
        """Run folder, or the folder of the architecture file."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def output_folder(self) -> Path:
        """Folder of the exported files."""
        return self.out or self.run_folder / "export"

    @property
    def run_backends(self) -> tuple[str, ...]:
        """Backends that run the network; TensorRT does not if it builds for another GPU."""
        ahead = self.compute_capability is not None
        return tuple(name for name in self.backends if not (ahead and name == TENSORRT))


@dataclass(frozen=True)
class FileResult:
    """Exported ONNX file and its parity with torch.

    Attributes:
        onnx: path of the file.
        precision: precision of the file.
        bytes: size of the file.
        parity: parity on random inputs, then on images if there are any.
        passes: True if all of it is within the precision's tolerance.
        tolerance: precision whose tolerance applies; None for `precision`.
        remarks: limits of the comparison, and warnings, as sentences without a full stop.
    """

    onnx: str
    precision: str
    bytes: int
    parity: tuple[Parity, ...]
    passes: bool
    tolerance: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """Name of what the outputs are compared with."""
        return self.parity[0].reference

    def as_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object; its key `agreement` is the parity."""
        return {
            "onnx": self.onnx,
            "precision": self.precision,
            "bytes": self.bytes,
            "agreement": [asdict(each) for each in self.parity],
            "passes": self.passes,
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class ExportResult:
    """Result of an export: one file per precision, one result per target."""

    files: tuple[FileResult, ...]
    targets: tuple[TargetResult, ...]

    def as_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object."""
        return {
            "onnx": self.files[0].onnx,
            "files": [file.as_dict() for file in self.files],
            "results": [result.as_dict() for result in self.targets],
        }

    def list_failures(self, tolerance_pct: float | None) -> list[str]:
        """Return a message for each output that differs from torch, and each prediction beyond the tolerance."""
        failures = [
            f"{file.onnx}: outputs differ from {file.reference} by more than "
            f"{file.tolerance or file.precision} allows, see the table of files"
            for file in self.files
            if not file.passes
        ]
        for result in self.targets:
            where = f"{result.backend} on {result.device}"
            if result.parity is not None and not result.equals_torch():
                failures.append(
                    f"{where}: outputs differ from {result.parity.reference} by more than "
                    f"{result.tolerance or result.precision} allows: {result.parity}"
                )
            if tolerance_pct is not None and not result.within(tolerance_pct):
                failures.append(
                    f"{where}: predicted {result.predicted_ms:.3f} ms, measured {result.measured_ms:.3f} ms: error "
                    f"{result.error_pct:+.1f} %, more than {tolerance_pct:g} %"
                )
        return failures


def export_network(settings: ExportSettings, *, on_progress: OnProgress = quiet, log: Log = print) -> ExportResult:
    """Write the network's files, compare them with torch, time the network, and compare with the prediction.

    Everything that can be refused is refused before the first file is written.

    Args:
        settings: network, files, targets and checks.
        on_progress: progress callback of the measurements.
        log: receives remarks, one line each.

    Raises:
        UsageError: the settings contradict each other.
        FileFormatError: source, weights or table is damaged.
        MismatchError: the table belongs to other targets.
        DeviceError: the device is not present.
        BackendUnavailableError: a backend does not run on this machine.
        MeasurementError: a backend rejects the network.
        OutputError: a file cannot be written.
    """
    check_options(settings)
    if INT8 in settings.precisions and not settings.calibration_images:
        raise UsageError(NO_IMAGES)
    network = load_network(settings.source, settings.scope, log, settings.network)
    with _open_table(settings, network, log) as table:
        targets = choose_targets(settings, table)
        _check_prediction(settings, table, targets)
        size = network.definition.input
        network = replace(
            network,
            images=read_images(settings.calibration_images, size),
            table=None if table is None else _fingerprint_latencies(table, network.scope),
        )
        images = read_images(settings.comparison_images, size)
        files = tuple(
            export_file(network, settings.output_folder, precision, images)
            for precision in list_file_precisions(settings.precisions, log)
        )
        for file in files:
            log(f"wrote {file.onnx}")
        results = [deploy_network(network, target, table, settings, on_progress, log) for target in targets]
        results += build_missing_engines(network, settings, targets)
    return ExportResult(files, tuple(results))


def build_missing_engines(
    network: EngineSource, settings: ExportSettings, targets: Sequence[Target]
) -> list[TargetResult]:
    """Build TensorRT engines ahead of time if TensorRT was requested and none of the targets runs it."""
    if TENSORRT not in settings.backends or any(target.backend == TENSORRT for target in targets):
        return []
    return [
        build_engine_ahead(network, settings.output_folder, precision, settings.compute_capability)
        for precision in settings.precisions
    ]


def check_options(settings: ExportSettings) -> None:
    """Check that backends, device and compute capability fit together.

    Raises:
        UsageError: they do not.
    """
    if settings.compute_capability is not None and TENSORRT not in settings.backends:
        raise UsageError("--compute-capability is only for TensorRT engines: add --backend tensorrt")
    if not settings.run_backends and (settings.device is not None or settings.threads is not None):
        raise UsageError("--device and --threads need a backend to run on: add --backend")


@contextmanager
def _open_table(settings: ExportSettings, network: Network, log: Log) -> Iterator[LatencyTable | None]:
    """Open the requested table, else the search's; None if that is missing or belongs to another space.

    Raises:
        MismatchError: the requested table belongs to another space.
        UsageError: a prediction was requested for a network that is not an architecture.
    """
    if network.architecture is None:
        name = network.definition.source.reference
        options = (("--lut", settings.table), ("--tolerance", settings.tolerance_pct), ("--layers", settings.layers))
        for option, value in options:
            if value is not None and value is not False:
                raise UsageError(f"{option}: latency tables predict architectures of a search space, not {name}")
        log(f"no prediction: latency tables predict architectures of a search space, not {name}")
        yield None
        return
    space = network.architecture.space
    if settings.table is not None:
        with LatencyTable.open(settings.table) as table:
            table.require(space=space)
            yield table
        return
    source = network.architecture.provenance.get("table")
    if not isinstance(source, str) or not Path(source).exists():
        log("no prediction: choose a latency table with --lut")
        yield None
        return
    with LatencyTable.open(source) as table:
        if table.space.fingerprint == space.fingerprint:
            yield table
        else:
            log(f"no prediction: {source} now belongs to another space; choose a latency table with --lut")
            yield None


def choose_targets(settings: ExportSettings, table: LatencyTable | None) -> list[Target]:
    """Return the targets to run on, by precision, then backend.

    TensorRT without a requested device uses the table's GPU, else the first one. Without any GPU it has no target.

    Raises:
        DeviceError: the requested device is not present.
        BackendUnavailableError: a backend does not run on the device.
        UsageError: a backend does not support a precision.
    """
    own = DEFAULT_TARGET if table is None else table.target
    requested = own.device if settings.device is None else check_device(settings.device)
    targets = []
    for precision in settings.precisions:
        for backend in settings.run_backends:
            device = requested
            if backend == TENSORRT and (device.is_cpu or settings.device is None):
                gpus = [gpu for gpu in list_devices() if not gpu.is_cpu]
                if not gpus:
                    continue  # built ahead of time instead
                device = gpus[0] if device.is_cpu else device
            threads = device.num_threads(settings.threads or own.threads)
            try:
                targets.append(Target(check_device(device), backend, precision, threads))
            except DeviceError as error:
                assert table is not None  # a requested device is checked already, and the default is the CPU
                without = ", and leave out --lut" if settings.table is not None else ""
                hint = f"(the device of {table.path}); choose another with --device, e.g. --device cpu{without}"
                raise DeviceError(f"{error} {hint}") from error
    for target in targets:
        require_backend(target)
    return targets


def _check_prediction(settings: ExportSettings, table: LatencyTable | None, targets: Sequence[Target]) -> None:
    """Check that the table belongs to a target, if it was requested or a prediction is needed.

    Raises:
        MismatchError: the requested table belongs to other targets or another machine; the message has the command for
            a matching one.
        UsageError: `tolerance_pct` or `layers` is set and no target has a prediction.
    """
    required = settings.tolerance_pct is not None or settings.layers
    if table is not None and settings.table is not None:
        check_table_target(table, targets)
    if table is not None and table.target in targets and (required or settings.table is not None):
        require_machine(table, fingerprint(table.target, require_backend(table.target)))
    if not required:
        return
    option = "--layers" if settings.tolerance_pct is None else "--tolerance"
    if settings.scope not in SCOPES:
        raise UsageError(
            f"{option} needs a prediction: tables predict the scopes {' and '.join(SCOPES)}, not {settings.scope}"
        )
    missing = {"--backend": "a backend that runs on this machine"} if not targets else {}
    missing |= {"--lut": "a latency table"} if table is None else {}
    if missing:
        raise UsageError(f"{option} requires {' and '.join(missing.values())}: add {' and '.join(missing)}")
    assert table is not None  # else it is missing
    if table.target not in targets:
        raise UsageError(
            f"{option} needs a prediction: {table.path} was measured on {table.target}, the network runs on "
            f"{'; '.join(map(str, targets))}; run the backend of a latency table (--backend, --lut)"
        )


def check_table_target(table: LatencyTable, targets: Sequence[Target]) -> None:
    """Check that the table was measured on one of the targets; without targets, accept any.

    Raises:
        MismatchError: it was not; the message has the differences and the command for a matching table.
    """
    if targets and table.target not in targets:
        raise MismatchError(
            f"{table.path} was measured on another target: {'; '.join(table.target.differences(targets[0]))}. Leave "
            f"out --lut, or make a matching table: {table.profile_command(targets[0], Path('T.lut'))}"
        )


def read_images(paths: Sequence[Path], size: tuple[int, int]) -> tuple[RGBImage, ...]:
    """Read at most `MAX_IMAGES` at (height, width), evenly spaced: neighbours in a list show the same street."""
    step = max(len(paths) / MAX_IMAGES, 1)
    chosen = [paths[int(index * step)] for index in range(min(len(paths), MAX_IMAGES))]
    return tuple(read_pixels(path, size) for path in chosen)


def _fingerprint_latencies(table: LatencyTable, scope: str) -> str:
    """Return the fingerprint of a table's latencies in a scope, as exported files store it."""
    return Predictor(table.space, table, scope if scope in SCOPES else DENSE).fingerprint


def export_file(network: Network, folder: Path, precision: str, images: Sequence[RGBImage] = ()) -> FileResult:
    """Write the network's ONNX file after a comparison with torch, under ONNX Runtime's CPU provider.

    The metadata of a file that differs says so, and `lgc-predict` refuses it as the network of its run.

    Args:
        network: network to export.
        folder: output folder.
        precision: a key of `FILE_PRECISIONS`; the file of bf16 is the one of fp32, which backends convert.
        images: RGB images of the network's size for the comparison, other than those for the ranges of int8.

    Raises:
        UsageError: int8 for a network without images.
        OutputError: the file cannot be written.
    """
    precision = FILE_PRECISIONS[precision]
    pictures = replace(network, images=tuple(images)).inputs()
    series = [(inputs, source) for inputs, source in ((random_inputs(network), RANDOM), (pictures, IMAGES)) if inputs]
    parity = tuple(compare_file(network, precision, inputs, source) for inputs, source in series)
    passes = all(is_within_tolerance(precision, each, trained=network.weights is not None) for each in parity)
    path = write_onnx(network, folder, precision, passes=passes)
    remarks: tuple[str, ...] = ()
    if precision == "fp16":
        arrays = [(array,) for inputs, _ in series for array in inputs]
        remarks = describe_fp16(network.model("fp32", network.scope), arrays, network.stem)
    return FileResult(str(path), precision, path.stat().st_size, parity, passes, remarks=remarks)


def deploy_network(
    network: Network,
    target: Target,
    table: LatencyTable | None,
    settings: ExportSettings,
    on_progress: OnProgress = quiet,
    log: Log = print,
) -> TargetResult:
    """Time the network on a target, write its engine, and explain the prediction by layer if asked or if it fails."""
    if table is not None and network.scope not in SCOPES:
        log(f"no prediction: tables do not predict scope {network.scope}")
        table = None
    elif table is not None and table.target != target:
        log(f"no prediction for {target}: {table.path} was measured on {table.target}")
        table = None
    elif table is not None and (mismatch := find_machine_mismatch(table, fingerprint(target, require_backend(target)))):
        log(f"no prediction for {target}: {mismatch}")
        table = None
    result = time_network(network, target, table, seconds=settings.seconds, on_progress=on_progress)
    if target.backend == TENSORRT:
        engine, remarks = build_target_engine(network, settings.output_folder, target)  # cached by the run above
        notes = [*([result.note] if result.note else ()), *remarks]
        result = replace(result, engine=str(engine), note="; ".join(notes) or None)
    failed = settings.tolerance_pct is not None and not result.within(settings.tolerance_pct)
    if table is None or not (settings.layers or failed):
        return result
    try:
        return add_layer_times(network, target, table, result, settings.output_folder)
    except MeasurementError as error:  # the measurement itself is still valid
        log(f"no layer times: {error}")
        return result
