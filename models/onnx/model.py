"""ONNX files: reading, validation, signature and costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import FileFormatError
from ...files import BINARY, describe
from .counting.arithmetic import find_arithmetic
from .counting.costs import OnnxCosts, count_costs
from .graphs import RawModel
from .reading.binding import bind_inputs
from .reading.checking import infer_shapes, normalise_graph
from .reading.external_data import MAX_MODEL_BYTES, embed_external_data
from .reading.outputs import cut_to_output, require_tensors
from .signature import Signature, TensorSpec, count_images, describe_outputs
from .tensors import is_parameter, read_inputs, read_tensors

__all__ = ["OnnxModel", "TensorSpec"]

UNKNOWN_KIND = "not an ONNX model"
"""Kind of content that is not a file."""
_ORT_FORMAT = b"ORTM"
"""Identifier at byte 4 of a file in ONNX Runtime's own format."""


@dataclass(frozen=True)
class OnnxModel(Signature):
    """Valid ONNX model with static shapes and embedded weights.

    Attributes:
        data: Content of the file.
        opset: Version of the standard operator set.
        operators: Distinct operator names in the order of first use.
        precision: `int8` if quantised, else `fp32`, `fp16` or `bf16`, in which most multiply-accumulates are computed.
        quantisation: `QDQ`, `QOperator`, `dynamic`, or None if not quantised.
        remarks: What was bound, chosen or assumed, as sentences without a full stop.
        skeleton: Decoded model with the shapes of all tensors, without the values of large weights; not to be changed.
    """

    data: bytes = field(repr=False)
    opset: int
    operators: tuple[str, ...]
    precision: str
    quantisation: str | None
    remarks: tuple[str, ...]
    skeleton: Any = field(repr=False, compare=False)

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
            FileFormatError: The file is missing, broken or not an ONNX model; a file of its weights is missing, short
                or outside the folder; the shapes are dynamic without `input_size`, or fixed at another size.
            UnknownNameError: No tensor has the name `output`.
            UsageError: The layout of the image is unknown, or contradicts its shape.
        """
        data = _read_bytes(path)
        raw = RawModel(_decode(data, str(path), describe(path)), str(path))
        embed_external_data(raw, path)
        return cls._finish(raw, data, input_size, output, layout)

    @classmethod
    def parse(cls, data: bytes, where: str, kind: str = UNKNOWN_KIND) -> OnnxModel:
        """Return the content of a file as a model, as `load` does.

        Args:
            data: Content of the file.
            where: Origin of the content, for error messages.
            kind: Guessed file type, for error messages.

        Raises:
            FileFormatError: The content is not an ONNX model with static shapes and embedded weights.
        """
        raw = RawModel(_decode(data, where, kind), where)
        embed_external_data(raw, None)
        return cls._finish(raw, data, None, None, None)

    @classmethod
    def _finish(
        cls, raw: RawModel, data: bytes, input_size: tuple[int, int] | None, output: str | None, layout: str | None
    ) -> OnnxModel:
        """Return a decoded model, cut to an output and with its inputs bound; see `load`."""
        normalise_graph(raw)
        if output is not None:
            cut_to_output(raw, output)
        require_tensors(raw)
        bind_inputs(raw, input_size, layout)
        inferred = infer_shapes(raw)
        graph, where = raw.model.graph, raw.where
        inputs, outputs = read_inputs(graph.input, where), read_tensors(graph.output, where)
        if not inputs or not outputs:
            raise FileFormatError(f"{where}: needs inputs and outputs, has {len(inputs)} and {len(outputs)}")
        precision, quantisation = find_arithmetic(raw, inferred)
        if (batch := count_images(inputs)) > 1:
            raw.remarks.append(f"batch of {batch} images: latency and MACs are those of the batch")
        for tensor in inputs:
            if is_parameter(tensor.shape, tensor.dtype):
                raw.remarks.append(
                    f"input {tensor} gets random 0 and 1: if it is a size, make it a constant of the model"
                )
        if len(outputs) > 1:
            raw.remarks.append(f"computes all {len(outputs)} outputs: {describe_outputs(outputs)}")
        return cls(
            where,
            inputs,
            outputs,
            _list_metadata(raw.model),
            bytes(raw.model.SerializeToString()) if raw.changed else data,
            {entry.domain: entry.version for entry in raw.model.opset_import}.get("", 0),
            tuple(dict.fromkeys(node.op_type for node in graph.node)),
            precision,
            quantisation,
            tuple(raw.remarks),
            inferred,
        )

    @property
    def batch(self) -> int:
        """Number of images that a run computes."""
        return count_images(self.inputs)

    @property
    def is_quantised(self) -> bool:
        """True if the model quantises values to integers."""
        return self.quantisation is not None

    @cached_property
    def costs(self) -> OnnxCosts:
        """Parameters and multiply-accumulates of the graph."""
        return count_costs(self.data, self.skeleton)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file without a check of its graph and its weights.

    Raises:
        FileFormatError: The file is missing, broken or not an ONNX model.
    """
    return _list_metadata(_decode(_read_bytes(path), str(path), describe(path)))


def _list_metadata(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileFormatError: The file is missing, unreadable or too large.
    """
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise FileFormatError(f"{path} exceeds 2 GB, the limit of an ONNX file: save its weights to another file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileFormatError(f"no such file: {path}") from error
    except OSError as error:
        raise FileFormatError(f"cannot read ONNX model {path}: it is {describe(path)}") from error


def _decode(data: bytes, where: str, kind: str) -> Any:
    """Return the decoded content of a file.

    Raises:
        FileFormatError: The content is not an ONNX model, or has no operators.
    """
    import onnx

    if data[4:8] == _ORT_FORMAT:
        raise FileFormatError(
            f"cannot read ONNX model {where}: it is in ONNX Runtime's own format (.ort): use the ONNX file it was "
            "converted from"
        )
    try:
        model = onnx.load_model_from_string(data)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's DecodeError, which carries no type stubs
        truncated = ", or truncated" if kind in (BINARY, UNKNOWN_KIND) else ""
        raise FileFormatError(f"cannot read ONNX model {where}: it is {kind}{truncated}") from error
    if not model.graph.node:
        raise FileFormatError(f"cannot read ONNX model {where}: it is {kind}, no operators in it")
    return model
