"""Networks side by side: any ONNX files, runs, architectures and peers, timed in one run by one protocol.

Every network in every backend and precision is visited in random order until each has been timed long enough; so
whatever the machine does meanwhile, it does to all. What takes images of one size in one scope compares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..device import CPU
from ..errors import FileFormatError, MeasurementError, UnknownNameError, UsageError
from ..files import describe
from ..lut.statistics.calibration import PREDICTION_LEVEL
from ..lut.statistics.measurement import Measurement
from ..lut.target import Target
from ..models.nets.peers import LOGITS_STRIDE, PEERS, build_peer
from ..models.nets.weights import WEIGHTS_FILE
from ..models.onnx.costs import OnnxCosts
from ..models.onnx.model import OnnxModel
from ..models.onnx.signature import SCOPE_KEY
from ..models.space.lgcnet import ARCHITECTURE_FILE, Architecture
from ..models.space.opspec import OpSpec
from ..models.space.plan import CORE
from .backends import Workload, require_backend
from .timing.measure import Assignment, measure_seconds
from .timing.rounds import OnProgress, quiet
from .timing.workloads import build_folded, image_input, in_scope, network_workload

if TYPE_CHECKING:
    from torch import nn

CPU_TARGET = Target(CPU, "onnxruntime")
"""Where a file's own output is taken from: there is nothing else to compare it with."""
TRAINING_RESULT = "train-result.json"
PARTS = 8
"""Equal parts of a run, each of which tells one ratio: long enough that on a CPU most know other places in memory than
the one before, so that they are independent enough for an interval."""
MODULES = "torch"
"""The backend that runs modules, and no files."""
CONVERTED = ("fp16", "bf16")
"""Precisions that backends bring a network of fp32 to by themselves."""


@dataclass(frozen=True)
class Candidate:
    """A network that is timed.

    Attributes:
        name: for people; no two of a contest share one.
        kind: `file`, `run`, `architecture` or `peer`.
        size: height and width of its image, in pixels.
        scope: one of `plan.EXPORT_SCOPES`; of files of other people that give no classes of pixels, what they give.
        workload: what is run.
        classes: how many it tells apart; None where its output does not say.
        miou: mean intersection over union where it is known, percent; with `scored_on`, of which images.
        scored_on: the split, and the resolution of the scoring.
    """

    name: str
    kind: str
    size: tuple[int, int]
    scope: str
    workload: Workload = field(repr=False)
    classes: int | None = None
    miou: float | None = None
    scored_on: str | None = None

    @property
    def group(self) -> tuple[tuple[int, int], str]:
        """Size and scope: what is alike in both compares."""
        return self.size, self.scope

    @cached_property
    def model(self) -> OnnxModel:
        """Its graph, checked."""
        return OnnxModel.parse(self.workload.onnx, self.name)

    @property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates, counted in the graph that is run."""
        return self.model.costs

    @cached_property
    def precision(self) -> str:
        """What it computes in as it is; a backend may convert fp32."""
        return "fp32" if self.workload.file is None else self.model.precision

    def refusal(self, target: Target) -> str | None:
        """None if it can be run on a target, in its own precision or in one that backends convert fp32 to."""
        if target.precision != self.precision and not (self.precision == "fp32" and target.precision in CONVERTED):
            return f"it computes in {self.precision}, not in {target.precision}: take --precision {self.precision} too"
        if target.backend == MODULES and self.workload.build is None:
            return f"it is an ONNX file, which {MODULES} does not run: take another --backend too"
        return None

    def reference(self, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Its first output by torch in fp32, or by ONNX Runtime on the CPU where there is only a file."""
        if self.workload.build is not None:
            import torch

            with torch.inference_mode():
                output: NDArray[Any] = self.workload.build()(*(torch.from_numpy(x) for x in inputs)).numpy()
            return output
        runner = require_backend(CPU_TARGET).compile(self.workload, CPU_TARGET)
        try:
            return runner.infer(inputs)[0]
        finally:
            runner.close()


