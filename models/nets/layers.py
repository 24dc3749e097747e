"""Torch modules of operator recipes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..space import operators as ops
from ..space.opspec import OpSpec, strided_length


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, ReLU: [N, c_in, H, W] -> [N, c_out, H / stride, W / stride].

    Args:
        layer: Convolution.
        act: Include the ReLU.
    """

    def __init__(self, layer: ops.Conv, *, act: bool = True) -> None:
        super().__init__()
        self.conv = _conv(layer, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(layer.c_out)
        self.act: nn.Module = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalisation and activation."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out

    def fold(self) -> None:
        """Fold the batch normalisation into the convolution's weights and bias."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class BilinearResize(nn.Module):
    """Bilinear interpolation of a `Resize` layer: [N, C, *source] -> [N, C, *target]."""

    def __init__(self, layer: ops.Resize) -> None:
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


def _conv(layer: ops.Conv, *, bias: bool) -> nn.Conv2d:
    """Return the convolution, padded so that only the stride changes the size."""
    return nn.Conv2d(
        layer.c_in,
        layer.c_out,
        layer.kernel,
        stride=layer.stride,
        padding=layer.dilation * (layer.kernel // 2),
        dilation=layer.dilation,
        groups=layer.groups,
        bias=bias,
    )


def _layer(layer: ops.Layer) -> nn.Module:
    match layer:
        case ops.Conv(plain=True):
            return _conv(layer, bias=True)
        case ops.Conv():
            return ConvNormAct(layer)
        case ops.MaxPool():
            return nn.MaxPool2d(layer.kernel, layer.stride, padding=layer.kernel // 2)
        case ops.Resize():
            return BilinearResize(layer)
        case ops.Add():
            return Sum()
        case ops.Concat():
            return ChannelConcat()
        case ops.ArgMax():
            return ChannelArgMax()


def build_module(spec: OpSpec) -> nn.Module:
    """Build the module of `spec`; its inputs have the shapes of `operators.input_shapes`."""
    layers = [_layer(layer) for layer in ops.get_recipe(spec)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def fold_norms(module: nn.Module) -> nn.Module:
    """Return a copy of `module` in evaluation mode with batch normalisations folded into convolutions.

    Only those of `ConvNormAct` are folded; a normalisation before its convolution remains.
    """
    copied = copy.deepcopy(module).eval()
    for child in copied.modules():
        if isinstance(child, ConvNormAct):
            child.fold()
    return copied.requires_grad_(False)
