"""The operators of lgc: recipes of candidates for edges, and of the other parts of a network."""

from __future__ import annotations

from dataclasses import replace

from ...errors import UsageError
from ..recipe import (
    Add,
    ArgMax,
    Concat,
    Conv,
    Layer,
    MaxPool,
    PoolPyramid,
    Residual,
    Resize,
    SqueezeExcite,
)
from .operators import UPSAMPLE_STRIDED, ZERO, register_operator
from .opspec import OpSpec

MIN_POOLED = 8
"""Smallest number of channels of pooled features."""


def _square(spec: OpSpec) -> int:
    if spec.c_in != spec.c_out:
        raise UsageError(f"{spec}: {spec.operator} needs c_in equal to c_out, got {spec.c_in} and {spec.c_out}")
    return spec.c_in


def _separable(spec: OpSpec, dilation: int) -> tuple[Conv, ...]:
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


def _with_identity(spec: OpSpec, activation: str, *layers: Conv) -> tuple[Layer, ...]:
    """Return the sum of the input and layers, or the layers alone where they change the shape.

    Args:
        spec: Shapes.
        activation: Activation of the sum, or of the last layer without one.
        layers: Convolutions, the last one linear.
    """
    if spec.stride > 1 or spec.c_in != spec.c_out:
        return (*layers[:-1], replace(layers[-1], activation=activation))
    return (Residual(layers, activation),)


@register_operator("res_conv_3x3", searchable=True)
def _residual_conv(spec: OpSpec) -> tuple[Layer, ...]:
    """Residual block of two 3x3 convolutions (arXiv 1512.03385)."""
    return _with_identity(
        spec,
        "relu",
        Conv(spec.c_in, spec.c_out, 3, spec.stride),
        Conv(spec.c_out, spec.c_out, 3, activation="none"),
    )


def _residual_separable(spec: OpSpec, dilation: int) -> tuple[Layer, ...]:
    """Return a residual block of two separable 3x3 convolutions."""
    return _with_identity(
        spec,
        "relu",
        *_separable(spec, dilation),
        Conv(spec.c_out, spec.c_out, 3, 1, dilation, groups=spec.c_out),
        Conv(spec.c_out, spec.c_out, 1, activation="none"),
    )


@register_operator("res_sep_conv_3x3", searchable=True)
def _residual_separable_d1(spec: OpSpec) -> tuple[Layer, ...]:
    return _residual_separable(spec, 1)


@register_operator("res_sep_conv_3x3_d2", searchable=True)
def _residual_separable_d2(spec: OpSpec) -> tuple[Layer, ...]:
    return _residual_separable(spec, 2)


@register_operator("res_sep_conv_3x3_d4", searchable=True)
def _residual_separable_d4(spec: OpSpec) -> tuple[Layer, ...]:
    return _residual_separable(spec, 4)


def _inverted_residual(spec: OpSpec, expansion: int) -> tuple[Layer, ...]:
    """Return an inverted residual: 1x1 expansion, depthwise 3x3, linear 1x1 (arXiv 1801.04381)."""
    wide = expansion * spec.c_in
    return _with_identity(
        spec,
        "none",
        Conv(spec.c_in, wide, 1),
        Conv(wide, wide, 3, spec.stride, groups=wide),
        Conv(wide, spec.c_out, 1, activation="none"),
    )


@register_operator("inv_res_3x3_e2", searchable=True)
def _inverted_residual_e2(spec: OpSpec) -> tuple[Layer, ...]:
    return _inverted_residual(spec, 2)


@register_operator("inv_res_3x3_e4", searchable=True)
def _inverted_residual_e4(spec: OpSpec) -> tuple[Layer, ...]:
    return _inverted_residual(spec, 4)


@register_operator("fused_res_3x3_e2", searchable=True)
def _fused_residual(spec: OpSpec) -> tuple[Layer, ...]:
    """Fused inverted residual: expanding 3x3, linear 1x1 convolution (arXiv 2104.00298)."""
    return _with_identity(
        spec,
        "none",
        Conv(spec.c_in, 2 * spec.c_in, 3, spec.stride),
        Conv(2 * spec.c_in, spec.c_out, 1, activation="none"),
    )


def _pooled_channels(channels: int) -> int:
    """Return the channels of pooled features: a quarter of a map's, but at least `MIN_POOLED`."""
    return max(channels // 4, MIN_POOLED)


@register_operator("pool_gate", searchable=True)
def _pool_gate(spec: OpSpec) -> tuple[Layer, ...]:
    """Gate of each channel from the means of all; a 1x1 convolution before it at stride 2."""
    channels = _square(spec)
    return (*_skip(spec), SqueezeExcite(channels, _pooled_channels(channels)))


@register_operator("pool_pyramid", searchable=True)
def _pool_pyramid(spec: OpSpec) -> tuple[Layer, ...]:
    """Light pyramid pooling; a 1x1 convolution before it at stride 2."""
    channels = _square(spec)
    return (*_skip(spec), PoolPyramid(channels, _pooled_channels(channels)))


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
    return (Concat(spec.c_out),) if spec.c_out > spec.c_in else ()


@register_operator("downsample")
def _downsample(spec: OpSpec) -> tuple[Layer, ...]:
    return (Resize(spec.fine, spec.coarse, spec.stride),)


@register_operator("upsample", upsamples=True)
def _upsample(spec: OpSpec) -> tuple[Layer, ...]:
    return (Resize(spec.coarse, spec.fine, spec.stride),)


@register_operator(UPSAMPLE_STRIDED, upsamples=True)
def _upsample_strided(spec: OpSpec) -> tuple[Layer, ...]:
    """Upsampling in which pixel p reads feature p / stride."""
    return (Resize(spec.coarse, spec.fine, spec.stride, strided=True),)


@register_operator("argmax")
def _argmax(spec: OpSpec) -> tuple[Layer, ...]:
    return (ArgMax(),)
