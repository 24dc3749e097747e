"""Export of modules of the user's: Python code that tracing would freeze is refused, exporter errors are explained."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import LgcError, PluginError
from ...plugins import describe_error
from .export import to_onnx

_OWN_SOURCES = (str(Path(torch.__file__).parent), __file__)
"""Sources of frames that do not belong to the user's module."""
_TOLERANCE = 1e-4
"""Largest difference between two runs on the same image."""


_MARK = "_lgc_from_image"
"""Attribute of tensors that were computed from the image."""
_READERS = ("numpy", "tolist", "__array__")
"""Methods that read the values of a whole tensor."""


def _is_marked(value: object) -> bool:
    return isinstance(value, Tensor) and hasattr(value, _MARK)


class _ImageMarks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks every tensor computed from a marked one, and refuses to read one as a number, as `if x.mean() > 0:` does.

    Shapes are plain integers here, so that only values of tensors count.
    """

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        if any(map(_is_marked, leaves)):
            if func is torch.ops.aten._local_scalar_dense.default:
                _refuse_read(self.name)
            for value in tree_leaves(out):
                if isinstance(value, Tensor):
                    setattr(value, _MARK, True)
        return out


class _ArrayReads(TorchFunctionMode):
    """Refuses to read a marked tensor as an array or a list, which `_ImageMarks` does not see."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _READERS and any(map(_is_marked, args)):
            _refuse_read(self.name)
        return func(*args, **(kwargs or {}))


def _refuse_read(name: str) -> None:
    """Raise an error with the innermost line of the user's code; an assertion leaves nothing in the graph, so passes.

    Raises:
        PluginError: The line is not an assertion.
    """
    place = "an unknown line"
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_OWN_SOURCES):
            text = linecache.getline(frame.filename, frame.lineno or 0).strip()
            if text.startswith("assert "):
                return
            place = f"{frame.filename}, line {frame.lineno}, `{text}`"
            break
    raise PluginError(
        f"{name} cannot be exported: {place} reads values of the image, and the exported network would keep "
        f"those of one image; use operations on tensors, e.g. torch.where"
    )


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
    require_traceable(module, _make_image(shape, dtype), name)
    try:
        return to_onnx(module, [shape], dtype)
    except LgcError:
        raise
    except Exception as error:  # the exporter and the checker raise errors of many classes
        message = " ".join(str(error).split())[:300]
        place = describe_error(error).rpartition(" (")[2]
        source = f" ({place}" if ".py, line" in place and "site-packages" not in place else ""
        raise PluginError(f"{name} cannot be exported to ONNX: {message}{source}") from error


def _make_image(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return a random input, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    if dtype == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator).to(getattr(torch, dtype))


@torch.no_grad()
def require_traceable(module: nn.Module, image: Tensor, name: str) -> None:
    """Check that Python code of a module reads no values of the image, and that its output is repeatable.

    Raises:
        PluginError: It does, and the message has the line; or two outputs differ.
    """
    marked = image.clone()
    setattr(marked, _MARK, True)
    with _ArrayReads(name), _ImageMarks(name):
        output = module(marked)
    if not torch.allclose(module(image).float(), output.float(), atol=_TOLERANCE):
        raise PluginError(
            f"{name} returns different outputs for the same image in evaluation mode: make dropout and other random "
            f"layers depend on self.training"
        )
