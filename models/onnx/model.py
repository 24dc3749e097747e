"""ONNX files as they come in: read, checked once, with what they take, give and say of themselves."""

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
    """A valid ONNX model of static shapes with its weights inside.

    Attributes:
        data: the file's bytes.
        opset: version of the standard operator set.
        operators: names of the operators it uses, each once.
        precision: what it computes in: `int8` where it is quantised, else the type of its weights, `fp32`, `fp16` or
            `bf16`; not fp32 where that is mixed with another.
    """

    data: bytes = field(repr=False)
    opset: int
    operators: tuple[str, ...]
    precision: str

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
        precision = _precision(model.graph, operators)
        return cls(where, inputs, outputs, metadata, data, opsets.get("", 0), operators, precision)

    @property
    def is_quantised(self) -> bool:
        """Whether values are rounded to integers somewhere (Q/DQ)."""
        return self.precision == "int8"

    @cached_property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates, counted in the graph."""
        return count_costs(self.data)


def _precision(graph: Any, operators: tuple[str, ...]) -> str:
    """What a graph computes in."""
    from onnx import TensorProto

    if "QuantizeLinear" in operators:
        return "int8"
    types = {tensor.data_type for tensor in graph.initializer}
    low = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    return next((name for kind, name in low.items() if kind in types), "fp32")


def _tensor(value: Any, where: str) -> TensorSpec:
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
    return TensorSpec(value.name, tuple(sizes), dtype)
