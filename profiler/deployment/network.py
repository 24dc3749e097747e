"""Network to deploy: any network with its weights, as the ONNX model that is both written and timed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ...errors import UsageError
from ...files import ensure_folder, hash_file, write_atomic
from ...lut.table.table import network_key
from ...models.geometry import GEOMETRY_FIELD
from ...models.images import RGBImage, normalise_image
from ...models.nets.definition import Log as Log
from ...models.nets.definition import NetworkDefinition, load_definition
from ...models.nets.sources import NetworkSource
from ...models.onnx.signature import (
    ARCHITECTURE_KEY,
    CLASSES_KEY,
    DIGEST_KEY,
    NORMALISATION_KEY,
    PALETTE_KEY,
    PARITY_KEY,
    SCOPE_KEY,
    SOURCE_KEY,
    TABLE_KEY,
    VERSION_KEY,
    WEIGHTS_KEY,
)
from ...models.space.protocol import CORE, END_TO_END, Architecture
from ...models.training_result import read_class_names
from ...precisions import INT8
from ..backends import Workload
from ..timing.workloads import describe_folding, is_network_foldable, network_module, network_workload

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE_PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", INT8: INT8}
"""Precision -> precision of its file: ONNX has bfloat16 convolutions since operator set 22, which few programs read."""


def list_file_precisions(precisions: Iterable[str], log: Log) -> tuple[str, ...]:
    """Return the precisions of the files to write, each once, with a remark on one without a file of its own."""
    if "bf16" in precisions:
        log("bf16 has no file of its own: the fp32 file is written, and backends convert it, e.g. --backend tensorrt")
    return tuple(dict.fromkeys(FILE_PRECISIONS[name] for name in precisions))


@dataclass(frozen=True)
class Network:
    """Network to deploy.

    Attributes:
        source: architecture, or definition of any network.
        weights: state dict of the network; None for random weights.
        scope: a name of `plan.EXPORT_SCOPES`.
        classes: names of the classes; None for those of the definition, if it has any.
        table: fingerprint of the table's latencies that search or prediction used; None without a table.
        images: RGB images of the network's size for the ranges of int8, [H, W, 3] each.
        digest: hash of the file of its weights; None if there is none.
    """

    source: Architecture | NetworkDefinition
    weights: Mapping[str, Tensor] | None
    scope: str
    classes: tuple[str, ...] | None = None
    table: str | None = None
    images: tuple[RGBImage, ...] = field(default=(), repr=False)
    digest: str | None = None
    _models: dict[tuple[str, str], bytes] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def definition(self) -> NetworkDefinition:
        """Definition of the network."""
        return NetworkDefinition.of(self.source)

    @property
    def architecture(self) -> Architecture | None:
        """Architecture of the network; None for a peer or a factory, whose latency no table predicts."""
        return self.definition.architecture

    def model(self, precision: str = "fp32", scope: str | None = None) -> bytes:
        """Return the serialised ONNX model: norms folded, simplified, with metadata; built on the first call.

        Args:
            precision: a value of `FILE_PRECISIONS`. Inputs and outputs are float32, or bytes in scope end-to-end.
            scope: scope of the model; None for the network's own.

        Raises:
            UsageError: int8 without images.
        """
        key = (precision, scope or self.scope)
        if key not in self._models:
            self._models[key] = self._build_model(*key)
        return self._models[key]

    def _build_model(self, precision: str, scope: str) -> bytes:
        from ...models.onnx.export import replace_metadata, simplify
        from ..backends.precision import cast_model
        from .quantization import quantize

        if precision == "fp32":
            exported = network_workload(self.source, scope, self.weights, lambda: self.is_foldable).onnx
            return replace_metadata(simplify(exported), self._make_metadata(scope, precision))
        plain = self.model("fp32", scope)
        if precision == INT8:
            if not self.images:
                raise UsageError("int8 needs images for its ranges: add --data DIR")
            converted = quantize(plain, self.inputs(scope), self.stem)
        else:
            converted = cast_model(plain, precision)
        return replace_metadata(converted, self._make_metadata(scope, precision))

    def _make_metadata(self, scope: str, precision: str) -> dict[str, str]:
        from ...version import __version__

        definition, architecture = self.definition, self.architecture
        metadata = {
            VERSION_KEY: __version__,
            SCOPE_KEY: scope,
            "precision": precision,
            WEIGHTS_KEY: "random" if self.weights is None else "trained",
            NORMALISATION_KEY: json.dumps(asdict(definition.normalisation)),
            GEOMETRY_FIELD: str(int(definition.geometry)),
        }
        if self.digest is not None:
            metadata[DIGEST_KEY] = self.digest
        if architecture is None:
            metadata[SOURCE_KEY] = f"{definition.source.kind}:{definition.source.name}"
        else:
            metadata[ARCHITECTURE_KEY] = architecture.to_json()
            metadata["space"] = f"{architecture.space.name} {architecture.space.fingerprint}"
        if self.table is not None:
            metadata[TABLE_KEY] = self.table
        names = self.classes or definition.class_names
        if names is not None:
            metadata[CLASSES_KEY] = json.dumps(names)
        if definition.palette is not None:
            metadata[PALETTE_KEY] = json.dumps(definition.palette)
        return metadata

    def inputs(self, scope: str | None = None) -> list[NDArray[Any]]:
        """Return the images as inputs of the network in a scope, by default its own."""
        if (scope or self.scope) == END_TO_END:
            return [image[None] for image in self.images]
        return [normalise_image(image, self.definition.normalisation)[None] for image in self.images]

    def workload(self, scope: str | None = None, precision: str = "fp32") -> Workload:
        """Return the exported model as a workload in a scope, by default its own.

        Backends convert the fp32 model to fp16 and bf16 themselves; an int8 model is quantised beforehand.
        """
        scope = scope or self.scope
        plain = network_workload(self.source, scope, self.weights, lambda: self.is_foldable)
        if precision == INT8:
            return Workload(plain.name, plain.input_shapes, None, plain.dtype, self.model(INT8, scope))
        return replace(plain, export=partial(self.model, "fp32", scope))

    @cached_property
    def is_foldable(self) -> bool:
        """True if folding its normalisations leaves its logits unchanged."""
        return is_network_foldable(self.definition, self.weights)

    def reference(self, scope: str | None = None) -> nn.Module:
        """Return the network as trained and evaluated: torch, evaluation mode, nothing folded."""
        return network_module(self.source, scope or self.scope, self.weights)

    @property
    def stem(self) -> str:
        """Stem of its file names: name, input size, hash of the network, scope."""
        definition, architecture = self.definition, self.architecture
        if architecture is None:
            key = f"{definition.source.kind} {definition.source.name} {definition.source.digest} {definition.classes}"
        else:
            key = network_key(architecture, self.scope)
        height, width = definition.input
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "-", definition.source.name.replace(".py:", "-"))
        return f"{name}-{height}x{width}-{digest}-{self.scope}"


def load_network(source: Path, scope: str, log: Log = print, network: NetworkSource | None = None) -> Network:
    """Return the network of a run folder or architecture file; a run's trained weights are used if it has any.

    Args:
        source: run folder, or architecture file.
        scope: scope of the network.
        log: receives remarks, one line each.
        network: network that the user named; required for the run of a factory.

    Raises:
        FileFormatError: architecture, definition, weights or training result is missing or damaged.
        UsageError: a factory was not named.
        PluginError: the factory raises an error, or its network does not return logits.
    """
    from ...models.nets.checks import check_outputs
    from ...models.nets.state.weights import WEIGHTS_FILE, load_weights

    definition = load_definition(source, network, log)
    path = source / WEIGHTS_FILE
    if not source.is_dir() or not path.exists():
        log("random weights: the latency is valid, the output is not")
        loaded = Network(definition, None, scope)
    else:
        names = definition.class_names or read_class_names(source)
        loaded = Network(definition, load_weights(path, definition, log), scope, names, digest=hash_file(path))
    if definition.source.kind == "factory":
        report = check_outputs(loaded.reference(CORE).get_submodule("network"), definition)
        for remark in describe_folding(definition, loaded.is_foldable):
            log(remark)
        for remark in report.format_warnings():
            log(f"{definition.source.reference}: {remark}")
        dropped = [*report.auxiliary, *report.ignored]
        if dropped:
            log(f"{definition.source.reference}: exported output: {report.main}; not exported: {', '.join(dropped)}")
    return loaded


def write_onnx(network: Network, folder: Path, precision: str = "fp32", *, passes: bool = True) -> Path:
    """Write the network's ONNX file and return its path; one whose outputs do not pass the comparison is marked.

    Raises:
        UsageError: int8 without images.
        OutputError: the file cannot be written.
    """
    from ...models.onnx.export import add_metadata

    name = network.stem if precision == "fp32" else f"{network.stem}-{precision}"
    path = ensure_folder(folder) / f"{name}.onnx"
    model = network.model(precision)
    write_atomic(path, model if passes else add_metadata(model, {PARITY_KEY: "failed"}))
    return path
