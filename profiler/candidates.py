"""Candidates of a comparison: ONNX files, run folders, architectures, peers and networks of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MismatchError
from ..models.nets.definition import Log, NetworkDefinition, load_definition
from ..models.nets.sources import NetworkSource
from ..models.nets.state.weights import WEIGHTS_FILE
from ..models.onnx.model import OnnxModel
from ..models.onnx.reading.binding import FixedSizeError
from ..models.training_result import StoredScores
from .backends import Workload
from .comparison import Candidate
from .file_outputs import count_classes, name_scope
from .timing.workloads import describe_folding, is_network_foldable, network_module, network_workload

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ReadOptions:
    """Choices that an ONNX file may need.

    Attributes:
        sizes: heights and widths in pixels for files with dynamic axes.
        output: name of the output to compute; None for all.
        layout: `NCHW` or `NHWC`; None to infer it.
        keep_size: True to use files of other fixed sizes at their own size.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    output: str | None = None
    layout: str | None = None
    keep_size: bool = False


def read_file_candidates(path: Path, options: ReadOptions) -> list[Candidate]:
    """Return an ONNX file as a candidate at each size, or at its fixed size.

    Raises:
        FileFormatError: invalid ONNX model, dynamic shapes without a size, or another fixed size.
        UsageError: no image takes the size, or its layout is unknown.
    """
    candidates = []
    for size in options.sizes:
        try:
            candidates.append(read_file_candidate(path, size, options.output, options.layout))
        except FixedSizeError:
            if len(options.sizes) == 1 and not options.keep_size:
                raise
    return candidates or [read_file_candidate(path, None, options.output, options.layout)]


def read_file_candidate(
    path: Path, size: tuple[int, int] | None = None, output: str | None = None, layout: str | None = None
) -> Candidate:
    """Return an ONNX file as a candidate; see `OnnxModel.load` for arguments and errors."""
    model = OnnxModel.load(path, input_size=size, output=output, layout=layout)
    workload = Workload.for_model(model, path.name)
    return Candidate(path.stem, "file", model.input_size, name_scope(model), workload, count_classes(model), file=model)


def read_run_candidate(
    path: Path, size: tuple[int, int] | None, scope: str, network: NetworkSource | None = None, log: Log = print
) -> Candidate:
    """Return a run folder or an architecture file as a candidate, with its weights and score if available.

    A score is valid for its own input size only and left out at others.

    Args:
        path: run folder, or architecture file.
        size: height and width in pixels; None for the network's own.
        scope: scope of the network.
        network: network that the user named; required for the run of a factory.
        log: receives a warning if the factory or the weights have changed.

    Raises:
        FileFormatError: no network, or damaged weights.
        UsageError: a factory was not named.
        PluginError: the network returns no logits of the classes, or NaN or infinite ones.
    """
    own = load_definition(path, network, log)
    definition = own if size is None else own.with_input(size)
    weights, miou, scored_on = None, None, None
    if path.is_dir() and (path / WEIGHTS_FILE).exists():
        from ..models.nets.state.weights import load_weights

        weights = load_weights(path / WEIGHTS_FILE, own, log)
        if definition is own:
            miou, scored_on = _score(path, log)
    name = path.name if path.is_dir() else path.stem
    kind = "run" if weights is not None else definition.source.kind
    candidate = _make_candidate(name, kind, definition, scope, weights, log)
    return replace(candidate, miou=miou, scored_on=scored_on, dataset=None if miou is None else own.dataset)


def _make_candidate(
    name: str,
    kind: str,
    definition: NetworkDefinition,
    scope: str,
    weights: Mapping[str, Tensor] | None,
    log: Log,
) -> Candidate:
    """Return a network as a candidate, after a check of trained logits and of those of the user's code.

    Raises:
        PluginError: The network returns no logits of the classes, or NaN or infinite ones.
    """
    from ..models.nets.checks import check_outputs

    if weights is not None or definition.source.kind == "factory":
        network = definition.build()
        if weights is not None:
            network.load_state_dict(dict(weights))
        check_outputs(network, definition)
    foldable = is_network_foldable(definition, weights)
    for remark in describe_folding(definition, foldable):
        log(remark)
    workload = network_workload(definition, scope, weights, lambda: foldable)
    reference = partial(network_module, definition, scope, weights)
    return Candidate(name, kind, definition.input, scope, workload, definition.classes, reference=reference)


def _score(run: Path, log: Log) -> tuple[float | None, str | None]:
    """Return the mIoU of a training in percent, and its split and resolution; None if it is of other weights."""
    result = StoredScores.read(run)
    if result is None:
        return None, None
    try:
        result.require_weights(run / WEIGHTS_FILE)
    except MismatchError as error:
        log(f"warning: {error}")
        return None, None
    size = result.scored_at if isinstance(result.scored_at, str) else "x".join(map(str, result.scored_at))
    return result.miou, f"{result.scored_on}, in fp32, labels at {size}"


def build_candidate(
    source: NetworkSource, size: tuple[int, int], scope: str, classes: int, log: Log = print
) -> Candidate:
    """Return a peer or a factory's network with random weights as a candidate; `log` receives remarks.

    Raises:
        UsageError: the peer does not support this input size.
        PluginError: the factory raises an error, or its network does not return logits of the classes.
    """
    definition = NetworkDefinition(source, size, classes)
    return _make_candidate(source.name, source.kind, definition, scope, None, log)
