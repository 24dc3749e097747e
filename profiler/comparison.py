"""Comparison of networks in one run: ONNX files, run folders, architectures, peers and networks of the user's.

All networks, backends and precisions run interleaved in random order, so noise of the machine affects all of them
equally. Networks with the same input size and scope are comparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..device import CPU
from ..errors import MeasurementError, UsageError
from ..lut.statistics.measurement import Measurement
from ..lut.target import Target
from ..models.onnx.counting.costs import OnnxCosts
from ..models.onnx.model import OnnxModel
from ..precisions import INT8
from .backends import Workload, get_backend, require_backend
from .backends.ort.float_products import count_float_products
from .file_outputs import start_comparisons
from .timing.measure import Assignment, measure_seconds
from .timing.observer import OnProgress, quiet
from .timing.ratios import compute_ratio, group_by_round
from .timing.starvation import describe_starvation

if TYPE_CHECKING:
    from torch import nn

CPU_TARGET = Target(CPU, "onnxruntime")
"""Target of the reference output of an ONNX file."""
MODULE_BACKEND = "torch"
"""Backend that runs modules only, no ONNX files."""
MAX_UNCOUNTED = 3
"""Largest number of uncounted operators that a remark names."""
FP32_CASTS = ("fp16", "bf16")
"""Precisions that backends cast fp32 networks to."""


@dataclass(frozen=True)
class Candidate:
    """A network to time.

    Attributes:
        name: display name, unique in a comparison.
        kind: `file`, `run`, or a kind of source: `architecture`, `peer` or `factory`.
        size: input height and width in pixels; of a model without images the shape of its first input.
        scope: one of `EXPORT_SCOPES`; for ONNX files of other programs, other than label maps of the image's size, the
            types and shapes of their outputs.
        workload: workload to time.
        classes: number of classes; None where the output does not determine it.
        miou: mean intersection over union in percent; None where unknown.
        scored_on: split and resolution of `miou`.
        dataset: name of the dataset of `miou`; None where unknown.
        file: model of an ONNX file.
        reference: function that returns the module without folding; None for that of the workload.
    """

    name: str
    kind: str
    size: tuple[int, ...]
    scope: str
    workload: Workload = field(repr=False)
    classes: int | None = None
    miou: float | None = None
    scored_on: str | None = None
    dataset: str | None = None
    file: OnnxModel | None = field(default=None, repr=False, compare=False)
    reference: Callable[[], nn.Module] | None = field(default=None, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """Number of images that each run computes."""
        return 1 if self.file is None else self.file.batch

    @property
    def group(self) -> tuple[tuple[int, ...], str, int]:
        """Input size, scope and batch, equal for comparable candidates."""
        return self.size, self.scope, self.batch

    @cached_property
    def model(self) -> OnnxModel:
        """Checked ONNX model."""
        return self.file or OnnxModel.parse(self.workload.onnx, self.name)

    @property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates of the deployed graph."""
        return self.model.costs

    @cached_property
    def precision(self) -> str:
        """Precision of the model itself; a backend may cast fp32."""
        return "fp32" if self.workload.file is None else self.model.precision

    @property
    def quantisation(self) -> str | None:
        """Kind of quantisation of an int8 model; None of others, which may quantise values too."""
        return self.model.quantisation if self.precision == INT8 else None

    def explain_skip(self, target: Target) -> str | None:
        """Return why the candidate cannot run on a target; None if it can."""
        is_castable = self.precision == "fp32" and target.precision in FP32_CASTS
        if target.precision != self.precision and is_castable and self.workload.file and self.model.is_quantised:
            return f"the model quantises values, which {target.precision} does not"
        if target.precision != self.precision and not is_castable:
            return f"the model is {self.precision}, not {target.precision}"
        if target.backend == MODULE_BACKEND and self.workload.build is None:
            return f"backend {MODULE_BACKEND} does not run ONNX files: add another --backend"
        return None

    def run_reference(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the output of torch in fp32; for an ONNX file all outputs of ONNX Runtime on the CPU."""
        build = self.reference or self.workload.build
        if build is not None:
            import torch

            module = build()  # traced, which inference mode forbids, where an operator is a module of the user's
            with torch.inference_mode():
                output: NDArray[Any] = module(*(torch.from_numpy(x) for x in inputs)).numpy()
            return [output]
        runner = require_backend(CPU_TARGET).compile(self.workload, CPU_TARGET)
        try:
            return runner.infer(inputs)
        finally:
            runner.close()


@dataclass(frozen=True)
class Timing:
    """Latency of one network on one target, in milliseconds.

    Attributes:
        name: name of the candidate; so are kind, input, scope, parameters, macs, miou, scored_on, classes and dataset.
        backend: backend of the target; so are device, precision and threads.
        fps: images per second, 1000 * batch / median_ms.
        median_ms: median of all runs; p90_ms and p99_ms are percentiles, iqr_ms is the interquartile range.
        relative: ratio to the fastest candidate of this size and scope, by the table's statistic: the median of the
            ratios in parts of the run, each of which cancels the noise that both share; see `timing.ratios`.
        relative_low: lower end of the 90 % interval of `relative`, by order statistics; relative_high is the upper end.
        runs: number of runs.
        max_abs_diff: largest absolute difference from the reference output; None for class outputs, and where the
            target is the reference.
        argmax_agreement_pct: share of pixels with the reference's class, in percent; None without classes or reference.
        remarks: remarks of the runner, and on runs that waited for CPU time.
        quantisation: kind of quantisation of an int8 model: `QDQ`, `QOperator` or `dynamic`.
        batch: images per run.
        latency_ms: latency by the table's statistic, of undisturbed runs.
    """

    name: str
    kind: str
    input: str
    scope: str
    backend: str
    device: str
    precision: str
    threads: int
    parameters: int
    macs: int
    fps: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    iqr_ms: float
    relative: float
    relative_low: float
    relative_high: float
    runs: int
    max_abs_diff: float | None
    argmax_agreement_pct: float | None
    miou: float | None = None
    scored_on: str | None = None
    remarks: tuple[str, ...] = ()
    quantisation: str | None = None
    batch: int = 1
    classes: int | None = None
    dataset: str | None = None
    latency_ms: float | None = None


_COPIED = ("name", "kind", "scope", "miou", "scored_on", "quantisation", "batch", "classes", "dataset")
"""Fields of a timing that are the candidate's own."""


def time_candidates(
    candidates: Sequence[Candidate], targets: Sequence[Target], seconds: float, on_progress: OnProgress = quiet
) -> list[Timing]:
    """Time candidates on the targets of one device, interleaved in random order.

    Args:
        candidates: networks; names are unique within a size and scope.
        targets: backends and precisions, all on one device with the same number of threads.
        seconds: recorded time per candidate and target; at least 200 runs each.
        on_progress: receives the progress.

    Returns:
        One row per candidate and target, grouped by size and scope, fastest first.

    Raises:
        BackendUnavailableError: a target is unavailable on this machine.
        MeasurementError: a backend rejects a candidate; the message names it.
        UsageError: see `pair_candidates`.
    """
    pairs = pair_candidates(candidates, targets)
    assignments = {
        str(n): Assignment(require_backend(target), target, candidate.workload)
        for n, (candidate, target) in enumerate(pairs)
    }
    checks = [
        _check_outputs(candidate, assignment)
        for (candidate, _), assignment in zip(pairs, assignments.values(), strict=True)
    ]
    measurement = measure_seconds(assignments, seconds * len(assignments), on_progress=on_progress)
    times = [group_by_round(measurement, key) for key in assignments]
    latencies = [measurement.summary(key).latency_ms for key in assignments]
    order = list(dict.fromkeys(candidate.group for candidate, _ in pairs))
    groups = [[n for n, (candidate, _) in enumerate(pairs) if candidate.group == group] for group in order]
    fastest = {
        group: times[min(members, key=latencies.__getitem__)] for group, members in zip(order, groups, strict=True)
    }
    rows = []
    for (candidate, target), key, by_round, check in zip(pairs, assignments, times, checks, strict=True):
        ratio = compute_ratio(by_round, fastest[candidate.group])
        row = _make_row(candidate, target, check, measurement, key, ratio)
        rows.append((order.index(candidate.group), row))
    return [row for _, row in sorted(rows, key=lambda item: (item[0], item[1].relative))]


def _make_row(
    candidate: Candidate,
    target: Target,
    check: _OutputCheck,
    measurement: Measurement,
    benchmark: str,
    ratio: tuple[float, float, float],
) -> Timing:
    """Return the row of a candidate on a target, which a benchmark of the measurement ran."""
    runs, latency_ms = np.concatenate(measurement.durations(benchmark)), measurement.summary(benchmark).latency_ms
    low, median, high, p90, p99 = np.quantile(runs, [0.25, 0.5, 0.75, 0.9, 0.99]).tolist()
    waiting = describe_starvation(latency_ms, median, p90)
    relative, relative_low, relative_high = ratio
    return Timing(
        **{name: getattr(candidate, name) for name in _COPIED},
        **vars(target),
        **vars(replace(check, remarks=(*check.remarks, waiting) if waiting else check.remarks)),
        input="x".join(map(str, candidate.size)),
        parameters=candidate.costs.parameters,
        macs=candidate.costs.macs,
        fps=1000 * candidate.batch / median,
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        iqr_ms=high - low,
        relative=relative,
        relative_low=relative_low,
        relative_high=relative_high,
        runs=len(runs),
        latency_ms=latency_ms,
    )


def pair_candidates(candidates: Sequence[Candidate], targets: Sequence[Target]) -> list[tuple[Candidate, Target]]:
    """Return all pairs of candidates and targets that can run.

    Raises:
        UsageError: duplicate names, a candidate without a target, or a target without a candidate.
    """
    counts = Counter((candidate.name, candidate.group) for candidate in candidates)
    if duplicates := sorted({name for (name, _), count in counts.items() if count > 1}):
        raise UsageError(f"duplicate network names: {', '.join(duplicates)}")
    reasons = [[candidate.explain_skip(target) for target in targets] for candidate in candidates]
    for candidate, own in zip(candidates, reasons, strict=True):
        if all(own):
            raise UsageError(f"{candidate.name}: {own[0]}{_advise_precision(candidate.precision, targets)}")
    for index, target in enumerate(targets):
        if all(own[index] for own in reasons):
            raise UsageError(f"no network can run on {target}: {candidates[0].name}: {reasons[0][index]}")
    return [
        (candidate, target) for target in targets for candidate in candidates if candidate.explain_skip(target) is None
    ]


def _advise_precision(precision: str, targets: Sequence[Target]) -> str:
    """Return advice for a network of this precision; nothing if the targets have it."""
    if precision in {target.precision for target in targets}:
        return ""
    if precision == INT8 or any(precision in get_backend(each.backend).precisions(each.device) for each in targets):
        return f": add --precision {precision}"
    backends = " and ".join(dict.fromkeys(f"{target.backend} on {target.device}" for target in targets))
    return f", and {backends} has no {precision}: choose another --device or --backend, or use the file in fp32"


@dataclass(frozen=True)
class _OutputCheck:
    """Fields of `Timing` on the output and the runner."""

    max_abs_diff: float | None
    argmax_agreement_pct: float | None
    remarks: tuple[str, ...]


def _check_outputs(candidate: Candidate, assignment: Assignment) -> _OutputCheck:
    """Compare the output with the reference; return the differences, and the runner's remarks."""
    inputs, target = candidate.workload.inputs(), assignment.target
    try:
        runner = assignment.backend.compile(candidate.workload, target)
    except MeasurementError as error:
        raise MeasurementError(f"{candidate.name}: {error}") from error
    try:
        outputs, remarks = runner.infer(inputs), (*_describe_model(candidate, target), *runner.remarks)
    finally:
        runner.close()
    if any(np.issubdtype(each.dtype, np.floating) and not np.all(np.isfinite(each)) for each in outputs):
        raise MeasurementError(
            f"{candidate.name}: backend {target.backend} in {target.precision} returned NaN or infinite values"
        )
    if candidate.workload.build is None and (target.backend, target.device) == (CPU_TARGET.backend, CPU_TARGET.device):
        return _OutputCheck(None, None, remarks)
    expected = candidate.run_reference(inputs)
    shapes, expected_shapes = ([each.shape for each in arrays] for arrays in (outputs, expected))
    if shapes != expected_shapes:
        raise MeasurementError(
            f"{candidate.name}: backend {target.backend} returned shapes {shapes}, not {expected_shapes}"
        )
    diffs, agreements = [], []
    for differences, output, reference in zip(start_comparisons(candidate.model), outputs, expected, strict=True):
        differences.add(output, reference)
        diffs.append(differences.max_abs_diff)
        agreements.append(differences.agreement_pct)
    return _OutputCheck(
        max((diff for diff in diffs if diff is not None), default=None),
        min((share for share in agreements if share is not None), default=None),
        remarks,
    )


def _describe_model(candidate: Candidate, target: Target) -> list[str]:
    """Return remarks on operators whose costs are unknown, and on those that the target computes in float32."""
    remarks, names = [], candidate.costs.uncounted
    if names:
        more = f" and {len(names) - MAX_UNCOUNTED} more" if len(names) > MAX_UNCOUNTED else ""
        remarks.append(f"MACs, perhaps parameters, are incomplete, without {', '.join(names[:MAX_UNCOUNTED])}{more}")
    if target.precision == INT8 and target.backend == CPU_TARGET.backend and target.device.is_cpu:
        products = count_float_products(candidate.workload.onnx)
        if products.count:
            share = "" if products.share_pct is None else f", {products.share_pct:.0f} % of their MACs,"
            remarks.append(
                f"ONNX Runtime computes {products.count} of {products.total} quantised products{share} in float32: the "
                "frame rate does not predict that of an int8 engine"
            )
    return remarks
