"""Registry of operators: each is a recipe of layers that determines its module, MACs and parameters.

A recipe is a function from an `OpSpec` to a tuple of layers. `nets/layers.py` builds torch modules from recipes, so
costs and modules always agree; this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import UnknownNameError, UsageError
from .opspec import OpSpec


@dataclass(frozen=True)
class Conv:
    """Convolution, batch normalisation, ReLU; with `plain`, only a convolution with bias."""

    c_in: int
    c_out: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    plain: bool = False


@dataclass(frozen=True)
class MaxPool:
    """Max pooling, padded so that stride 1 keeps the size."""

    kernel: int
    stride: int


@dataclass(frozen=True)
class Resize:
    """Bilinear interpolation from size `source` to `target` (height, width), corners not aligned.

    Inputs of a different size, e.g. training crops, are scaled by the same factor; downscaled sizes are rounded up.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    factor: int


@dataclass(frozen=True)
class Add:
    """Sum of two tensors of equal shape."""


@dataclass(frozen=True)
class Concat:
    """Concatenation along the channels."""


@dataclass(frozen=True)
class ArgMax:
    """Index of the largest channel: [N, C, H, W] -> [N, H, W], int64."""


Layer = Conv | MaxPool | Resize | Add | Concat | ArgMax
Recipe = Callable[[OpSpec], tuple[Layer, ...]]


@dataclass(frozen=True)
class Operator:
    """Registered operator.

    Attributes:
        name: Name in spaces, architectures and tables.
        recipe: Function from a spec to its layers; no layers mean that the input is passed through at no cost.
        searchable: True if search spaces may use the operator as a candidate.
        upsamples: True if the input is the coarser side.
    """

    name: str
    recipe: Recipe
    searchable: bool
    upsamples: bool


OPERATORS: dict[str, Operator] = {}
"""Registered operators by name."""

ZERO = "zero"
"""Operator of an absent edge."""


def register_operator(name: str, *, searchable: bool = False, upsamples: bool = False) -> Callable[[Recipe], Recipe]:
    """Register the decorated recipe under `name`, which must be new; see `Operator` for the options."""

    def register(recipe: Recipe) -> Recipe:
        if name in OPERATORS:
            raise ValueError(f"operator {name!r} is already registered")
        OPERATORS[name] = Operator(name, recipe, searchable, upsamples)
        return recipe

    return register


operator = register_operator
"""Old name of `register_operator`; removed in 0.3.0."""


def get_operator(name: str) -> Operator:
    """Return the operator called `name`.

    Raises:
        UnknownNameError: Unknown operator; the message lists the known ones.
    """
    if name not in OPERATORS:
        raise UnknownNameError("operator", name, OPERATORS)
    return OPERATORS[name]


def get_recipe(spec: OpSpec) -> tuple[Layer, ...]:
    """Return the layers of `spec`."""
    return get_operator(spec.operator).recipe(spec)


def is_free(spec: OpSpec) -> bool:
    """Return True if `spec` costs no time by construction: it has no layers."""
    return not get_recipe(spec)


def input_shapes(spec: OpSpec) -> tuple[tuple[int, int, int, int], ...]:
    """Return the input shapes [N, C, H, W]: two for an addition, c_out / c_in for a concatenation, else one."""
    kinds = {type(layer) for layer in get_recipe(spec)}
    count = spec.c_out // spec.c_in if Concat in kinds else 2 if Add in kinds else 1
    size = spec.coarse if get_operator(spec.operator).upsamples else spec.fine
    return ((spec.batch, spec.c_in, *size),) * count


def count_macs(spec: OpSpec) -> int:
    """Count the multiply-accumulates of convolutions; pooling, sums and interpolation are not counted."""
    total, size = 0, spec.fine
    for layer in get_recipe(spec):
        if isinstance(layer, Conv):
            size = (-(-size[0] // layer.stride), -(-size[1] // layer.stride))
            total += spec.batch * size[0] * size[1] * layer.c_out * layer.c_in // layer.groups * layer.kernel**2
    return total


def count_parameters(spec: OpSpec) -> int:
    """Count the parameters with batch normalisation folded, so with one bias per output channel."""
    convolutions = (layer for layer in get_recipe(spec) if isinstance(layer, Conv))
    return sum(conv.c_out * (conv.c_in // conv.groups * conv.kernel**2 + 1) for conv in convolutions)


def _square(spec: OpSpec) -> int:
    if spec.c_in != spec.c_out:
        raise UsageError(f"{spec}: {spec.operator} needs c_in equal to c_out, got {spec.c_in} and {spec.c_out}")
    return spec.c_in


def _separable(spec: OpSpec, dilation: int) -> tuple[Layer, ...]:
    return (
        Conv(spec.c_in, spec.c_in, 3, spec.stride, dilation, groups=spec.c_in),
        Conv(spec.c_in, spec.c_out, 1),
    )


@register_operator(ZERO, searchable=True)
def _zero(spec: OpSpec) -> tuple[Layer, ...]:
    return ()


@register_operator("skip", searchable=True)
def _skip(spec: OpSpec) -> tuple[Layer, ...]:
    """Identity; a 1x1 convolution at stride 2."""
    return () if spec.stride == 1 else (Conv(_square(spec), spec.c_out, 1, spec.stride),)


@register_operator("max_pool_3x3", searchable=True)
def _max_pool(spec: OpSpec) -> tuple[Layer, ...]:
    _square(spec)
    return (MaxPool(3, spec.stride),)


@register_operator("sep_conv_3x3", searchable=True)
def _sep_conv(spec: OpSpec) -> tuple[Layer, ...]:
    return _separable(spec, 1)


@register_operator("sep_conv_3x3_d2", searchable=True)
def _sep_conv_d2(spec: OpSpec) -> tuple[Layer, ...]:
    return _separable(spec, 2)


@register_operator("sep_conv_3x3_d4", searchable=True)
def _sep_conv_d4(spec: OpSpec) -> tuple[Layer, ...]:
    return _separable(spec, 4)


@register_operator("sep_conv_3x3_d8", searchable=True)
def _sep_conv_d8(spec: OpSpec) -> tuple[Layer, ...]:
    return _separable(spec, 8)


@register_operator("conv_3x3", searchable=True)
def _conv(spec: OpSpec) -> tuple[Layer, ...]:
    return (Conv(spec.c_in, spec.c_out, 3, spec.stride),)


@register_operator("conv_1x1")
def _project(spec: OpSpec) -> tuple[Layer, ...]:
    return (Conv(spec.c_in, spec.c_out, 1, spec.stride),)


@register_operator("classifier")
def _classifier(spec: OpSpec) -> tuple[Layer, ...]:
    """1x1 convolution with bias to one channel per class."""
    return (Conv(spec.c_in, spec.c_out, 1, plain=True),)


@register_operator("add")
def _add(spec: OpSpec) -> tuple[Layer, ...]:
    return (Add(),)


@register_operator("concat")
def _concat(spec: OpSpec) -> tuple[Layer, ...]:
    return (Concat(),) if spec.c_out > spec.c_in else ()


@register_operator("downsample")
def _downsample(spec: OpSpec) -> tuple[Layer, ...]:
    return (Resize(spec.fine, spec.coarse, spec.stride),)


@register_operator("upsample", upsamples=True)
def _upsample(spec: OpSpec) -> tuple[Layer, ...]:
    return (Resize(spec.coarse, spec.fine, spec.stride),)


@register_operator("argmax")
def _argmax(spec: OpSpec) -> tuple[Layer, ...]:
    return (ArgMax(),)
