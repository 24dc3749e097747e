"""ONNX files: reading, validation, signature and costs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import FileFormatError
from ...files import describe
from .costs import OnnxCosts, count_costs
from .signature import Signature, TensorSpec

__all__ = ["OnnxModel", "TensorSpec"]


@dataclass(frozen=True)
class OnnxModel(Signature):
    """Valid ONNX model with static shapes and embedded weights.

    Attributes:
        data: Content of the file.
        opset: Version of the standard operator set.
        operators: Distinct operator names in the order of first use.
        precision: `int8` if quantised, else `fp16` or `bf16` if any weight has that type, else `fp32`.
        remarks: What was bound, chosen or assumed, as sentences without a full stop.
    """

    data: bytes = field(repr=False)
    opset: int
    operators: tuple[str, ...]
    precision: str
    remarks: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        input_size: tuple[int, int] | None = None,
        output: str | None = None,
        layout: str | None = None,
    ) -> OnnxModel:
        """Read a file as a self-contained model with static shapes.

        Args:
            path: ONNX file; its weights may be in other files of the same folder.
            input_size: Height and width in pixels that dynamic axes of the image are bound to.
            output: Name of the output to keep; None to keep all.
            layout: `NCHW` or `NHWC` of the image; None to infer it.

        Raises:
            FileFormatError: The file is missing, broken or not an ONNX model, or has dynamic shapes.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise FileFormatError(f"no such file: {path}") from error
        except OSError as error:
            raise FileFormatError(f"cannot read ONNX model {path}: it is {describe(path)}") from error
        return cls.parse(data, str(path), describe(path))

    @classmethod
    def parse(cls, data: bytes, where: str, kind: str = "not an ONNX model") -> OnnxModel:
        """Check the content of a file.

        Args:
            data: Content of the file.
            where: Origin of the content, for error messages.
            kind: Guessed file type, for error messages.

        Raises:
            FileFormatError: The content is not an ONNX model with static shapes and embedded weights.
        """
        import onnx

        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's DecodeError, which carries no type stubs
            raise FileFormatError(f"cannot read ONNX model {where}: it is {kind}, or truncated") from error
        if not model.graph.node:
            raise FileFormatError(f"cannot read ONNX model {where}: it is {kind}, no operators in it")
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise FileFormatError(f"{where}: weights in external files are not supported: embed them in the model")
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = tuple(_tensor(value, where) for value in model.graph.input if value.name not in weights)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # the errors of checker and shape inference share no base class
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FileFormatError(f"{where}: invalid ONNX model: {first}") from error
        outputs = tuple(_tensor(value, where) for value in model.graph.output)
        if not inputs or not outputs:
            raise FileFormatError(f"{where}: needs inputs and outputs, has {len(inputs)} and {len(outputs)}")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        operators = tuple(dict.fromkeys(node.op_type for node in model.graph.node))
        precision = _precision(model.graph, operators)
        return cls(where, inputs, outputs, metadata, data, opsets.get("", 0), operators, precision)

    @property
    def is_quantised(self) -> bool:
        """True if the model quantises values to integers (Q/DQ)."""
        return self.precision == "int8"

    @cached_property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates of the graph."""
        return count_costs(self.data)


def _precision(graph: Any, operators: tuple[str, ...]) -> str:
    """Return the precision of a graph, see `OnnxModel.precision`."""
    from onnx import TensorProto

    if "QuantizeLinear" in operators:
        return "int8"
    types = {tensor.data_type for tensor in graph.initializer}
    low = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    return next((name for kind, name in low.items() if kind in types), "fp32")


def _tensor(value: Any, where: str) -> TensorSpec:
    """Return the name, shape and type of an input or output with static shape."""
    from onnx import helper

    if not value.type.HasField("tensor_type"):
        raise FileFormatError(f"{where}: {value.name} must be a tensor")
    kind = value.type.tensor_type
    sizes = [entry.dim_value if entry.HasField("dim_value") else -1 for entry in kind.shape.dim]
    if any(size < 1 for size in sizes):
        named = [entry.dim_param or (entry.dim_value if entry.dim_value > 0 else "?") for entry in kind.shape.dim]
        raise FileFormatError(
            f"{where}: {value.name} has a dynamic shape {json.dumps(named)}: export the model with fixed sizes"
        )
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"{where}: {value.name} has unknown element type {kind.elem_type}") from error
    return TensorSpec(value.name, tuple(sizes), dtype)