@dataclass(frozen=True)
class Timing:
    """One network on one target; milliseconds.

    Attributes:
        name: the entrant's, as are kind, input, scope, parameters, macs, miou and scored_on.
        backend: a name of `backends.BACKENDS`, as device, precision and threads of the target.
        fps: 1000 / median_ms.
        median_ms: of all runs; p90_ms, p99_ms and iqr_ms (between the quartiles) likewise.
        relative: how many times as long as the fastest at this size and scope, whatever its backend and precision: the
            ratio within each of `PARTS` parts of the run, in which the machine does the same to both, and their median.
        relative_low: lower end of its 90 % interval, by order statistics; relative_high likewise.
        runs: how many.
        max_abs_diff: largest difference from the reference's output; None where the output is classes, or where the
            reference would be what is timed.
        argmax_agreement_pct: share of pixels of the reference's class, in percent; None where there are no classes, or
            no other reference.
        remarks: what a reader has to know of how it was made ready.
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


def file_candidate(path: Path) -> Candidate:
    """An ONNX file as it is, at its own size.

    Raises:
        FileFormatError: it is no valid ONNX model of static shapes that takes float32 or uint8.
    """
    model = OnnxModel.load(path)
    shapes = tuple(tensor.shape for tensor in model.inputs)
    workload = Workload(path.name, shapes, None, model.dtype, model.data)
    scope = model.scope
    if scope == CORE and SCOPE_KEY not in model.metadata:  # somebody else's: what it gives may be anything
        scope = f"as is, to {'x'.join(map(str, model.outputs[0].shape))}"
    return Candidate(path.stem, "file", model.image_size, scope, workload, model.classes)


def run_candidate(path: Path, size: tuple[int, int] | None, scope: str) -> Candidate:
    """A run folder or an architecture file, at its own size or another, with its weights and score if it has any.

    The score is of its own size: at another one it is left out.

    Raises:
        FileFormatError: it holds no architecture, or damaged weights.
    """
    folder = path if path.is_dir() else path.parent
    own = Architecture.load(path / ARCHITECTURE_FILE if path.is_dir() else path)
    architecture = own if size is None else at_size(own, size)
    weights, miou, scored_on = None, None, None
    if path.is_dir() and (folder / WEIGHTS_FILE).exists():
        from ..models.nets.weights import load_weights

        weights = load_weights(folder / WEIGHTS_FILE, own)
        if architecture is own:
            miou, scored_on = _score(folder / TRAINING_RESULT)
    name = path.name if path.is_dir() else path.stem
    kind = "run" if weights is not None else "architecture"
    workload = network_workload(architecture, scope, weights)
    return Candidate(name, kind, architecture.space.input, scope, workload, own.space.classes, miou, scored_on)


def at_size(architecture: Architecture, size: tuple[int, int]) -> Architecture:
    """The same operators at another input size, (height, width) in pixels."""
    if size == architecture.space.input:
        return architecture
    space = architecture.space.with_input(*size)
    return Architecture.from_choices(space, architecture.choices, architecture.head, **architecture.provenance)


def _score(path: Path) -> tuple[float | None, str | None]:
    """The mIoU that a training left behind (percent), and what it is of."""
    if not path.exists():
        return None, None
    try:
        found = json.loads(path.read_text())
        miou, split, at = found["miou"], found["scored_on"], found["scored_at"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is no result of a training but {describe(path)}") from error
    return miou, f"{split}, in fp32, labels at {'x'.join(map(str, at)) if isinstance(at, list) else at}"


def peer_candidate(name: str, size: tuple[int, int], scope: str, classes: int) -> Candidate:
    """A built-in peer with random weights.

    Raises:
        UnknownNameError: no such peer.
        UsageError: it does not take images of that size.
    """
    if name not in PEERS:
        raise UnknownNameError("peer", name, PEERS)
    height, width = size
    shape, dtype = image_input(size, scope)
    dense = (
        OpSpec("upsample", classes, classes, height, width, LOGITS_STRIDE),
        OpSpec("argmax", classes, 1, height, width),
    )
    workload = Workload(f"peer {name}", (shape,), partial(_peer, name, classes, scope, dense), dtype)
    return Candidate(name, "peer", size, scope, workload, classes)


def _peer(name: str, classes: int, scope: str, dense: Sequence[OpSpec]) -> nn.Module:
    """A peer as it is deployed: random weights and statistics, the same each time, norms folded."""
    return build_folded(lambda: in_scope(build_peer(name, classes), scope, dense))


def time_candidates(
    entrants: Sequence[Candidate], targets: Sequence[Target], seconds: float, on_progress: OnProgress = quiet
) -> list[Timing]:
    """Time networks on targets of one device, each on every one that it can be run on, in random order.

    Args:
        entrants: what; names differ among those of one size and scope.
        targets: where, and in which precisions; all on one device, with as many threads.
        seconds: how long each is timed on each target; 200 runs of each at least.
        on_progress: told how far it is.

    Returns:
        The rows, size by size and scope by scope, the fastest first.

    Raises:
        BackendUnavailableError: a target cannot be used here.
        MeasurementError: a backend refuses one of them; the message names it.
        UsageError: as `pairs_of` does.
    """
    pairs = pairs_of(entrants, targets)
    places = {
        str(n): Assignment(require_backend(target), target, entrant.workload)
        for n, (entrant, target) in enumerate(pairs)
    }
    checked = [_checked(entrant, place) for (entrant, _), place in zip(pairs, places.values(), strict=True)]
    found = measure_seconds(places, seconds * len(places), on_progress=on_progress)
    times = [_by_round(found, key) for key in places]
    usual = [float(np.median(list(of.values()))) for of in times]
    order = list(dict.fromkeys(entrant.group for entrant, _ in pairs))
    groups = [[n for n, (entrant, _) in enumerate(pairs) if entrant.group == group] for group in order]
    fastest = {group: times[min(members, key=usual.__getitem__)] for group, members in zip(order, groups, strict=True)}
    rows = []
    for (entrant, target), key, of, outcome in zip(pairs, places, times, checked, strict=True):
        relative, relative_low, relative_high = _ratio(of, fastest[entrant.group])
        runs = np.concatenate(found.durations(key))
        low, median, high, p90, p99 = np.quantile(runs, [0.25, 0.5, 0.75, 0.9, 0.99]).tolist()
        row = Timing(
            **{name: getattr(entrant, name) for name in ("name", "kind", "scope", "miou", "scored_on")},
            **vars(target),
            **outcome,
            input="x".join(map(str, entrant.size)),
            parameters=entrant.costs.parameters,
            macs=entrant.costs.macs,
            fps=1000 / median,
            median_ms=median,
            p90_ms=p90,
            p99_ms=p99,
            iqr_ms=high - low,
            relative=relative,
            relative_low=relative_low,
            relative_high=relative_high,
            runs=len(runs),
        )
        rows.append((order.index(entrant.group), row))
    return [row for _, row in sorted(rows, key=lambda found: (found[0], found[1].relative))]


def _by_round(found: Measurement, subject: str) -> dict[int, float]:
    """Median duration in milliseconds of each visit to a subject, by the round that it was made in."""
    return {visit.round: float(np.median(visit.durations_ms)) for visit in found.batches if visit.benchmark == subject}


def _ratio(one: dict[int, float], other: dict[int, float]) -> tuple[float, float, float]:
    """Median over the parts of one / other, and the order statistics that hold it by `PREDICTION_LEVEL` at least."""
    from scipy.stats import binom

    parts = np.array_split(sorted(one.keys() & other.keys()), PARTS)
    mine, others = ([np.median([times[number] for number in part]) for part in parts] for times in (one, other))
    ratios = np.sort(np.divide(mine, others))
    left_out = max(int(binom.ppf((1 - PREDICTION_LEVEL) / 2, PARTS, 0.5)) - 1, 0)
    return float(np.median(ratios)), float(ratios[left_out]), float(ratios[-1 - left_out])


def pairs_of(entrants: Sequence[Candidate], targets: Sequence[Target]) -> list[tuple[Candidate, Target]]:
    """Every network with every target that it can be run on.

    Raises:
        UsageError: names are not distinct, a network can be run on none of the targets, or none on one of them.
    """
    counts = Counter((entrant.name, entrant.group) for entrant in entrants)
    if twice := sorted({name for (name, _), count in counts.items() if count > 1}):
        raise UsageError(f"two networks are called alike: {', '.join(twice)}")
    refusals = {(e.name, target): e.refusal(target) for e in entrants for target in targets}
    for entrant in entrants:
        reasons = [refusals[entrant.name, target] for target in targets]
        if all(reasons):
            raise UsageError(f"{entrant.name}: {reasons[0]}")
    for target in targets:
        reasons = [refusals[entrant.name, target] for entrant in entrants]
        if all(reasons):
            raise UsageError(f"nothing to run on {target}: {entrants[0].name}: {reasons[0]}")
    return [(entrant, target) for target in targets for entrant in entrants if entrant.refusal(target) is None]


def _checked(entrant: Candidate, place: Assignment) -> dict[str, Any]:
    """How the output compares with the reference's: the fields of `Timing` about that, and the runner's remarks."""
    inputs, target = entrant.workload.inputs(), place.target
    try:
        runner = place.backend.compile(entrant.workload, target)
    except MeasurementError as error:
        raise MeasurementError(f"{entrant.name}: {error}") from error
    try:
        got, remarks = runner.infer(inputs)[0], runner.remarks
    finally:
        runner.close()
    if np.issubdtype(got.dtype, np.floating) and not np.all(np.isfinite(got)):
        raise MeasurementError(
            f"{target.backend} in {target.precision} gave values that are not finite: {entrant.name}"
        )
    if entrant.workload.build is None and (target.backend, target.device) == (CPU_TARGET.backend, CPU_TARGET.device):
        return {"max_abs_diff": None, "argmax_agreement_pct": None, "remarks": remarks}
    wanted = entrant.reference(inputs)
    if got.shape != wanted.shape:
        raise MeasurementError(f"{target.backend} gave an output of shape {got.shape} for {entrant.name}")
    diff, agreement = _difference(got, wanted)
    return {"max_abs_diff": diff, "argmax_agreement_pct": agreement, "remarks": remarks}


def _difference(got: NDArray[Any], wanted: NDArray[Any]) -> tuple[float | None, float | None]:
    """Largest difference, and share of pixels of the same class in percent."""
    if not np.issubdtype(got.dtype, np.floating):
        return None, float((got == wanted).mean() * 100)
    agreement = None
    if got.ndim == 4 and got.shape[1] > 1:
        agreement = float((got.argmax(axis=1) == wanted.argmax(axis=1)).mean() * 100)
    return float(np.abs(got.astype(np.float64) - wanted).max()), agreement
