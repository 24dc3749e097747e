"""Checks for decisions that depend on the values of tensors, of which a trace keeps one case."""

from __future__ import annotations

import copy
import linecache
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ...errors import LgcError, PluginError
from ...plugins import describe_error, locate_error

DRAWS_NUMBERS = "draws random numbers in evaluation mode: use self.training"
"""Part of the message of an error for a module whose output is random."""
CHANGES_INPUT = (
    "changes its input in place, which other readers of the input would see: use x = x - y for x -= y, and "
    "inplace=False on the input"
)
"""Part of the message of an error for such a module."""
_TORCH_NAMESPACES = ("aten", "prim", "prims")
"""Namespaces of the operations of torch itself, whose products it counts."""
_TORCH_FOLDER = str(Path(torch.__file__).parent)
_TOLERANCE = 1e-4
"""Largest difference between two runs on the same input."""


def run_on_meta(
    module: nn.Module,
    input_shapes: Sequence[tuple[int, ...]],
    dtype: str = "float32",
    recorder: AbstractContextManager[Any] | None = None,
    *,
    copied: bool = False,
) -> Any:
    """Run a copy of a module in evaluation mode on meta tensors, and return its output: shapes, no values.

    Args:
        module: Module whose inputs have the same type; it stays unchanged.
        input_shapes: Shape of each input.
        dtype: Type of the inputs, in torch's notation.
        recorder: Context of the run, inputs included, e.g. a `TorchDispatchMode`.
        copied: The module is such a copy already: run it, not another copy.

    Raises:
        PluginError: The module decides by the values of a tensor, keeps a tensor on another device, changes its input,
            has a compiled part, or fails. The message has the line.
    """
    try:
        if not copied:
            module = copy_to_meta(module)
        with torch.no_grad(), torch.device("meta"), recorder or nullcontext():
            inputs = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape in input_shapes]
            versions = [value._version for value in inputs]
            output = module(*inputs)
        if [value._version for value in inputs] != versions:
            raise PluginError(f"it {CHANGES_INPUT}")
        return output
    except LgcError:
        raise
    except Exception as error:
        raise PluginError(_explain_failure(error)) from error


def copy_to_meta(module: nn.Module) -> nn.Module:
    """Return a copy of a module in evaluation mode on the meta device.

    Raises:
        PluginError: A part is TorchScript, whose weights cannot be moved to that device.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise PluginError(
                f"{f'its module {name}' if name else 'it'} is TorchScript, which does not run without values: return "
                "the plain module, without torch.jit.script or torch.jit.trace"
            )
    return copy.deepcopy(module).eval().to("meta")


def count_products(module: nn.Module, input_shapes: Sequence[tuple[int, ...]]) -> int:
    """Count the multiply-accumulates of a module's convolutions and matrix products in a run on meta tensors.

    Raises:
        PluginError: See `run_on_meta`.
        UncountedError: It has operations of another package, which torch cannot count.
    """
    counter, names = FlopCounterMode(display=False), _UncountedOperations()
    with names:
        run_on_meta(module, input_shapes, recorder=counter)
    if names.names:
        raise UncountedError(
            f"torch cannot count the products of {', '.join(names.names)}: register their number with "
            "torch.utils.flop_counter.register_flop_formula"
        )
    return counter.get_total_flops() // 2


class UncountedError(PluginError):
    """A module has operations whose products torch cannot count."""


class _UncountedOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of the operations that are neither torch's own nor in its registry of counts.

    Attributes:
        names: Names in the order of their first call, e.g. `torchvision::deform_conv2d`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; note its name."""
        if func.namespace not in _TORCH_NAMESPACES and func.overloadpacket not in flop_registry:
            self.names[func.name().partition(".")[0]] = None
        return func(*args, **(kwargs or {}))


def _explain_failure(error: Exception) -> str:
    text = str(error)
    if DRAWS_NUMBERS in text:
        return f"{locate_error(error)}: {text}"
    if "on meta tensors" in text or "with Meta tensors" in text or "data-independent" in text:
        return (
            f"{locate_error(error)}: values of a tensor decide what is computed, but a trace keeps one case only: "
            f"use torch.where, or decide by shapes"
        )
    if "tensor to numpy" in text:
        return f"{locate_error(error)}: NumPy cannot be traced: use operations of torch"
    if "is not on the expected device" in text or "on the same device" in text:
        return f"{locate_error(error)}: a tensor is not moved with the module: register it with register_buffer"
    return describe_error(error)


_MARK = "_lgc_from_input"
"""Attribute of tensors that were computed from an input."""
_READERS = ("numpy", "tolist", "__array__")
"""Methods that read the values of a whole tensor."""


def _is_marked(value: object) -> bool:
    return isinstance(value, Tensor) and hasattr(value, _MARK)


class _InputMarks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks every tensor computed from a marked one, and refuses to read one as a number, as `if x.mean() > 0:` does.

    Shapes are plain integers here, so that only values of tensors count. With `sizes`, results whose size depends on
    values are refused too, e.g. those of `torch.unique`.
    """

    def __init__(self, name: str, sizes: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name, self.sizes = name, sizes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        if any(map(_is_marked, leaves)):
            if self.sizes and torch.Tag.dynamic_output_shape in func.tags:
                _refuse_read(self.name)
            for value in tree_leaves(out):
                if isinstance(value, Tensor):
                    setattr(value, _MARK, True)
                elif isinstance(value, bool | int | float):  # of item(), torch.equal, torch.allclose
                    _refuse_read(self.name)
        return out


class _ArrayReads(TorchFunctionMode):
    """Refuses to read a marked tensor as an array or a list, which `_InputMarks` does not see."""

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
        if not frame.filename.startswith((_TORCH_FOLDER, __file__)):
            text = linecache.getline(frame.filename, frame.lineno or 0).strip()
            if text.startswith("assert "):
                return
            place = f"{frame.filename}, line {frame.lineno}, `{text}`"
            break
    raise PluginError(
        f"{name} cannot be exported: {place} reads values of the input, and the exported network would keep "
        f"those of one; use operations on tensors, e.g. torch.where"
    )


def _make_input(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return a random input, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    if dtype == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator).to(getattr(torch, dtype))


@torch.no_grad()
def require_traceable(
    module: nn.Module, input_shapes: Sequence[tuple[int, ...]], dtype: str, name: str, *, sizes: bool = False
) -> None:
    """Check that Python code of a module reads no values of its inputs, and that its output is repeatable.

    Args:
        module: Module in evaluation mode whose inputs have the same type.
        input_shapes: Shape of each input.
        dtype: Type of the inputs, in torch's notation.
        name: Name of the module in messages.
        sizes: The code decides by sizes, so that none may depend on values.

    Raises:
        PluginError: It does, and the message has the line; or two outputs differ.
    """
    inputs = [_make_input(shape, dtype) for shape in input_shapes]
    marked = [value.clone() for value in inputs]
    for value in marked:
        setattr(value, _MARK, True)
    with _ArrayReads(name), _InputMarks(name, sizes):
        output = module(*marked)
    if not torch.allclose(module(*inputs).float(), output.float(), atol=_TOLERANCE, equal_nan=True):
        raise PluginError(
            f"{name} returns different outputs for the same input in evaluation mode: make dropout and other random "
            f"layers depend on self.training"
        )
