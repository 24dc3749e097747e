"""Export of an ONNX file of another program: no architecture, no prediction, and the file itself as the reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...files import ensure_folder, write_atomic
from ...lut.target import Target
from ...models.images import RGBImage
from ...models.onnx.counting.arithmetic import QDQ
from ...models.onnx.model import OnnxModel
from ...precisions import INT8
from ..backends import Workload, require_backend
from ..comparison import MODULE_BACKEND
from ..inference.preprocessing import InputOptions, Preprocessing
from ..timing.measure import assign, measure_seconds
from ..timing.observer import OnProgress, quiet
from .engines import TENSORRT, build_target_engine
from .export import (
    NO_IMAGES,
    ExportResult,
    ExportSettings,
    FileResult,
    build_missing_engines,
    check_options,
    choose_targets,
    read_images,
)
from .foreign_parity import Original, compare_with_original
from .half_range import CPU_REMARK, describe_fp16
from .latency import NETWORK_KEY, TargetResult, summarize_runs
from .network import Log, list_file_precisions
from .parity import IMAGES, RANDOM, is_within_tolerance

SCOPE = "as is"
"""Scope of a foreign file: its outputs may be anything."""
MIN_INT8_OPSET = 13
"""First operator set with a scale per channel in QuantizeLinear."""


@dataclass(frozen=True)
class ForeignOptions:
    """Choices that an ONNX file may need.

    Attributes:
        input_size: height and width that dynamic axes are bound to; None if there are none.
        output: name of the output to keep; None for all.
        preprocessing: normalisation and layout of its images.
    """

    input_size: tuple[int, int] | None = None
    output: str | None = None
    preprocessing: InputOptions = field(default_factory=InputOptions)


@dataclass(frozen=True)
class ForeignNetwork:
    """Foreign ONNX file as the models that are written and timed.

    Attributes:
        source: model as read, with static shapes.
        plain: simplified model in the source's precision.
        stem: stem of its file names.
        images: inputs for the ranges of int8.
    """

    source: OnnxModel
    plain: bytes = field(repr=False)
    stem: str
    images: tuple[NDArray[Any], ...] = field(default=(), repr=False)
    _models: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scope(self) -> str:
        """Scope of its outputs."""
        return SCOPE

    def model(self, precision: str) -> bytes:
        """Return the serialised model in a precision; built on the first call.

        Raises:
            UsageError: int8 without images.
            MeasurementError: the model cannot be converted or quantised.
        """
        if precision not in self._models:
            self._models[precision] = self._convert(precision)
        return self._models[precision]

    def _convert(self, precision: str) -> bytes:
        from ...models.onnx.export import upgrade_opset
        from ..backends.precision import cast_model
        from .quantization import quantize

        if precision == self.source.precision:
            return self.plain
        if precision == INT8:
            return quantize(upgrade_opset(self.plain, MIN_INT8_OPSET, self.stem), self.images, self.stem)
        return cast_model(self.plain, precision)

    def choose_tolerance(self, precision: str) -> str:
        """Return the precision whose tolerance applies: int8 wherever some values are quantised."""
        return INT8 if self.source.is_quantised else precision

    def workload(self, scope: str | None = None, precision: str = "fp32") -> Workload:
        """Return the model as a workload; backends convert an fp32 model to fp16 and bf16 themselves."""
        own = INT8 if precision == INT8 else self.source.precision
        return replace(Workload.for_model(self.source, self.stem), file=self.model(own))


def export_foreign(
    settings: ExportSettings, options: ForeignOptions, *, on_progress: OnProgress = quiet, log: Log = print
) -> ExportResult:
    """Write an ONNX file self-contained, with static shapes and simplified; compare it with the original; time it.

    Args:
        settings: file, targets and images. Without precisions the file's own is used.
        options: choices that the file may need.
        on_progress: progress callback of the measurements.
        log: receives remarks, one line each.

    Raises:
        UsageError: the settings contradict each other or the file.
        FileFormatError: the file is damaged, or needs options.
        DeviceError: the device is not present.
        BackendUnavailableError: a backend does not run on this machine.
        MeasurementError: a backend rejects the model.
        OutputError: a file cannot be written.
    """
    check_options(settings)
    if MODULE_BACKEND in settings.backends:
        raise UsageError(f"backend {MODULE_BACKEND} does not run ONNX files: choose another --backend")
    source = OnnxModel.load(
        settings.source,
        input_size=options.input_size,
        output=options.output,
        layout=options.preprocessing.layout,
    )
    settings = replace(settings, precisions=settings.precisions or (source.precision,))
    _check_precisions(settings, source)
    for remark in (*source.remarks, "no prediction for an ONNX file: export its run or architecture instead"):
        log(remark)
    targets = _choose_targets(settings, source)
    ranges, pictures, noise = _prepare_images(settings, source, options, log)
    network = ForeignNetwork(source, _simplify(source, log), _make_stem(source, options), ranges)
    original = Original(settings.source, source)
    random = noise or tuple(network.workload(precision=source.precision).inputs())
    inputs: dict[str, list[tuple[NDArray[Any], ...]]] = {RANDOM: [random]}
    if pictures:
        inputs[IMAGES] = [(picture,) for picture in pictures]
    files = []
    for precision in list_file_precisions(settings.precisions, log):
        path = _write(network, settings, precision)
        written = Original(path, source)
        parity = tuple(
            compare_with_original(
                map(original.run, series), map(written.run, series), name, original.start_comparisons()
            )
            for name, series in inputs.items()
        )
        tolerance = network.choose_tolerance(precision)
        passes = all(is_within_tolerance(tolerance, each, trained=False) for each in parity)
        remarks = _describe_half(network, precision, inputs)
        files.append(FileResult(str(path), precision, path.stat().st_size, parity, passes, tolerance, remarks))
        log(f"wrote {path}")
    results = [_deploy(network, target, settings, original, random, on_progress) for target in targets]
    results += build_missing_engines(network, settings, targets)
    return ExportResult(tuple(files), tuple(results))


def _check_precisions(settings: ExportSettings, source: OnnxModel) -> None:
    """Check that the file can be converted to all precisions, and that TensorRT runs its quantisation."""
    if source.quantisation not in (None, QDQ) and any("tensorrt" in name for name in settings.backends):
        raise UsageError(
            f"{source.where} has {source.quantisation} quantisation, which TensorRT does not run: use the file it was "
            "made from with --precision int8 --data DIR"
        )
    for precision in settings.precisions:
        if precision != source.precision and source.precision != "fp32":
            raise UsageError(f"{source.where} is {source.precision}: it cannot be converted to {precision}")
        if precision != source.precision and source.is_quantised:
            raise UsageError(f"{source.where} quantises values: it cannot be converted to {precision}")
        if precision == INT8 != source.precision and not settings.calibration_images:
            raise UsageError(NO_IMAGES)


def _choose_targets(settings: ExportSettings, source: OnnxModel) -> list[Target]:
    """Return the targets to run on; errors name the precision of a file that cannot be converted."""
    try:
        return choose_targets(settings, None)
    except UsageError as error:
        if source.precision == "fp32":
            raise
        raise UsageError(f"{source.where} is {source.precision}: {str(error).partition(';')[0]}") from error


def _prepare_images(
    settings: ExportSettings, source: OnnxModel, options: ForeignOptions, log: Log
) -> tuple[tuple[NDArray[Any], ...], ...]:
    """Return the inputs for the ranges of int8 and for the comparison, and one of random pixels.

    int8 clips random values outside the range of normalised pixels. Without images the normalisation is not needed.
    """
    if not settings.calibration_images and not settings.comparison_images:
        return (), (), ()
    preprocessing = Preprocessing.for_network(source, options.preprocessing)
    for remark in preprocessing.remarks:
        log(remark)

    def prepare(images: Sequence[RGBImage]) -> tuple[NDArray[Any], ...]:
        return tuple(preprocessing.apply(image) for image in images)

    size = preprocessing.image.size
    ranges = read_images(settings.calibration_images, size) if INT8 in settings.precisions else ()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return prepare(ranges), prepare(read_images(settings.comparison_images, size)), prepare([noise])


def _simplify(source: OnnxModel, log: Log) -> bytes:
    """Return the simplified model; a model that cannot be simplified as it is, with a remark."""
    from ...models.onnx.export import simplify

    if source.is_quantised:  # folding of constants would undo the quantisation of the weights
        return source.data
    try:
        return simplify(source.data)
    except MemoryError:
        raise
    except Exception as error:  # the simplifier raises errors of any type
        log(f"not simplified: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return source.data


def _make_stem(source: OnnxModel, options: ForeignOptions) -> str:
    """Return the stem of the files: the source's, its input size, and the chosen output."""
    parts = [Path(source.where).stem, "x".join(map(str, source.input_size))]
    if options.output is not None:
        parts.append(re.sub(r"\W+", "-", options.output).strip("-"))
    return "-".join(parts)


