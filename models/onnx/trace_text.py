"""Computation of a torch module as text: its weights, and the calls of one run on meta tensors, without values.

Modules of equal text compute the same for equal weights, and take the same time. The calls are those of the user's
code, e.g. `torch.nn.functional.conv2d`, so the text depends neither on the device nor on how torch computes them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import PluginError
from ..random_state import get_random_state
from .tracing import DRAWS_NUMBERS, run_on_meta


def describe_computation(module: nn.Module, *input_shapes: tuple[int, ...]) -> tuple[str, ...]:
    """Return the computation of a module in evaluation mode as lines of text; the module stays unchanged.

    The first two runs are described: a module may keep what its first one computes, e.g. positions.

    Raises:
        PluginError: The module draws random numbers or computes something else in later runs; or see `run_on_meta`.
    """
    copied = copy.deepcopy(module).eval().to("meta")
    tensors = {**dict(copied.named_buffers()), **copied.state_dict()}
    weights = (
        f"weight {name} {_describe_shape(tensors[name])}{_describe_order(tensors[name])}" for name in sorted(tensors)
    )
    first, second, third = (_describe_run(copied, input_shapes) for _ in range(3))
    if difference := find_difference(second, third):
        raise PluginError(f"runs in evaluation mode differ: {difference}: only shapes may decide what is computed")
    return (*weights, *first, *(second if second != first else ()))


def find_difference(first: Iterable[str], second: Iterable[str]) -> str | None:
    """Return the first difference of two texts; None if they are equal."""
    lines, others = list(first), list(second)
    for line, other in zip([*lines, "nothing"], [*others, "nothing"], strict=False):
        if line != other:
            return f"{line} and {other}"
    return None


def _describe_run(module: nn.Module, input_shapes: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """Return the calls of one run of a module on the meta device."""
    state = get_random_state()
    calls = _Calls({id(value): name for name, value in [*module.named_parameters(), *module.named_buffers()]})
    with calls, _RandomCalls():
        run_on_meta(module, input_shapes, copied=True)
    if get_random_state() != state:
        raise PluginError(f"its forward {DRAWS_NUMBERS}")
    return tuple(calls.lines)


class _Calls(TorchFunctionMode):
    """Record of the calls that return tensors or write into them: function, arguments, shapes, changed settings.

    Tensors are numbered as they come.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._switches = _read_switches()
        self.lines: list[str] = []
        self._names = dict(names)
        self._kept: list[Tensor] = []  # the identity of a freed tensor would be used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record a call."""
        arguments = [self._describe(value) for value in args]
        arguments += [f"{name}={self._describe(value)}" for name, value in (kwargs or {}).items()]
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves(out) if isinstance(value, Tensor)]
        if tensors or _is_assignment(func):
            name = resolve_name(func) or getattr(func, "__name__", type(func).__name__)
            results = ", ".join(f"{self._describe(value)} {_describe_shape(value)}" for value in tensors)
            changed = _list_autocasts() | _read_switches() - self._switches
            self.lines.append(
                f"{name}({', '.join(arguments)}) -> {results}" + f" with {sorted(changed)}" * bool(changed)
            )
        return out

    def _describe(self, value: object) -> str:
        match value:
            case Tensor():
                if id(value) not in self._names:
                    self._names[id(value)] = f"t{len(self._kept)}"
                    self._kept.append(value)
                return self._names[id(value)]
            case list() | tuple():
                return f"({', '.join(map(self._describe, value))})"
            case dict():
                return self._describe(list(value.items()))
            case slice():
                return f"slice{self._describe((value.start, value.stop, value.step))}"
            case float():
                return f"{value:.6g}"  # computed ones differ in the last digits between machines
            case np.generic() | np.ndarray():
                return self._describe(value.tolist())
            case None | bool() | int() | str() | complex() | torch.dtype() | torch.device() | torch.memory_format():
                return repr(value)
        return type(value).__name__  # others are printed with their address


def _is_assignment(func: Any) -> bool:
    """Return True for `tensor[...] = value` and `tensor.data = value`, which return nothing."""
    return getattr(func, "__name__", "") in ("__setitem__", "__set__")


def _list_autocasts() -> set[str]:
    """Return the types that calls are computed in instead of those of their arguments, by kind of device."""
    return {
        f"autocast {device} {torch.get_autocast_dtype(device)}"
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    }


def _read_switches() -> set[str]:
    """Return the implementations that torch may use, as text."""
    attention: Any = torch.backends.cuda
    switches = {
        "flash attention": attention.flash_sdp_enabled(),
        "memory-efficient attention": attention.mem_efficient_sdp_enabled(),
        "plain attention": attention.math_sdp_enabled(),
        "attention of cuDNN": attention.cudnn_sdp_enabled(),
        "cuDNN": torch.backends.cudnn.enabled,
        "oneDNN": torch.backends.mkldnn.enabled,
    }
    return {f"{name}: {value}" for name, value in switches.items()}


class _RandomCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refusal of operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation that draws nothing."""
        if torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs or {}):
            raise RuntimeError(f"{func} {DRAWS_NUMBERS}")
        return func(*args, **(kwargs or {}))


def _draws(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return False for attention with a dropout probability of 0, whose operations are marked as random."""
    names = [argument.name for argument in func._schema.arguments]
    if "dropout_p" not in names:
        return True
    return bool({**dict(zip(names, args, strict=False)), **kwargs}.get("dropout_p", 0))


def _describe_shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__  # extra state of a module
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _describe_order(value: object) -> str:
    """Return the strides of a tensor whose values are not in the usual order, e.g. in channels_last."""
    if not isinstance(value, Tensor) or value.stride() == torch.empty(value.shape, device="meta").stride():
        return ""
    return f" strides {value.stride()}"
