"""Operators as a user would write them, which every suite of operators includes; also a file for `--plugin`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgc.models import Conv, OpSpec, Residual, SqueezeExcite, register_module, register_operator

POOL = 4
"""Pixels of the input per key and value, along each axis."""


class PooledAttention(nn.Module):
    """Attention of every pixel to average-pooled pixels, with a convolution and normalisation behind it."""

    def __init__(self, spec: OpSpec) -> None:
        super().__init__()
        inner = max(spec.c_in // 2, 1)
        self.reduce = nn.Sequential(
            nn.Conv2d(spec.c_in, spec.c_in, 3, spec.stride, padding=1, groups=spec.c_in, bias=False),
            nn.BatchNorm2d(spec.c_in),
        )
        self.pool = nn.AvgPool2d(POOL, ceil_mode=True)
        self.query, self.key = (nn.Conv2d(spec.c_in, inner, 1) for _ in range(2))
        self.value = nn.Conv2d(spec.c_in, spec.c_out, 1)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        pooled = self.pool(x)
        query, key, value = self.query(x).flatten(2), self.key(pooled).flatten(2), self.value(pooled).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key * key.shape[1] ** -0.5, dim=-1)
        mixed = value @ weights.transpose(1, 2)
        return self.act(mixed.unflatten(2, (x.shape[2], x.shape[3])))


def attention_macs(spec: OpSpec) -> int:
    height, width = spec.coarse
    pixels, keys = height * width, -(-height // POOL) * -(-width // POOL)
    inner = max(spec.c_in // 2, 1)
    projections = pixels * spec.c_in * inner + keys * spec.c_in * (inner + spec.c_out)
    return 9 * pixels * spec.c_in + projections + pixels * keys * (inner + spec.c_out)


@register_module("pooled_attention", macs=attention_macs, searchable=True)
def pooled_attention(spec: OpSpec) -> nn.Module:
    return PooledAttention(spec)


@register_operator("se_conv", searchable=True)
def se_conv(spec: OpSpec):
    """3x3 convolution with squeeze-excite."""
    return Conv(spec.c_in, spec.c_out, 3, spec.stride), SqueezeExcite(spec.c_out, max(spec.c_out // 4, 1))


@register_operator("inverted_residual", searchable=True)
def inverted_residual(spec: OpSpec):
    """Inverted residual with hard-swish, as in MobileNetV3."""
    wide = 2 * spec.c_in
    layers = (
        Conv(spec.c_in, wide, 1, activation="hardswish"),
        Conv(wide, wide, 3, spec.stride, groups=wide, activation="hardswish"),
        Conv(wide, spec.c_out, 1, activation="none"),
    )
    return (Residual(layers),) if spec.stride == 1 and spec.c_in == spec.c_out else layers


@register_operator("cross_conv", searchable=True)
def cross_conv(spec: OpSpec):
    """1x5 and 5x1 convolutions."""
    return (
        Conv(spec.c_in, spec.c_out, (1, 5), activation="gelu"),
        Conv(spec.c_out, spec.c_out, (5, 1), spec.stride),
    )


EXAMPLES = ("pooled_attention", "se_conv", "inverted_residual", "cross_conv")
