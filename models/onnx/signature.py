"""What a network in a file takes, gives and says of itself: the same for ONNX models and for engines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from ...errors import FileFormatError, LgcError
from ..space.lgcnet import Architecture
from ..space.plan import CORE, DENSE, END_TO_END, EXPORT_SCOPES

ARCHITECTURE_KEY, SCOPE_KEY, TABLE_KEY, CLASSES_KEY = "architecture", "scope", "table", "classes"
"""Metadata that our own files carry."""

INPUT_TYPES = ("float32", "uint8")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, its shape, and its type as numpy names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Signature:
    """A network as it is seen from outside.

    Attributes:
        where: the file's path, or what else names it in messages.
        inputs: tensors that it takes, weights not among them.
        outputs: tensors that it gives.
        metadata: its properties.
    """

    where: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]

    @property
    def dtype(self) -> str:
        """The type of its inputs.

        Raises:
            FileFormatError: they are not of one type, or of one that no image has.
        """
        found = {tensor.dtype for tensor in self.inputs}
        if len(found) > 1 or not found <= set(INPUT_TYPES):
            told = ", ".join(map(str, self.inputs))
            raise FileFormatError(f"{self.where} takes {told}; inputs have to be all float32, or all uint8")
        return found.pop()

    @property
    def scope(self) -> str:
        """The scope that one of our files says it is of; of others, the one that what they take and give tells."""
        named = self.metadata.get(SCOPE_KEY)
        if named in EXPORT_SCOPES:
            return str(named)
        if self.outputs[0].dtype.startswith("float"):
            return CORE
        return DENSE if self.dtype == "float32" else END_TO_END

    @property
    def classes(self) -> int | None:
        """Classes that it tells apart; None where neither an architecture inside nor the output says."""
        if self.architecture is not None:
            return self.architecture.space.classes
        shape = self.outputs[0].shape
        return shape[1] if len(shape) == 4 and shape[1] > 1 else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of its classes, in the order of their numbers; None where it does not say.

        Raises:
            FileFormatError: it does, but damaged.
        """
        try:
            told = json.loads(self.metadata.get(CLASSES_KEY, "null"))
        except ValueError:
            told = ()
        if told is None:
            return None
        if not told or not isinstance(told, list) or not all(isinstance(name, str) for name in told):
            raise FileFormatError(f"{self.where}: its `{CLASSES_KEY}` are no JSON list of names; export it again")
        return tuple(told)

    @cached_property
    def architecture(self) -> Architecture | None:
        """The architecture inside one of our files; None in others.

        Raises:
            FileFormatError: there is one, but damaged.
        """
        text = self.metadata.get(ARCHITECTURE_KEY)
        if text is None:
            return None
        try:
            return Architecture.parse(text, f"the architecture in {self.where}")
        except LgcError as error:
            raise FileFormatError(str(error)) from error

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image that it takes.

        Raises:
            FileFormatError: its input is no single image, [1, 3, H, W] float32 or [1, H, W, 3] uint8.
        """
        if len(self.inputs) == 1:
            match self.inputs[0].shape, self.dtype:
                case (1, 3, int(height), int(width)), "float32":
                    return height, width
                case (1, int(height), int(width), 3), "uint8":
                    return height, width
        told = ", ".join(map(str, self.inputs))
        raise FileFormatError(
            f"{self.where} takes {told}, no image: float32 1x3xHxW (normalised), or uint8 1xHxWx3 (RGB bytes)"
        )
