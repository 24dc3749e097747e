"""Torch modules of operator recipes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .. import recipe
from ..geometry import Size, strided_length
from ..space.operators import get_recipe
from ..space.opspec import OpSpec
from .outputs import list_outputs
from .resizing import upsample_strided

ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "hardswish": partial(nn.Hardswish, inplace=True),
    "hardsigmoid": partial(nn.Hardsigmoid, inplace=True),
    "sigmoid": nn.Sigmoid,
    "silu": partial(nn.SiLU, inplace=True),
    "gelu": nn.GELU,
    "none": nn.Identity,
}
"""Modules of the activations, by their name in recipes."""
_MEAN_STD = 0.5
"""Standard deviation of random means of a trial."""
_TOLERANCE = 1e-3
"""Largest mean difference of a folded module by rounding, as a share of the mean output."""


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation.

    [N, c_in, H, W] -> [N, c_out, H / stride, W / stride]

    Args:
        layer: Convolution.
    """

    def __init__(self, layer: recipe.Conv) -> None:
        super().__init__()
        self.conv = _conv(layer, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(layer.c_out)
        self.act = ACTIVATION_MODULES[layer.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalisation and activation."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out

    def fold(self) -> None:
        """Fold the batch normalisation into the convolution's weights and bias."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class SqueezeExciteBlock(nn.Module):
    """Product of the input and a gate from its channel means: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, layer: recipe.SqueezeExcite) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(layer.channels, layer.reduced, 1)
        self.act = ACTIVATION_MODULES[layer.activation]()
        self.expand = nn.Conv2d(layer.reduced, layer.channels, 1)
        self.gate = ACTIVATION_MODULES[layer.gate]()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the gate."""
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.mean(x)))))
        return x * gate


class ResidualBlock(nn.Module):
    """Sum of the input and the output of some layers: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, layers: nn.Module, activation: str = "none") -> None:
        super().__init__()
        self.layers = layers
        self.act = ACTIVATION_MODULES[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Add the input to the layers' output."""
        out: Tensor = self.act(x + self.layers(x))
        return out


class PoolPyramidBlock(nn.Module):
    """Pyramid pooling of a `PoolPyramid` layer: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, layer: recipe.PoolPyramid) -> None:
        super().__init__()
        self.strides = layer.strides
        self.branches = nn.ModuleList(ConvNormAct(recipe.Conv(layer.channels, layer.reduced, 1)) for _ in layer.strides)
        # A mean of each image and channel cannot be normalised over a batch of one image.
        self.whole = nn.Sequential(nn.Conv2d(layer.channels, layer.reduced, 1), nn.ReLU(inplace=True))
        self.mix = ConvNormAct(layer.mixed)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the input with its pooled and upsampled projections, and mix them."""
        size, parts = (int(x.shape[-2]), int(x.shape[-1])), [x]
        for branch, stride in zip(self.branches, self.strides, strict=True):
            pooled = F.avg_pool2d(x, 2 * stride + 1, stride, stride, count_include_pad=False)
            parts.append(upsample_strided(branch(pooled), stride, size))
        parts.append(self.whole(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *size))
        out: Tensor = self.mix(torch.cat(parts, dim=1))
        return out


class BilinearResize(nn.Module):
    """Bilinear interpolation of a `Resize` layer, half-pixel centres: [N, C, *source] -> [N, C, *target]."""

    def __init__(self, layer: recipe.Resize) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate with `align_corners=False`."""
        return F.interpolate(x, size=self._size(x), mode="bilinear", align_corners=False)

    def _size(self, x: Tensor) -> tuple[int, int]:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        factor = self.layer.factor
        if (height, width) == self.layer.source:
            return self.layer.target
        if self.layer.target > self.layer.source:
            return height * factor, width * factor
        return strided_length(height, factor), strided_length(width, factor)


class StridedUpsample(nn.Module):
    """Bilinear interpolation of a strided `Resize` layer: [N, C, *source] -> [N, C, *target]."""

    def __init__(self, layer: recipe.Resize) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, size: Size | None = None) -> Tensor:
        """Interpolate to the layer's target, or for features of other images to `size`, (height, width)."""
        return upsample_strided(x, self.layer.factor, size or self.layer.target)


class ResizeTo(nn.Module):
    """Bilinear interpolation to a fixed size: [N, C, h, w] -> [N, C, *size]."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate with `align_corners=False`."""
        if (int(x.shape[-2]), int(x.shape[-1])) == self.size:
            return x
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)


class Sum(nn.Module):
    """Sum of two tensors of equal shape."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the tensors."""
        return x + y


class ChannelConcat(nn.Module):
    """Concatenation along the channels."""

    def forward(self, *xs: Tensor) -> Tensor:
        """Concatenate the tensors."""
        return torch.cat(xs, dim=1)


class ChannelArgMax(nn.Module):
    """Index of the largest channel: [N, C, H, W] -> [N, H, W], int64."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the index."""
        return x.argmax(dim=1)


