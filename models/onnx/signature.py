"""Signature of a network in a file, ONNX model or engine: inputs, outputs, metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from ...errors import FileFormatError, MissingOperatorError
from ..space.protocol import CORE, DENSE, END_TO_END, EXPORT_SCOPES, Architecture

ARCHITECTURE_KEY, SCOPE_KEY, TABLE_KEY, CLASSES_KEY = "architecture", "scope", "table", "classes"
"""Metadata keys of files that lgc exports."""

INPUT_TYPES = ("float32", "uint8")


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and NumPy type name of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and metadata of a network.

    Attributes:
        where: Path of the file, or another name for messages.
        inputs: Input tensors without weights.
        outputs: Output tensors.
        metadata: Properties of the file.
    """

    where: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]

    @property
    def dtype(self) -> str:
        """Common type of the inputs.

        Raises:
            FileFormatError: The inputs differ in type, or have a type that images do not have.
        """
        types = {tensor.dtype for tensor in self.inputs}
        if len(types) > 1 or not types <= set(INPUT_TYPES):
            inputs = ", ".join(map(str, self.inputs))
            raise FileFormatError(f"{self.where}: inputs must be all float32 or all uint8, got {inputs}")
        return types.pop()

    @property
    def scope(self) -> str:
        """Scope in the metadata of our files; for others, inferred from the types of input and output."""
        named = self.metadata.get(SCOPE_KEY)
        if named in EXPORT_SCOPES:
            return str(named)
        if self.outputs[0].dtype.startswith("float"):
            return CORE
        return DENSE if self.dtype == "float32" else END_TO_END

    @property
    def classes(self) -> int | None:
        """Number of classes from the embedded architecture, else from the output's shape; None if unknown."""
        if self.architecture is not None:
            return self.architecture.space.classes
        shape = self.outputs[0].shape
        return shape[1] if len(shape) == 4 and shape[1] > 1 else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their indices; None if the metadata lacks them.

        Raises:
            FileFormatError: The metadata is damaged.
        """
        try:
            names = json.loads(self.metadata.get(CLASSES_KEY, "null"))
        except ValueError:
            names = ()
        if names is None:
            return None
        if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FileFormatError(
                f"{self.where}: metadata `{CLASSES_KEY}` must be a JSON list of names: export the file again"
            )
        return tuple(names)

    @cached_property
    def architecture(self) -> Architecture | None:
        """Architecture embedded in a file that lgc exported; None in others, and with operators not registered here.

        Raises:
            FileFormatError: The embedded architecture is damaged.
        """
        text = self.metadata.get(ARCHITECTURE_KEY)
        if text is None:
            return None
        try:
            return Architecture.parse(text, f"{self.where}, metadata `{ARCHITECTURE_KEY}`")
        except MissingOperatorError:  # a file needs no plugin
            return None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input image.

        Raises:
            FileFormatError: The input is not a single image, [1, 3, H, W] float32 or [1, H, W, 3] uint8.
        """
        if len(self.inputs) == 1:
            match self.inputs[0].shape, self.dtype:
                case (1, 3, int(height), int(width)), "float32":
                    return height, width
                case (1, int(height), int(width), 3), "uint8":
                    return height, width
        inputs = ", ".join(map(str, self.inputs))
        raise FileFormatError(
            f"{self.where}: input must be one image, float32 1x3xHxW (normalised) or uint8 1xHxWx3 (RGB bytes), "
            f"got {inputs}"
        )
