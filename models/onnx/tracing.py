"""Check for decisions that depend on the values of tensors, of which a trace keeps one case."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ...errors import LgcError, PluginError
from ...plugins import describe_error, locate_error


def run_on_meta(
    module: nn.Module,
    input_shapes: Sequence[tuple[int, ...]],
    dtype: str = "float32",
    recorder: AbstractContextManager[Any] | None = None,
) -> Any:
    """Run a copy of a module in evaluation mode on meta tensors, and return its output: shapes, no values.

    Args:
        module: Module whose inputs have the same type; it stays unchanged.
        input_shapes: Shape of each input.
        dtype: Type of the inputs, in torch's notation.
        recorder: Context of the run, inputs included, e.g. a `TorchDispatchMode`.

    Raises:
        PluginError: The module decides by the values of a tensor, keeps a tensor on another device, or fails. The
            message has the line.
    """
    copied = copy.deepcopy(module).eval().to("meta")
    try:
        with torch.no_grad(), torch.device("meta"), recorder or nullcontext():
            return copied(*(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape in input_shapes))
    except LgcError:
        raise
    except Exception as error:
        raise PluginError(_explain_failure(error)) from error


def _explain_failure(error: Exception) -> str:
    text = str(error)
    if "on meta tensors" in text or "data-independent" in text:
        return (
            f"{locate_error(error)}: values of a tensor decide what is computed, but a trace keeps one case only: "
            f"use torch.where, or decide by shapes"
        )
    if "is not on the expected device" in text or "on the same device" in text:
        return f"{locate_error(error)}: a tensor is not moved with the module: register it with register_buffer"
    return describe_error(error)
