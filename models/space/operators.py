"""The operator registry: every operator as a recipe of layers, from which its module, MACs and parameters follow.

An operator is one function from an `OpSpec` to a tuple of layers. Nothing here needs torch; `layers.py` turns a recipe
into a module, so that what is counted and what is run cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import UnknownNameError, UsageError
from .opspec import OpSpec


@dataclass(frozen=True)
class Conv:
    """Convolution, batch normalisation, ReLU; with `plain`, a convolution with bias and nothing behind it."""

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

    Inputs of another size, as crops in training are, are scaled by the same factor: up, or down and rounded up.
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
    """A registered operator.

    Attributes:
        name: its name in spaces, architectures and tables.
        recipe: layers for a given spec; an empty tuple passes the input on and takes no time.
        searchable: whether a search space may offer it on an edge.
        upsamples: whether the coarser side is the input.
    """

    name: str
    recipe: Recipe
    searchable: bool
    upsamples: bool


OPERATORS: dict[str, Operator] = {}
"""Name -> operator, filled by `register_operator`."""

ZERO = "zero"
"""The operator of an edge that is not there."""


def register_operator(name: str, *, searchable: bool = False, upsamples: bool = False) -> Callable[[Recipe], Recipe]:
    """Register the decorated recipe under `name`; a name that is taken is an error of the programmer."""

    def register(recipe: Recipe) -> Recipe:
        if name in OPERATORS:
            raise ValueError(f"operator {name!r} is registered twice")
        OPERATORS[name] = Operator(name, recipe, searchable, upsamples)
        return recipe

    return register


operator = register_operator
"""Old name of `register_operator`; removed in 0.3.0."""


def get_operator(name: str) -> Operator:
    """Return the operator called `name`.

    Raises:
        UnknownNameError: no such operator; the message lists the known ones.
    """
    if name not in OPERATORS:
        raise UnknownNameError("operator", name, OPERATORS)
    return OPERATORS[name]


def get_recipe(spec: OpSpec) -> tuple[Layer, ...]:
    """Layers that `spec` stands for."""
    return get_operator(spec.operator).recipe(spec)


def is_free(spec: OpSpec) -> bool:
    """Whether `spec` takes no time by construction: nothing at all, or its input passed on."""
    return not get_recipe(spec)


def input_shapes(spec: OpSpec) -> tuple[tuple[int, int, int, int], ...]:
    """Shapes [N, C, H, W] of the operator's inputs: two for an addition, c_out / c_in for a concatenation."""
    kinds = {type(layer) for layer in get_recipe(spec)}
    count = spec.c_out // spec.c_in if Concat in kinds else 2 if Add in kinds else 1
    size = spec.coarse if get_operator(spec.operator).upsamples else spec.fine
    return ((spec.batch, spec.c_in, *size),) * count


def count_macs(spec: OpSpec) -> int:
    """Multiply-accumulates of the convolutions in `spec`; pooling, sums and interpolation are not counted."""
    total, size = 0, spec.fine
    for layer in get_recipe(spec):
        if isinstance(layer, Conv):
            size = (-(-size[0] // layer.stride), -(-size[1] // layer.stride))
            total += spec.batch * size[0] * size[1] * layer.c_out * layer.c_in // layer.groups * layer.kernel**2
    return total


def count_parameters(spec: OpSpec) -> int:
    """Parameters of `spec` as it is deployed: batch normalisation folded, so one bias for each output channel."""
    convolutions = (layer for layer in get_recipe(spec) if isinstance(layer, Conv))
    return sum(conv.c_out * (conv.c_in // conv.groups * conv.kernel**2 + 1) for conv in convolutions)


def _square(spec: OpSpec) -> int:
    if spec.c_in != spec.c_out:
        raise UsageError(f"{spec.operator} keeps its channels: {spec} asks for {spec.c_in} to {spec.c_out}")
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
    """Identity; a 1x1 convolution where it must reduce."""
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
    """1x1 convolution with bias to one channel a class."""
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
