"""Slimmable modules: one set of weights for all widths of an operator, of which the first channels are used.

As in slimmable networks (arXiv 1812.08928), with batch statistics in place of statistics for each width: those of a
supernet would blend all paths and fit none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models import recipe
from ...models.nets.layers import build_module
from ...models.space.lgcnet.widths import OpTemplate
from ...models.space.operators import count_parameters, get_recipe, is_free

SLIM = ".module."
"""Part of the name of each tensor of a `SlimOperator`."""
Convolution = tuple[int, tuple[int, ...]]
"""Output channels of a convolution, and the channels of each concatenated tensor that it reads."""


class SlimConv2d(nn.Conv2d):
    """Convolution of the first channels: [N, <= c_in, H, W] -> [N, c_out, H', W']; depthwise ones keep the channels.

    Attributes:
        active: Channels of the current width.
        parts: Channels of each tensor that it reads, at the largest width.
    """

    active: Convolution
    parts: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the weights of the current width."""
        weight, bias = self.select()
        groups = self.active[0] if self.groups > 1 else 1
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def select(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the current width, views where possible."""
        c_out, parts = self.active
        bias = None if self.bias is None else self.bias[:c_out]
        if self.groups > 1:
            return self.weight[:c_out], bias
        starts = [sum(self.parts[:index]) for index in range(len(self.parts))]
        pieces = [self.weight[:c_out, start : start + used] for start, used in zip(starts, parts, strict=True)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1), bias


class SlimBatchNorm2d(nn.Module):
    """Normalisation of the first channels by the statistics of the batch of each process: [N, <= C, H, W] -> the same.

    Args:
        norm: Normalisation of all channels, whose weights are taken over.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        channels = int(x.shape[1])
        return F.batch_norm(x, None, None, self.weight[:channels], self.bias[:channels], training=True, eps=self.eps)


class SlimOperator(nn.Module):
    """Operator of all widths; `choose` selects the current one. Its inputs have the channels of that width.

    Args:
        template: Operator between two widths.
        largest: Index of the largest choice of each width decision.
    """

    def __init__(self, template: OpTemplate, largest: Sequence[int]) -> None:
        super().__init__()
        self.template = template
        whole = replace(template, optional=False).at(largest)
        self.module = build_module(whole)
        _replace_norms(self.module)
        self._convolutions = [child for child in self.module.modules() if isinstance(child, nn.Conv2d)]
        widths = list(_list_convolutions(get_recipe(whole)))
        for child, (_, parts) in zip(self._convolutions, widths, strict=True):
            child.__class__ = SlimConv2d
            child.parts = parts  # type: ignore[assignment]
        self.choose(largest)

    def choose(self, widths: Sequence[int]) -> None:
        """Select the choices of all width decisions, [W]."""
        self._passes = is_free(self.template.at(widths))
        spec = replace(self.template, optional=False).at(widths)
        for child, active in zip(self._convolutions, _list_convolutions(get_recipe(spec)), strict=True):
            child.active = active  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator of the current width."""
        if self._passes:
            return x
        out: Tensor = self.module(x)
        return out


def build_slim(template: OpTemplate, largest: Sequence[int]) -> nn.Module:
    """Return the module of an operator of all widths; one without weights takes any width itself."""
    spec = template.at(largest)
    always_passes = template.optional and template.c_in == template.c_out and template.stride == 1
    whole = spec if always_passes else replace(template, optional=False).at(largest)
    return SlimOperator(template, largest) if count_parameters(whole) else build_module(whole)


def _replace_norms(module: nn.Module) -> None:
    """Replace the batch normalisations inside a module."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SlimBatchNorm2d(child))


def _list_convolutions(layers: Sequence[recipe.Layer]) -> Iterator[Convolution]:
    """Yield the channels of all convolutions of layers, in the order of their modules."""
    for layer in layers:
        match layer:
            case recipe.Conv():
                yield layer.c_out, (layer.c_in,)
            case recipe.SqueezeExcite():
                yield layer.reduced, (layer.channels,)
                yield layer.channels, (layer.reduced,)
            case recipe.PoolPyramid():
                branches = len(layer.kernels) + 1
                for _ in range(branches):
                    yield layer.reduced, (layer.channels,)
                yield layer.channels, (layer.channels, *[layer.reduced] * branches)
            case recipe.Residual():
                yield from _list_convolutions(layer.layers)
