"""The network that is deployed: one architecture with its weights, as the very ONNX bytes written and timed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ...errors import UsageError
from ...files import ensure_folder, write_atomic
from ...lut.table.table import network_key
from ...models.images import RGBImage, normalise_image
from ...models.onnx.signature import ARCHITECTURE_KEY, CLASSES_KEY, SCOPE_KEY, TABLE_KEY
from ...models.space.lgcnet import Architecture
from ...models.space.plan import END_TO_END
from ..backends import Workload
from ..timing.workloads import network_module, network_workload

if TYPE_CHECKING:
    from torch import Tensor, nn

INT8 = "int8"
EXPORT_PRECISIONS = ("fp32", "fp16", "bf16", INT8)
"""What an export can be run in; tables are made in all but the last."""
FILES = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", INT8: INT8}
"""Precision -> that of the file behind it: ONNX convolves bfloat16 from operator set 22 on, which few programs read."""


@dataclass(frozen=True)
class Network:
    """What is deployed.

    Attributes:
        architecture: its operators.
        weights: state dict of `LGCNet`; random ones if None.
        scope: one of `plan.EXPORT_SCOPES`.
        classes: names of its classes, where they are known.
        table: fingerprint of the latencies that it was found or is predicted by, where there is a table.
        images: RGB images of the network's size, from which int8 takes its ranges; [H, W, 3] each.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor] | None
    scope: str
    classes: tuple[str, ...] | None = None
    table: str | None = None
    images: tuple[RGBImage, ...] = field(default=(), repr=False)
    _written: dict[tuple[str, str], bytes] = field(default_factory=dict, repr=False, compare=False)

    def model(self, precision: str = "fp32", scope: str | None = None) -> bytes:
        """The network as a serialised ONNX model: norms folded, simplified, with its metadata; made once.

        Args:
            precision: of `FILES`. Inputs and outputs are float32 in each, or bytes in scope end-to-end.
            scope: its own if None.

        Raises:
            UsageError: int8 without images.
        """
        where = (precision, scope or self.scope)
        if where not in self._written:
            self._written[where] = self._made(*where)
        return self._written[where]

    def _made(self, precision: str, scope: str) -> bytes:
        from ...models.onnx.export import replace_metadata, simplify
        from ..backends.precision import cast_model
        from .quantization import quantize

        if precision == "fp32":
            exported = network_workload(self.architecture, scope, self.weights).onnx
            return replace_metadata(simplify(exported), self._notes(scope, precision))
        plain = self.model("fp32", scope)
        if precision == INT8:
            if not self.images:
                raise UsageError("int8 takes its ranges from images: name some with --data DIR")
            converted = quantize(plain, self.inputs(scope), self.stem)
        else:
            converted = cast_model(plain, precision)
        return replace_metadata(converted, self._notes(scope, precision))

    def _notes(self, scope: str, precision: str) -> dict[str, str]:
        from ... import __version__

        space = self.architecture.space
        notes = {
            "lgc_version": __version__,
            ARCHITECTURE_KEY: self.architecture.to_json(),
            "space": f"{space.name} {space.fingerprint}",
            SCOPE_KEY: scope,
            "precision": precision,
            "weights": "random" if self.weights is None else "trained",
        }
        if self.table is not None:
            notes[TABLE_KEY] = self.table
        if self.classes is not None:
            notes[CLASSES_KEY] = json.dumps(self.classes)
        return notes

    def inputs(self, scope: str | None = None) -> list[NDArray[Any]]:
        """The images as the network takes them in a scope."""
        if (scope or self.scope) == END_TO_END:
            return [image[None] for image in self.images]
        return [normalise_image(image)[None] for image in self.images]

    def workload(self, scope: str | None = None, precision: str = "fp32") -> Workload:
        """The network as it is written, to be run in its own scope or in another.

        Backends convert to fp16 and bf16 themselves, each in its own way; int8 is in the model.
        """
        scope = scope or self.scope
        plain = network_workload(self.architecture, scope, self.weights)
        if precision == INT8:
            return Workload(plain.name, plain.input_shapes, None, plain.dtype, self.model(INT8, scope))
        return replace(plain, export=partial(self.model, "fp32", scope))

    def reference(self, scope: str | None = None) -> nn.Module:
        """The network as it was trained and scored: torch, evaluation mode, nothing folded."""
        return network_module(self.architecture, scope or self.scope, self.weights)

    @property
    def stem(self) -> str:
        """What its files are called: space, input size, eight digits of the architecture's own, scope."""
        height, width = self.architecture.space.input
        digits = hashlib.sha256(network_key(self.architecture, self.scope).encode()).hexdigest()[:8]
        return f"{self.architecture.space.name}-{height}x{width}-{digits}-{self.scope}"


def write_onnx(network: Network, folder: Path, precision: str = "fp32") -> Path:
    """Write the network's ONNX file, the one that is timed.

    Raises:
        UsageError: int8 without images.
        OutputError: `folder` cannot be written.
    """
    name = network.stem if precision == "fp32" else f"{network.stem}-{precision}"
    path = ensure_folder(folder) / f"{name}.onnx"
    write_atomic(path, network.model(precision))
    return path