def _conv(layer: recipe.Conv, *, bias: bool) -> nn.Conv2d:
    """Return the convolution, padded so that only the stride changes the size."""
    return nn.Conv2d(
        layer.c_in,
        layer.c_out,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=bias,
    )


def _layer(layer: recipe.Layer) -> nn.Module:
    match layer:
        case recipe.Conv(plain=True):
            return _conv(layer, bias=True)
        case recipe.Conv():
            return ConvNormAct(layer)
        case recipe.SqueezeExcite():
            return SqueezeExciteBlock(layer)
        case recipe.Residual():
            return ResidualBlock(_chain(layer.layers), layer.activation)
        case recipe.PoolPyramid():
            return PoolPyramidBlock(layer)
        case recipe.MaxPool():
            return nn.MaxPool2d(layer.kernel, layer.stride, padding=layer.padding)
        case recipe.Resize():
            return StridedUpsample(layer) if layer.strided else BilinearResize(layer)
        case recipe.Add():
            return Sum()
        case recipe.Concat():
            return ChannelConcat()
        case recipe.ArgMax():
            return ChannelArgMax()
        case recipe.Module():
            module: nn.Module = layer.source.factory(layer.spec)
            return module


def _chain(layers: Sequence[recipe.Layer]) -> nn.Module:
    modules = [_layer(layer) for layer in layers]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def build_module(spec: OpSpec) -> nn.Module:
    """Build the module of `spec`; its inputs have the shapes of `operators.input_shapes`.

    Raises:
        PluginError: A factory of the user's fails, or returns no module or one with another output.
    """
    return _chain(get_recipe(spec))


def fold_norms(module: nn.Module, *, sequences: bool = True) -> nn.Module:
    """Return a copy of `module` in evaluation mode with batch normalisations folded into convolutions.

    Those of `ConvNormAct` and those directly behind a convolution in an `nn.Sequential` are folded; others remain.
    Parametrisations of weights, e.g. spectral norms, become plain weights.

    Args:
        module: Module to copy.
        sequences: Fold those in `nn.Sequential`; see `is_foldable` for modules of the user's.
    """
    copied = _remove_parametrisations(copy.deepcopy(module).eval())
    for child in copied.modules():
        if isinstance(child, ConvNormAct):
            child.fold()
    for child, index, conv, norm in _find_pairs(copied) if sequences else ():
        child[index], child[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return copied.requires_grad_(False)


@torch.no_grad()
def is_foldable(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return True if folding the normalisations in each `nn.Sequential` leaves the outputs of a module unchanged.

    It does not where forward reads a convolution's output before its normalisation. Both are compared on a random
    input, with random statistics, as those of a new network hardly change its output. A module that fails is not
    folded.

    Args:
        module: Module whose inputs are float32.
        shapes: Shape of each input.
    """
    if not _find_pairs(module):
        return True
    trial = copy.deepcopy(module).eval()
    for norm in trial.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0, _MEAN_STD, generator=torch.Generator().manual_seed(0))
            norm.running_var.uniform_(1, 2, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    try:
        plain, folded = (list_outputs(each(*(x.clone() for x in inputs))) for each in (trial, fold_norms(trial)))
    except Exception:  # of the user's code: the check of the network's outputs explains it
        return False
    pairs = [(value.float(), folded[name].float()) for name, value in plain.items()]
    return all(float((own - other).abs().mean()) <= _TOLERANCE * float(own.abs().mean()) for own, other in pairs)


def _find_pairs(module: nn.Module) -> list[tuple[nn.Sequential, int, nn.Conv2d, nn.BatchNorm2d]]:
    """Return the sequences with a normalisation behind a convolution, the latter's position, and both."""
    uses = Counter(id(child) for _, child in module.named_modules(remove_duplicate=False))
    return [
        (child, index, conv, norm)
        for child in module.modules()
        if type(child) is nn.Sequential
        for index, (conv, norm) in enumerate(pairwise(child))
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
        if uses[id(conv)] == uses[id(norm)] == 1 and not _has_hooks(conv) and not _has_hooks(norm)
    ]


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@torch.no_grad()
def detach_computed_weights(module: nn.Module) -> None:
    """Detach the weights that `nn.utils.weight_norm` computes, without which torch copies no module."""
    for child in module.modules():
        for hook in child._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                setattr(child, hook.name, hook.compute_weight(child))


def _remove_parametrisations(module: nn.Module) -> nn.Module:
    """Replace computed weights of a module in evaluation mode by their values; return the module."""
    for child in list(module.modules()):
        if parametrize.is_parametrized(child):  # torch's removal would change the original, whose class a copy shares
            names = cast("Iterable[str]", child.parametrizations)
            values = {name: nn.Parameter(getattr(child, name).detach()) for name in names}
            del child.parametrizations
            child.__class__ = type(child).__bases__[0]
            for name, value in values.items():
                child.register_parameter(name, value)
        for hook in list(child._forward_pre_hooks.values()):
            if isinstance(hook, SpectralNorm):
                remove_spectral_norm(child, hook.name)
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(child, hook.name)
    return module
