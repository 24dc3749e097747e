"""Export of modules of the user's: values that tracing would freeze are found, and exporter errors explained."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import LgcError, PluginError
from ...plugins import describe_error
from .export import to_onnx

_OWN_FOLDERS = (str(Path(torch.__file__).parent), __file__)
"""Sources of frames that do not belong to the user's module."""
_TOLERANCE = 1e-4
"""Largest difference between two runs on the same image."""


class _ValueReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records where Python code reads the value of a tensor, as in `if x.mean() > 0:` or `float(x.max())`.

    Shapes are plain integers here, so that only values of tensors count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: list[tuple[str, object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads.append((_find_line(), out))
        return out


def _find_line() -> str:
    """Return file, number and text of the innermost line of the user's code."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_OWN_FOLDERS):
            text = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{frame.filename}, line {frame.lineno}, `{text}`"
    return "an unknown line"


def export_checked(module: nn.Module, shape: tuple[int, ...], dtype: str, name: str) -> bytes:
    """Export a module of the user's as `to_onnx` does, after a check that tracing does not freeze values of the image.

    Args:
        module: Module of one input, in evaluation mode.
        shape: Shape of the input.
        dtype: Type of the input, in torch's notation.
        name: Name of the module in messages.

    Raises:
        PluginError: Python code depends on the values of the image, outputs are random, or an operator has no ONNX
            form.
    """
    require_traceable(module, _make_inputs(shape, dtype), name)
    try:
        return to_onnx(module, [shape], dtype)
    except LgcError:
        raise
    except Exception as error:  # the exporter and the checker raise errors of many classes
        message = " ".join(str(error).split())[:300]
        place = describe_error(error).rpartition(" (")[2]
        source = f" ({place}" if ".py, line" in place and "site-packages" not in place else ""
        raise PluginError(f"{name} cannot be exported to ONNX: {message}{source}") from error


def _make_inputs(shape: tuple[int, ...], dtype: str) -> list[Tensor]:
    """Return a random input, its negative, its absolute values and zeros."""
    generator = torch.Generator().manual_seed(0)
    if dtype == "uint8":
        image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return [image, 255 - image, image // 2 + 128, torch.zeros_like(image)]
    image = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    return [image, -image, image.abs(), torch.zeros_like(image)]


@torch.no_grad()
def require_traceable(module: nn.Module, inputs: Sequence[Tensor], name: str) -> None:
    """Check on several inputs that no value which Python code reads depends on them, and that outputs are repeatable.

    Raises:
        PluginError: A value differs between inputs, and the message has its line; or two outputs for one input differ.
    """
    first: list[tuple[str, object]] | None = None
    for image in inputs:
        with _ValueReads() as mode:
            output = module(image)
        if first is None:
            first, expected = mode.reads, output
            continue
        for (line, value), (other_line, other_value) in zip(first, mode.reads, strict=False):
            if line == other_line and value != other_value and value == value:
                raise _frozen_value_error(name, line)
        if len(first) != len(mode.reads):
            line = (first + mode.reads)[min(len(first), len(mode.reads)) - 1][0]
            raise _frozen_value_error(name, line)
    if not torch.allclose(module(inputs[0]).float(), expected.float(), atol=_TOLERANCE):
        raise PluginError(
            f"{name} returns different outputs for the same image in evaluation mode: make dropout and other random "
            f"layers depend on self.training"
        )


def _frozen_value_error(name: str, line: str) -> PluginError:
    return PluginError(
        f"{name} cannot be exported: {line} depends on the values of the image, and the exported network would keep "
        f"one result for all images; use operations on tensors, e.g. torch.where"
    )
