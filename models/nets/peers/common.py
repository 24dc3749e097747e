"""Blocks that several peers are made of.

Batch normalisations behind a convolution are parts of `layers.ConvNormAct`, so that `layers.folded` folds them. Those
in front of one, as DDRNet's and PIDNet's context modules and heads have them (`norm_act`), cannot be folded and stay in
the exported graph, as a product and a sum for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import UsageError
from ...space import operators as ops
from ..layers import ConvNormAct
from . import MIN_SIZE


class PeerNetwork(nn.Module):
    """A peer in its inference form: [N, 3, H, W] -> [N, classes, H / 8, W / 8], rounded up.

    H and W need be multiples of nothing: what the papers upsample by a factor is resized to the size of the features
    that it meets. For multiples of 32 (64 with DDRNet and PIDNet) that is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Logits at stride 8.

        Raises:
            UsageError: the images are too small, or have not three channels.
        """
        channels, height, width = (int(side) for side in x.shape[-3:])
        if channels != 3 or min(height, width) < MIN_SIZE:
            raise UsageError(
                f"{type(self).__name__} takes images of 3 channels, {MIN_SIZE}x{MIN_SIZE} pixels or more "
                f"(sides that are multiples of 1, so any), not of {channels} channels and {height}x{width}"
            )
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Compute, [N, 3, H, W] -> [N, classes, H / 8, W / 8]."""
        raise NotImplementedError


def conv_norm(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, dilation: int = 1, act: bool = True
) -> ConvNormAct:
    """Convolution, batch normalisation and, with `act`, ReLU; padded so that only the stride changes the size."""
    return ConvNormAct(ops.Conv(c_in, c_out, kernel, stride, dilation, groups), act=act)


def depthwise(channels: int, stride: int = 1, *, dilation: int = 1, act: bool = False) -> ConvNormAct:
    """Depthwise 3x3 convolution with its normalisation."""
    return conv_norm(channels, channels, 3, stride, groups=channels, dilation=dilation, act=act)


def separable(c_in: int, c_out: int, stride: int = 1, *, act: bool = True) -> nn.Sequential:
    """Depthwise 3x3 and pointwise convolution, both normalised, nothing non-linear in between."""
    return nn.Sequential(depthwise(c_in, stride), conv_norm(c_in, c_out, 1, act=act))


def norm_act(channels: int) -> nn.Sequential:
    """Batch normalisation and ReLU in front of a convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def norm_act_conv(c_in: int, c_out: int, kernel: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Batch normalisation, ReLU, convolution without bias."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(norm_act(c_in), conv)


def resize(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    """[N, C, h, w] -> [N, C, H, W] where [H, W] is the size of `like`; corners not aligned."""
    # As plain integers, because a size that tracing follows makes the exported shapes dynamic.
    size = (int(like.shape[-2]), int(like.shape[-1]))
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (arXiv 1512.03385): [N, c_in, H, W] -> [N, c_out, H / stride, W / stride].

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: of the first convolution and of the shortcut.
        act: whether a ReLU follows the sum.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(c_in, c_out, 3, stride), conv_norm(c_out, c_out, act=False))
        self.shortcut = _shortcut(c_in, c_out, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Body plus shortcut."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return F.relu(out) if self.act else out


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3, 1x1 that doubles its width, no ReLU behind the sum.

    [N, c_in, H, W] -> [N, 2 * width, H / stride, W / stride].
    """

    def __init__(self, c_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(c_in, width, 1), conv_norm(width, width, 3, stride), conv_norm(width, 2 * width, 1, act=False)
        )
        self.shortcut = _shortcut(c_in, 2 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Body plus shortcut."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Identity() if c_in == c_out and stride == 1 else conv_norm(c_in, c_out, 1, stride, act=False)


def stage(c_in: int, c_out: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Residual basic blocks, no ReLU behind the last: the branches exchange features before they are rectified."""
    first = BasicBlock(c_in, c_out, stride)
    return nn.Sequential(first, *(BasicBlock(c_out, c_out, act=index < blocks - 1) for index in range(1, blocks)))


class SharedStages(nn.Module):
    """What DDRNet and PIDNet begin with: [N, 3, H, W] -> [N, 2 * width, H / 8, W / 8], rectified."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, width, 3, 2), conv_norm(width, width, 3, 2))
        self.first = stage(width, width, 2)
        self.second = stage(width, 2 * width, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions, two stages."""
        return F.relu(self.second(F.relu(self.first(self.stem(x)))))


class ContextPooling(nn.Module):
    """What DDRNet's and PIDNet's context modules share: [N, c_in, h, w] -> [N, c_out, h, w].

    The input itself, its averages over windows of 5, 9 and 17 with strides 2, 4 and 8, and over everything, each
    brought to `branch` channels, are mixed, put together and added to a shortcut.
    """

    def __init__(self, c_in: int, branch: int, c_out: int) -> None:
        super().__init__()
        windows = [nn.AvgPool2d(2 * stride + 1, stride, stride) for stride in (2, 4, 8)]
        pools = [nn.Identity(), *windows, nn.AdaptiveAvgPool2d(1)]
        self.scales = nn.ModuleList(nn.Sequential(pool, norm_act_conv(c_in, branch)) for pool in pools)
        self.compress = norm_act_conv(len(pools) * branch, c_out)
        self.shortcut = norm_act_conv(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, mix, compress."""
        first, *pooled = [scale(x) for scale in self.scales]
        mixed = self.mix(first, [resize(level, first) for level in pooled])
        out: Tensor = self.compress(torch.cat(mixed, dim=1)) + self.shortcut(x)
        return out

    def mix(self, first: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """What to put together, 5 * branch channels in all, from five tensors of shape [N, branch, h, w]."""
        raise NotImplementedError


class NormedHead(nn.Module):
    """Classifier of DDRNet and PIDNet: [N, c_in, h, w] -> [N, classes, h, w]. Its first norm stands alone."""

    def __init__(self, c_in: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(norm_act(c_in), conv_norm(c_in, width), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        logits: Tensor = self.layers(x)
        return logits
