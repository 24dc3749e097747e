"""ONNX files as they come in: read, checked once, with what they take, give and say of themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, LgcError
from ..files import describe
from .architecture import Architecture
from .onnx_costs import OnnxCosts, costs_of

ARCHITECTURE_KEY, SCOPE_KEY, TABLE_KEY = "architecture", "scope", "table"
CLASSES_KEY, PALETTE_KEY = "classes", "palette"
"""Metadata that our own files carry."""

INPUT_TYPES = ("float32", "uint8")


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, its shape, and its type as numpy names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class OnnxModel:
    """A valid ONNX model of static shapes with its weights inside.

    Attributes:
        data: the file's bytes.
        where: the file's path, or what else names it in messages.
        inputs: tensors that it takes, weights not among them.
        outputs: tensors that it gives.
        opset: version of the standard operator set.
        metadata: its properties.
        operators: names of the operators it uses, each once.
    """

    data: bytes = field(repr=False)
    where: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    metadata: dict[str, str]
    operators: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> OnnxModel:
        """Read and check a file.

        Raises:
            FileFormatError: it is missing, broken, no ONNX model, or of dynamic shapes; the message says which.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FileFormatError(f"{path} is no ONNX model but {describe(path)}") from error
        return cls.parse(data, str(path), describe(path))

    @classmethod
    def parse(cls, data: bytes, where: str, kind: str = "something else") -> OnnxModel:
        """Check the bytes of a file; `where` names it, and `kind` says what it seems to be, in errors.

        Raises:
            FileFormatError: they are no ONNX model of static shapes.
        """
        import onnx

        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's DecodeError, which carries no type stubs
            raise FileFormatError(f"{where} is no ONNX model but {kind}, or one that breaks off") from error
        if not model.graph.node:
            raise FileFormatError(f"{where} is no ONNX model but {kind}: it holds no operators")
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise FileFormatError(f"{where} keeps its weights in other files: write them into the model")
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = tuple(_tensor(value, where) for value in model.graph.input if value.name not in weights)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # the checker's and the inference's own errors share no base
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FileFormatError(f"{where} is no valid ONNX model: {first}") from error
        outputs = tuple(_tensor(value, where) for value in model.graph.output)
        if not inputs or not outputs:
            raise FileFormatError(f"{where} has {len(inputs)} inputs and {len(outputs)} outputs: nothing to run")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        operators = tuple(dict.fromkeys(node.op_type for node in model.graph.node))
        return cls(data, where, inputs, outputs, opsets.get("", 0), metadata, operators)

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
    def scope(self) -> str | None:
        """The scope that one of our files is of; None in others."""
        return self.metadata.get(SCOPE_KEY)

    @property
    def is_quantised(self) -> bool:
        """Whether values are rounded to integers somewhere (Q/DQ)."""
        return "QuantizeLinear" in self.operators

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

    @cached_property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates, counted in the graph."""
        return costs_of(self.data)

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


def _tensor(value: Any, where: str) -> Tensor:
    """An input or output of static shape."""
    from onnx import helper

    if not value.type.HasField("tensor_type"):
        raise FileFormatError(f"{where}: {value.name} is no tensor")
    kind = value.type.tensor_type
    sizes = [entry.dim_value if entry.HasField("dim_value") else -1 for entry in kind.shape.dim]
    if any(size < 1 for size in sizes):
        named = [entry.dim_param or (entry.dim_value if entry.dim_value > 0 else "?") for entry in kind.shape.dim]
        raise FileFormatError(
            f"{where} has a dynamic shape: {value.name} is {json.dumps(named)}; export it with every size fixed"
        )
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"{where}: {value.name} is of a type that is unknown here ({kind.elem_type})") from error
    return Tensor(value.name, tuple(sizes), dtype)
