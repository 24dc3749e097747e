"""Inputs and outputs of an ONNX graph as names, shapes and types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import FileFormatError
from .signature import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT_DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""Types of inputs that can be generated and bound."""


def is_static(values: Iterable[Any]) -> bool:
    """Return True if all inputs or outputs have a type and a shape without dynamic axes."""
    kinds = [value.type.tensor_type for value in values]
    return all(
        kind.elem_type and kind.HasField("shape") and all(axis.HasField("dim_value") for axis in kind.shape.dim)
        for kind in kinds
    )


def read_tensors(values: Iterable[Any], where: str) -> tuple[TensorSpec, ...]:
    """Return name, shape and type of inputs or outputs with static shapes.

    Raises:
        FileFormatError: A tensor is empty or has an unknown element type.
    """
    return tuple(_read_tensor(value, where) for value in values)


def read_inputs(values: Iterable[Any], where: str) -> tuple[TensorSpec, ...]:
    """Return `read_tensors` of inputs.

    Raises:
        FileFormatError: An input is empty, or has a type without random values, such as text.
    """
    inputs = read_tensors(values, where)
    for tensor in inputs:
        if tensor.dtype not in INPUT_DTYPES:
            raise FileFormatError(
                f"{where}: input {tensor} has an unsupported type, not one of {', '.join(INPUT_DTYPES)}"
            )
    return inputs


def _read_tensor(value: Any, where: str) -> TensorSpec:
    from onnx import helper

    kind = value.type.tensor_type
    shape = tuple(axis.dim_value for axis in kind.shape.dim)
    if 0 in shape:
        raise FileFormatError(f"{where}: {value.name} is empty: its shape is {'x'.join(map(str, shape))}")
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"{where}: {value.name} has unknown element type {kind.elem_type}") from error
    return TensorSpec(value.name, shape, "string" if dtype.hasobject else str(dtype.name))


def is_parameter(shape: Sequence[Any], dtype: str) -> bool:
    """Return True for an input of integers of at most one axis, such as a size, whose values matter."""
    return dtype in ("int32", "int64") and len(shape) <= 1


def generate_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return random values: standard normal, bytes from 0 to 255, other integers and booleans 0 or 1."""
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
    return rng.integers(0, 2, shape).astype(dtype)
