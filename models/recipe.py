"""Layers of operators as values, from which shapes, multiply-accumulates, parameters and memory follow.

A recipe is a tuple of layers, computed one after the other. `nets/layers.py` builds their torch modules; this module
does not import torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from ..errors import UsageError

if TYPE_CHECKING:
    from .space.opspec import OpSpec

ACTIVATIONS = ("relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "none")
"""Names of activations."""

Shape = tuple[int, int, int]
"""Channels, height and width of a tensor."""


class Footprint(NamedTuple):
    """Memory of a computation, in values. Its input is not counted.

    Attributes:
        during: Peak while the input is needed.
        after: Peak once the input can be freed; 0 if it is needed until the end.
        out: Size of the output.
    """

    during: int
    after: int
    out: int


@dataclass(frozen=True)
class Conv:
    """Convolution, batch normalisation and activation; with `plain`, only a convolution with bias.

    Only the stride changes the size. An even kernel, e.g. of a patch embedding, takes sides that the stride divides.

    Raises:
        UsageError: An even kernel of stride 1, channels that are not divisible by the groups, a number below 1, or an
            unknown activation.
    """

    c_in: int
    c_out: int
    kernel: int | tuple[int, int]
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    plain: bool = False
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check_numbers(self, "c_in", "c_out", "stride", "dilation", "groups")
        _check_kernel(
            self, self.kernel if isinstance(self.kernel, tuple) else (self.kernel, self.kernel), self.dilation
        )
        if self.c_in % self.groups or self.c_out % self.groups:
            raise UsageError(f"Conv: {self.c_in} to {self.c_out} channels are not divisible by {self.groups} groups")
        _check_activation(self.activation)

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of zeros on each side; see `_find_padding`."""
        height, width = (_find_padding(side, self.stride, self.dilation) for side in self.kernel_size)
        return height, width


@dataclass(frozen=True)
class SqueezeExcite:
    """Channel attention (arXiv 1709.01507): the input times a gate from its channel means.

    Attributes:
        channels: Channels of the input and output.
        reduced: Channels between the two 1x1 convolutions, which have biases and no normalisation.
        activation: Activation between them.
        gate: Activation of the gate.

    Raises:
        UsageError: A number below 1, or an unknown activation.
    """

    channels: int
    reduced: int
    activation: str = "relu"
    gate: str = "hardsigmoid"

    def __post_init__(self) -> None:
        _check_numbers(self, "channels", "reduced")
        _check_activation(self.activation)
        _check_activation(self.gate)


@dataclass(frozen=True)
class Residual:
    """Sum of the input and the output of some layers, which keep its shape.

    Attributes:
        layers: Layers.
        activation: Activation of the sum.

    Raises:
        UsageError: There are no layers, or an unknown activation.
    """

    layers: tuple[Layer, ...]
    activation: str = "none"

    def __post_init__(self) -> None:
        if not isinstance(self.layers, tuple) or not self.layers:
            raise UsageError(f"Residual: layers must be a tuple of at least one layer, got {self.layers!r}")
        if not all(isinstance(layer, Layer) for layer in self.layers):
            raise UsageError(f"Residual: {self.layers!r} is not a tuple of layers")
        _check_activation(self.activation)


