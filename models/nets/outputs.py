"""Outputs of any network: the main logits, and auxiliary outputs by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ...errors import PluginError
from ...plugins import describe_error
from ..map_sizes import covers_image

MAIN_KEYS = ("out", "logits")
"""Names of the main output in a mapping or dataclass."""
_AUXILIARY = "aux"
"""Part of the names of auxiliary outputs."""
_FEATURES = re.compile(r"(?:feat|embed|hidden|atten)[^.]*$", re.IGNORECASE)
"""End of the names of outputs that are features, whatever their channels."""
_SUM_TOLERANCE = 1e-3
"""Largest difference from 1 of the sum of probabilities."""


def list_outputs(output: object) -> dict[str, Tensor]:
    """Return the tensors of a network's output by name.

    A network returns a tensor; or a tuple, list, mapping or dataclass of tensors, also nested. Names are the keys, or
    the positions in a tuple or list, joined by dots; a single tensor has the empty name.

    Raises:
        PluginError: There is no tensor.
    """
    tensors = dict(_iter_tensors(output))
    if not tensors:
        raise PluginError(f"the network returned {type(output).__name__} without a tensor: return its logits")
    return tensors


def choose_main(names: Iterable[str]) -> str:
    """Return the name of the main output: one of `MAIN_KEYS`, else the first without `aux`, else the first."""
    names = list(names)
    named = [key for key in MAIN_KEYS if key in names]
    return next(iter((*named, *(name for name in names if _AUXILIARY not in name.lower()), *names)))


def split_outputs(output: object, main: str | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the main output of a network and its other tensors by name, see `list_outputs`.

    Args:
        output: Output of the network.
        main: Name of the main output; None for that of `choose_main`.

    Raises:
        PluginError: There is no tensor, or none of the name `main`.
    """
    tensors = list_outputs(output)
    name = choose_main(tensors) if main is None else main
    if name not in tensors:
        raise PluginError(f"the network returned no output {name!r}, as it did before, but {', '.join(tensors)}")
    return tensors.pop(name), tensors


def _iter_tensors(output: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a nested output, with their names."""
    if isinstance(output, Tensor):
        yield prefix, output
        return
    if isinstance(output, Mapping):
        items = [(str(key), value) for key, value in output.items()]
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        items = [(entry.name, getattr(output, entry.name)) for entry in dataclasses.fields(output)]
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        items = [(str(name), value) for name, value in zip(names, output, strict=True)]
    else:
        return
    for name, value in items:
        yield from _iter_tensors(value, f"{prefix}.{name}" if prefix else name)


def get_logits(output: object) -> Tensor:
    """Return the main output of a network, see `split_outputs`."""
    return split_outputs(output)[0]


def is_logits(tensor: Tensor, classes: int) -> bool:
    """Return True for floating-point scores [N, classes, h, w]."""
    return tensor.ndim == 4 and tensor.shape[1] == classes and tensor.is_floating_point()


_ACTIVATIONS = ("sigmoid", "hardsigmoid", "expit", "softmax", "gumbel_softmax", "softmin", "tanh", "hardtanh", "relu6")
"""Names of torch's functions to bounded values, without `special_` before and `_` behind them."""
_LOGIT_MAKERS = re.compile(r"conv|matmul|einsum|dot|norm|embedding|attention|^(bi)?linear$|(mm|mv)_?$|^(special_)?log")
"""Names of functions whose results may be logits, whatever they are called with."""
_MARK = "_lgc_activation"
"""Attribute of tensors that come from an activation: its name."""
UNKNOWN_ACTIVATION = "unknown"
"""Activation of values in 0..1 that are probabilities, or logits by chance."""


class ActivationMarks(TorchFunctionMode):
    """Marks the results of an activation, and what is computed from them, up to the next layer of logits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and mark its results."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        activation = name.removeprefix("special_").removesuffix("_")
        if activation not in _ACTIVATIONS:
            marks = [getattr(value, _MARK) for value in tree_leaves((args, kwargs)) if hasattr(value, _MARK)]
            activation = marks[0] if marks and not _LOGIT_MAKERS.search(name) else ""
        if activation:
            for value in tree_leaves(args[0] if name == "__setitem__" else out):
                if isinstance(value, Tensor):
                    setattr(value, _MARK, activation)
        return out


def find_activation(values: Tensor) -> str:
    """Return the activation of an output [N, C, h, w], e.g. `sigmoid`; empty for logits.

    Values in 0..1 whose channels have the sum 1 everywhere are a softmax's. Other values in 0..1 may be logits: inside
    `ActivationMarks` an activation must have computed them, else it is `UNKNOWN_ACTIVATION`.
    """
    activation, values = getattr(values, _MARK, UNKNOWN_ACTIVATION), values.detach().float()
    low, high, sums = float(values.min()), float(values.max()), values.sum(1)
    if low >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=_SUM_TOLERANCE):
        return "softmax"
    return activation if low >= 0 and 0 < high <= 1 else ""


def explain_unusable(name: str, values: Tensor, image: tuple[int, int]) -> str:
    """Return why an output with one channel per class cannot be auxiliary logits of images; empty if it can.

    Logits have both signs; without negative values they are probabilities, or features behind a ReLU.
    """
    if _FEATURES.match(name.rpartition(".")[2]):
        return "features by its name"
    if float(values.detach().min()) >= 0 and float(values.detach().max()) > 0:
        return "no negative values"
    size = values.shape[2], values.shape[3]
    return "" if covers_image(size, image) else f"not the area of images {image[0]}x{image[1]}"


class MainOutput(nn.Module):
    """Network of any source without its auxiliary outputs: [N, 3, H, W] -> [N, classes, h, w]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute the main logits."""
        return get_logits(self.network(x))


@dataclasses.dataclass(frozen=True)
class SelectMain:
    """Forward hook of a network that makes a named output the main one.

    A single tensor, as other modes may return, stays. An output that already is called `out` gets another name.

    Attributes:
        name: Key or position of the output.
    """

    name: str

    def __call__(self, module: nn.Module, args: object, output: object) -> object:
        """Return the outputs by name, the chosen one as `out`.

        Raises:
            PluginError: No output has the name.
        """
        tensors = list_outputs(output)
        if isinstance(output, Tensor):
            return output
        if self.name not in tensors:
            raise PluginError(f"the network has no output {self.name!r}, but {', '.join(tensors)}")
        main = tensors.pop(self.name)
        others = {f"other.{name}" if name == MAIN_KEYS[0] else name: value for name, value in tensors.items()}
        return {MAIN_KEYS[0]: main, **others}


@torch.no_grad()
def initialise_lazy_layers(network: nn.Module, size: tuple[int, int]) -> None:
    """Run lazy layers of a network once, on an image of `size`, (height, width), so that these get their shapes.

    Networks without lazy layers are not run.

    Raises:
        PluginError: The network raises an error.
    """
    if not any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        return
    mode = network.training
    try:
        network.eval()(torch.zeros(1, 3, *size))
    except Exception as error:
        raise PluginError(f"the network failed on an image of {size[0]}x{size[1]}: {describe_error(error)}") from error
    network.train(mode)
