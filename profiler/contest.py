"""Networks side by side: any ONNX files, runs, architectures and peers, timed in one run by one protocol.

All that is compared takes images of one size in one scope, and is visited in random order until each has been timed
long enough; so whatever the machine does meanwhile, it does to all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, MeasurementError, UnknownNameError, UsageError
from ..files import describe
from ..lut.target import Target
from ..models.architecture import ARCHITECTURE, Architecture
from ..models.onnx_costs import OnnxCosts
from ..models.onnx_model import OnnxModel
from ..models.opspec import OpSpec
from ..models.peers import PEERS, STRIDE, build_peer
from ..models.weights import WEIGHTS
from .backends import Backend, Workload, require
from .measure import measure_seconds
from .rounds import OnProgress, quiet
from .workloads import image_input, in_scope, network_workload, workload_of

if TYPE_CHECKING:
    from torch import nn

CPU = Target("cpu", "onnxruntime")
"""Where a file's own output is taken from: there is nothing else to compare it with."""
TRAINING_RESULT = "train-result.json"


@dataclass(frozen=True)
class Entrant:
    """A network that is timed.

    Attributes:
        name: for people; no two of a contest share one.
        kind: `file`, `run`, `architecture` or `peer`.
        size: height and width of its image, in pixels.
        scope: one of `plan.EXPORT_SCOPES`.
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

    @cached_property
    def model(self) -> OnnxModel:
        """Its graph, checked."""
        return OnnxModel.parse(self.workload.onnx, self.name)

    @property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates, counted in the graph that is run."""
        return self.model.costs

    def reference(self, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Its first output by torch in fp32, or by ONNX Runtime on the CPU where there is only a file."""
        if self.workload.build is not None:
            import torch

            with torch.inference_mode():
                output: NDArray[Any] = self.workload.build()(*(torch.from_numpy(x) for x in inputs)).numpy()
            return output
        runner = require(CPU).compile(self.workload, CPU)
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
        relative: median_ms over that of the fastest on this target at this size, each with the machine's speed at
            its visits divided out.
        runs: how many.
        max_abs_diff: largest difference from the reference's output; None where the output is classes.
        argmax_agreement_pct: share of pixels of the reference's class, in percent; None where there are no classes.
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
    runs: int
    max_abs_diff: float | None
    argmax_agreement_pct: float | None
    miou: float | None = None
    scored_on: str | None = None


def file_entrant(path: Path) -> Entrant:
    """An ONNX file as it is, at its own size.

    Raises:
        FileFormatError: it is no valid ONNX model of static shapes that takes float32 or uint8.
    """
    model = OnnxModel.load(path)
    shapes = tuple(tensor.shape for tensor in model.inputs)
    workload = Workload(path.name, shapes, None, model.dtype, model.data)
    return Entrant(path.stem, "file", model.image_size, model.scope, workload, model.classes)


def run_entrant(path: Path, size: tuple[int, int] | None, scope: str) -> Entrant:
    """A run folder or an architecture file, at its own size or another, with its weights and score if it has any.

    Raises:
        FileFormatError: it holds no architecture, or damaged weights.
    """
    folder = path if path.is_dir() else path.parent
    own = Architecture.load(path / ARCHITECTURE if path.is_dir() else path)
    architecture = own if size is None else at_size(own, size)
    weights, miou, scored_on = None, None, None
    if path.is_dir() and (folder / WEIGHTS).exists():
        from ..models.weights import load_weights

        weights = load_weights(folder / WEIGHTS, own)
        miou, scored_on = _score(folder / TRAINING_RESULT)
    name = path.name if path.is_dir() else path.stem
    kind = "run" if weights is not None else "architecture"
    workload = network_workload(architecture, scope, weights)
    return Entrant(name, kind, architecture.space.input, scope, workload, own.space.classes, miou, scored_on)


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
    return miou, f"{split}, at {'x'.join(map(str, at)) if isinstance(at, list) else at}"


def peer_entrant(name: str, size: tuple[int, int], scope: str, classes: int) -> Entrant:
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
        OpSpec("upsample", classes, classes, height, width, STRIDE),
        OpSpec("argmax", classes, 1, height, width),
    )
    workload = Workload(f"peer {name}", (shape,), partial(_peer, name, classes, scope, dense), dtype)
    return Entrant(name, "peer", size, scope, workload, classes)


def _peer(name: str, classes: int, scope: str, dense: Sequence[OpSpec]) -> nn.Module:
    """A peer as it is deployed: random weights and statistics, the same each time, norms folded."""
    return workload_of(lambda: in_scope(build_peer(name, classes), scope, dense))


def contest(
    entrants: Sequence[Entrant], target: Target, seconds: float, on_progress: OnProgress = quiet
) -> list[Timing]:
    """Time networks of one size and scope on one target, interleaved in random order.

    Args:
        entrants: what; names differ.
        target: where, and in which precision; models that are quantised already run where it is int8.
        seconds: how long each is timed; 200 runs of each at least.
        on_progress: told how far it is.

    Raises:
        BackendUnavailableError: the target cannot be used here.
        MeasurementError: the backend refuses one of them; the message names it.
        UsageError: names are not distinct, or a quantised model and another precision than int8.
    """
    backend = require(target)
    by_name = {entrant.name: entrant for entrant in entrants}
    if len(by_name) < len(entrants):
        raise UsageError(f"two networks are called alike: {', '.join(sorted(e.name for e in entrants))}")
    for entrant in entrants:
        require_precision(entrant, target)
    differences = {name: _difference(entrant, backend, target) for name, entrant in by_name.items()}
    workloads = {name: entrant.workload for name, entrant in by_name.items()}
    found = measure_seconds(backend, target, workloads, seconds * len(entrants), on_progress=on_progress)
    latency = {name: found.summary(name).latency_ms for name in by_name}
    rows = []
    for name, entrant in by_name.items():
        runs = np.concatenate(found.durations(name))
        low, median, high, p90, p99 = np.quantile(runs, [0.25, 0.5, 0.75, 0.9, 0.99]).tolist()
        diff, agreement = differences[name]
        row = Timing(
            **{key: getattr(entrant, key) for key in ("name", "kind", "scope", "miou", "scored_on")},
            **vars(target),
            input="x".join(map(str, entrant.size)),
            parameters=entrant.costs.parameters,
            macs=entrant.costs.macs,
            fps=1000 / median,
            median_ms=median,
            p90_ms=p90,
            p99_ms=p99,
            iqr_ms=high - low,
            relative=latency[name] / min(latency.values()),
            runs=len(runs),
            max_abs_diff=diff,
            argmax_agreement_pct=agreement,
        )
        rows.append(row)
    return sorted(rows, key=lambda row: row.relative)


def require_precision(entrant: Entrant, target: Target) -> None:
    """Show that a network can be run in the target's precision.

    Raises:
        UsageError: a quantised model and another precision than int8, or the other way round.
    """
    quantised = entrant.workload.file is not None and entrant.model.is_quantised
    if quantised != (target.precision == "int8"):
        mend = "take --precision int8" if quantised else "write a quantised file: lgc-export --precision int8"
        what = "is quantised" if quantised else "is not quantised"
        raise UsageError(f"{entrant.name} {what}, so it does not run in {target.precision}: {mend}")


def _difference(entrant: Entrant, backend: Backend, target: Target) -> tuple[float | None, float | None]:
    """Largest difference of the output from the reference's, and share of pixels of the same class in percent."""
    inputs = entrant.workload.inputs()
    wanted = entrant.reference(inputs)
    runner = backend.compile(entrant.workload, target)
    try:
        got = runner.infer(inputs)[0]
    finally:
        runner.close()
    if got.shape != wanted.shape:
        raise MeasurementError(f"{target.backend} gave an output of shape {got.shape} for {entrant.name}")
    if not np.issubdtype(got.dtype, np.floating):
        return None, float((got == wanted).mean() * 100)
    if not np.all(np.isfinite(got)):
        raise MeasurementError(
            f"{target.backend} in {target.precision} gave values that are not finite: {entrant.name}"
        )
    agreement = None
    if got.ndim == 4 and got.shape[1] > 1:
        agreement = float((got.argmax(axis=1) == wanted.argmax(axis=1)).mean() * 100)
    return float(np.abs(got.astype(np.float64) - wanted).max()), agreement


def groups_of(entrants: Sequence[Entrant]) -> dict[tuple[tuple[int, int], str], list[Entrant]]:
    """The entrants by size and scope, as they can be compared."""
    groups: dict[tuple[tuple[int, int], str], list[Entrant]] = {}
    for entrant in entrants:
        groups.setdefault((entrant.size, entrant.scope), []).append(entrant)
    return groups