@dataclass(frozen=True)
class PoolPyramid:
    """Light pyramid pooling (after arXiv 1612.01105 and 2101.06085): context of several scales next to the input.

    Each average pooling, and the global one, is projected by a 1x1 convolution and upsampled; a last 1x1 convolution
    takes all of them and the input back to its channels. Poolings of side k have stride (k - 1) / 2 and are centred on
    multiples of it, as strided convolutions are.

    Attributes:
        channels: Channels of the input and output.
        reduced: Channels of each pooled branch.
        kernels: Sides k of the average poolings; each k - 1 is a power of two.

    Raises:
        UsageError: A number below 1, or another side.
    """

    channels: int
    reduced: int
    kernels: tuple[int, ...] = (5, 9)

    def __post_init__(self) -> None:
        _check_numbers(self, "channels", "reduced")
        if not all(side >= 3 and (side - 1).bit_count() == 1 for side in self.kernels):
            raise UsageError(f"PoolPyramid: kernels must be powers of two plus 1, got {self.kernels}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each average pooling."""
        return tuple((side - 1) // 2 for side in self.kernels)

    @property
    def mixed(self) -> Conv:
        """Last convolution."""
        return Conv(self.channels + self.reduced * (len(self.kernels) + 1), self.channels, 1)

    def list_branches(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the size of each pooled branch for an input of `size`; the global one, 1x1, is the last."""
        return [*((-(-size[0] // stride), -(-size[1] // stride)) for stride in self.strides), (1, 1)]


@dataclass(frozen=True)
class MaxPool:
    """Max pooling, padded so that only the stride changes the size. An even kernel takes sides that the stride divides.

    Raises:
        UsageError: An even kernel of stride 1, or a number below 1.
    """

    kernel: int
    stride: int

    def __post_init__(self) -> None:
        _check_numbers(self, "kernel", "stride")
        _check_kernel(self, (self.kernel, self.kernel))

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return self.kernel, self.kernel

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of padding on each side; see `_find_padding`."""
        side = _find_padding(self.kernel, self.stride)
        return side, side


@dataclass(frozen=True)
class Resize:
    """Bilinear interpolation from size `source` to `target` (height, width).

    Inputs of a different size, e.g. training crops, are scaled by the same factor, or if strided to the size that the
    caller names; downscaled sizes are rounded up.

    Attributes:
        source: Height and width of the input.
        target: Height and width of the output.
        factor: Ratio of the larger to the smaller side.
        strided: True if pixel p reads feature p / factor; False for half-pixel centres. Only for upsampling.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    factor: int
    strided: bool = False


@dataclass(frozen=True)
class Add:
    """Sum of two tensors of equal shape."""


@dataclass(frozen=True)
class Concat:
    """Concatenation along the channels, to `c_out` of them."""

    c_out: int


@dataclass(frozen=True)
class ArgMax:
    """Index of the largest channel: [N, C, H, W] -> [N, H, W], int64."""


@dataclass(frozen=True)
class ModuleSource:
    """Torch module of the user's as an operator; see `nets.modules.register_module`, which makes it.

    Attributes:
        name: Name of the operator.
        digest: Function from a spec to the digest of what its modules compute.
        factory: Function from a spec to a module.
        macs: Function from a spec to the multiply-accumulates of one image.
        parameters: Function from a spec to the number of parameters.
        footprint: Function from a spec to the memory.
    """

    name: str
    digest: Callable[[OpSpec], str]
    factory: Callable[[OpSpec], Any]
    macs: Callable[[OpSpec], int]
    parameters: Callable[[OpSpec], int]
    footprint: Callable[[OpSpec], Footprint]


@dataclass(frozen=True)
class Module:
    """Torch module of the user's, for one spec."""

    source: ModuleSource
    spec: OpSpec


Layer = Conv | SqueezeExcite | PoolPyramid | Residual | MaxPool | Resize | Add | Concat | ArgMax | Module


def _check_numbers(layer: Layer, *names: str) -> None:
    """Check that these fields are integers of at least 1."""
    for name in names:
        if not _is_count(value := getattr(layer, name)):
            raise UsageError(f"{type(layer).__name__}: {name} must be an integer of at least 1, got {value!r}")


def _check_kernel(layer: Conv | MaxPool, sides: tuple[object, ...], dilation: int = 1) -> None:
    """Check the sides of a kernel: at stride 1, equal padding on both sides of an even one changes the size."""
    numbers = [side for side in sides if _is_count(side)]
    if len(sides) != 2 or len(numbers) != 2:
        raise UsageError(f"{type(layer).__name__}: kernel must be a number or (height, width), got {layer.kernel!r}")
    if layer.stride == 1 and not all(_extent(side, dilation) % 2 for side in numbers):
        raise UsageError(
            f"{type(layer).__name__}: kernel {layer.kernel} of stride 1 would change the size: use odd sides, a larger "
            "stride, or a torch module that pads one side more than the other"
        )


def _extent(side: int, dilation: int) -> int:
    """Return the pixels that a side of a dilated kernel spans."""
    return dilation * (side - 1) + 1


def _find_padding(side: int, stride: int, dilation: int = 1) -> int:
    """Return the padding with which a length of n becomes n / stride: rounded up, or exactly for an even kernel."""
    extent = _extent(side, dilation)
    return extent // 2 if extent % 2 else max(extent - stride + 1, 0) // 2


def _strided_shape(layer: Conv | MaxPool, channels: int, size: tuple[int, int]) -> Shape:
    """Return the output's shape.

    Raises:
        UsageError: The stride does not divide a side of the input of an even kernel.
    """
    dilation = layer.dilation if isinstance(layer, Conv) else 1
    for side, length in zip(layer.kernel_size, size, strict=True):
        if _extent(side, dilation) % 2 == 0 and length % layer.stride:
            raise UsageError(
                f"{describe_layer(layer)}: stride {layer.stride} does not divide the input of {size[0]}x{size[1]}, as "
                "an even kernel requires: use an odd kernel or another input size"
            )
    return channels, -(-size[0] // layer.stride), -(-size[1] // layer.stride)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")


def iter_layers(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Iterate over all layers; a `Residual` is replaced by its own layers and an `Add`."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from iter_layers(layer.layers)
            yield Add()
        else:
            yield layer


def output_shape(layers: Sequence[Layer], shape: Shape) -> Shape:
    """Return the shape of the layers' output for an input of `shape`.

    Raises:
        UsageError: A layer takes another number of channels, or a `Residual` changes the shape.
    """
    for layer in layers:
        shape = _layer_shape(layer, shape)
    return shape


def _layer_shape(layer: Layer, shape: Shape) -> Shape:
    channels, height, width = shape
    match layer:
        case Conv(c_in=expected) | SqueezeExcite(channels=expected) | PoolPyramid(channels=expected) if (
            expected != channels
        ):
            raise UsageError(f"{describe_layer(layer)} takes {expected} channels, but its input has {channels}")
        case Conv():
            return _strided_shape(layer, layer.c_out, (height, width))
        case Residual():
            if (inner := output_shape(layer.layers, shape)) != shape:
                raise UsageError(f"Residual: its layers change the shape from {shape} to {inner}")
            return shape
        case MaxPool():
            return _strided_shape(layer, channels, (height, width))
        case Resize():
            return channels, *layer.target
        case Concat():
            return layer.c_out, height, width
        case ArgMax():
            return 1, height, width
        case Module(spec=spec):
            return spec.c_out, *spec.coarse
        case SqueezeExcite() | PoolPyramid() | Add():
            return shape


def count_layer_macs(layers: Sequence[Layer], shape: Shape) -> int:
    """Count the multiply-accumulates of one image of `shape`: those of convolutions and of the user's modules."""
    total = 0
    for layer in layers:
        out = _layer_shape(layer, shape)
        match layer:
            case Conv():
                kernel = layer.kernel_size[0] * layer.kernel_size[1]
                total += out[0] * out[1] * out[2] * layer.c_in // layer.groups * kernel
            case SqueezeExcite():
                total += 2 * layer.channels * layer.reduced
            case PoolPyramid():
                pixels = sum(height * width for height, width in layer.list_branches((shape[1], shape[2])))
                total += pixels * layer.channels * layer.reduced
                total += out[1] * out[2] * layer.mixed.c_in * layer.channels
            case Residual():
                total += count_layer_macs(layer.layers, shape)
            case Module():
                total += layer.source.macs(layer.spec)
        shape = out
    return total


def count_layer_parameters(layers: Sequence[Layer]) -> int:
    """Count the parameters with batch normalisation folded, so with one bias per output channel."""
    total = 0
    for layer in layers:
        match layer:
            case Conv():
                kernel = layer.kernel_size[0] * layer.kernel_size[1]
                total += layer.c_out * (layer.c_in // layer.groups * kernel + 1)
            case SqueezeExcite():
                total += 2 * layer.channels * layer.reduced + layer.channels + layer.reduced
            case PoolPyramid():
                total += (len(layer.kernels) + 1) * (layer.channels + 1) * layer.reduced
                total += layer.channels * (layer.mixed.c_in + 1)
            case Residual():
                total += count_layer_parameters(layer.layers)
            case Module():
                total += layer.source.parameters(layer.spec)
    return total


def find_layer_footprint(layers: Sequence[Layer], shape: Shape) -> Footprint:
    """Return the memory of layers, each of which allocates its output; activations allocate nothing.

    There is at least one layer. `costs.Costs.peak_activation_bytes` documents the rules.
    """
    first, *others = layers
    total = _layer_footprint(first, shape)
    for layer in others:
        shape = _layer_shape(first, shape)
        part = _layer_footprint(layer, shape)
        total = Footprint(total.during, max(total.after, total.out + part.during, part.after), part.out)
        first = layer
    return total


def _layer_footprint(layer: Layer, shape: Shape) -> Footprint:
    channels, height, width = _layer_shape(layer, shape)
    out = channels * height * width
    match layer:
        case SqueezeExcite():  # means, reduced channels, gate, product
            return Footprint(max(channels + layer.reduced, channels + out), 0, out)
        case PoolPyramid():
            return _pyramid_footprint(layer, (height, width))
        case Residual():
            inner = find_layer_footprint(layer.layers, shape)
            return Footprint(max(inner.during, inner.after, inner.out + out), 0, out)
        case Module():
            return layer.source.footprint(layer.spec)
    return Footprint(out, 0, out)


def _pyramid_footprint(layer: PoolPyramid, size: tuple[int, int]) -> Footprint:
    """Return the memory of a pyramid, which computes branch by branch, then concatenates and mixes."""
    pixels, held, peak = size[0] * size[1], 0, 0
    for height, width in layer.list_branches(size):
        pooled, projected = (channels * height * width for channels in (layer.channels, layer.reduced))
        peak = max(peak, held + pooled + projected, held + projected + layer.reduced * pixels)
        held += layer.reduced * pixels
    joined = layer.mixed.c_in * pixels
    return Footprint(max(peak, held + joined), joined + layer.channels * pixels, layer.channels * pixels)


def describe_layer(layer: Layer) -> str:
    """Return a layer as text, without the fields that have their default; layers of equal text compute the same."""
    if isinstance(layer, Module):
        return f"Module({layer.source.digest(layer.spec)})"
    parts = []
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.default is MISSING or value != field.default:
            text = describe_layers(value) if field.name == "layers" else repr(value)
            parts.append(f"{field.name}={text}")
    return f"{type(layer).__name__}({', '.join(parts)})"


def describe_layers(layers: Sequence[Layer]) -> str:
    """Return layers as text; see `describe_layer`."""
    return f"[{', '.join(map(describe_layer, layers))}]"


def hash_text(text: str) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