def _write(network: ForeignNetwork, settings: ExportSettings, precision: str) -> Path:
    """Write the model in a precision and return its path."""
    suffix = "" if precision == network.source.precision else f"-{precision}"
    path = ensure_folder(settings.output_folder) / f"{network.stem}{suffix}.onnx"
    if path.exists() and path.samefile(settings.source):
        raise UsageError(f"{path} is the source and would be overwritten: choose another --out")
    write_atomic(path, network.model(precision))
    return path


def _describe_half(
    network: ForeignNetwork, precision: str, inputs: Mapping[str, Sequence[Sequence[NDArray[Any]]]]
) -> tuple[str, ...]:
    """Return the remarks on an fp16 file; values beyond float16 are those of a float32 source."""
    if precision != "fp16":
        return ()
    if network.source.precision != "fp32":
        return (CPU_REMARK,)
    return describe_fp16(network.plain, chain.from_iterable(inputs.values()), network.stem)


def _deploy(
    network: ForeignNetwork,
    target: Target,
    settings: ExportSettings,
    original: Original,
    inputs: Sequence[NDArray[Any]],
    on_progress: OnProgress,
) -> TargetResult:
    """Compare the program that a target runs with the original on random inputs, time it, and write its engine."""
    backend, workload = require_backend(target), network.workload(precision=target.precision)
    runner = backend.compile(workload, target)
    try:
        parity = compare_with_original(
            [original.run(inputs)], [runner.infer(inputs)], RANDOM, original.start_comparisons()
        )
    finally:
        runner.close()
    assignments = assign(backend, target, {NETWORK_KEY: workload})
    measurement = measure_seconds(assignments, settings.seconds, on_progress=on_progress)
    result = replace(
        summarize_runs(measurement, target, SCOPE, network.source.batch),
        parity=parity,
        trained=False,
        tolerance=network.choose_tolerance(target.precision),
    )
    if target.backend != TENSORRT:
        return result
    engine, remarks = build_target_engine(network, settings.output_folder, target)  # cached by the run above
    return replace(result, engine=str(engine), note="; ".join(remarks) or None)
