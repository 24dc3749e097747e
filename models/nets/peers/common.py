"""Blocks shared by several peers.

Batch normalisations after a convolution are part of `layers.ConvNormAct`, so that `layers.fold_norms` folds them. Those
before one (`norm_act`), in the context modules and heads of DDRNet and PIDNet, cannot be folded: they remain in the
exported graph, as a product and a sum per channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import UsageError
from ...recipe import Conv
from ..layers import ConvNormAct
from . import MIN_SIZE


class PeerNetwork(nn.Module):
    """Peer in its inference form: [N, 3, H, W] -> [N, classes, H / 8, W / 8], rounded up.

    H and W may have any size from `MIN_SIZE`: where the papers upsample by a factor, features are resized to the size
    of those that they are merged with. For multiples of 32 (64 with DDRNet and PIDNet) the result is the same.
    """

    AUXILIARY: ClassVar[Mapping[str, int]] = {}
    """Features that the paper's auxiliary classifiers read in training -> their channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits at stride 8.

        Raises:
            UsageError: The images are too small or do not have 3 channels.
        """
        return self.compute(x)[0]

    def compute(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the logits at stride 8, and the features named in `AUXILIARY`.

        Raises:
            UsageError: The images are too small or do not have 3 channels.
        """
        channels, height, width = (int(side) for side in x.shape[-3:])
        if channels != 3 or min(height, width) < MIN_SIZE:
            raise UsageError(
                f"{type(self).__name__} needs images of 3 channels and at least {MIN_SIZE}x{MIN_SIZE} pixels, "
                f"got {channels} channels and {height}x{width}"
            )
        return self.outputs(x)

    def outputs(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute logits, [N, classes, H / 8, W / 8], and auxiliary features of checked images, [N, 3, H, W]."""
        raise NotImplementedError


def conv_norm(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, dilation: int = 1, act: bool = True
) -> ConvNormAct:
    """Return a convolution with batch normalisation and optional ReLU; only the stride changes the size."""
    return ConvNormAct(Conv(c_in, c_out, kernel, stride, dilation, groups, activation="relu" if act else "none"))


def depthwise(channels: int, stride: int = 1, *, dilation: int = 1, act: bool = False) -> ConvNormAct:
    """Return a depthwise 3x3 convolution with batch normalisation and optional ReLU."""
    return conv_norm(channels, channels, 3, stride, groups=channels, dilation=dilation, act=act)


def separable(c_in: int, c_out: int, stride: int = 1, *, act: bool = True) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise convolution, both normalised, without activation in between."""
    return nn.Sequential(depthwise(c_in, stride), conv_norm(c_in, c_out, 1, act=act))


def norm_act(channels: int) -> nn.Sequential:
    """Return the batch normalisation and ReLU that precede a convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def norm_act_conv(c_in: int, c_out: int, kernel: int = 1, *, groups: int = 1) -> nn.Sequential:
    """Return batch normalisation, ReLU and convolution without bias."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(norm_act(c_in), conv)


def resize(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    """Resize [N, C, h, w] to the height and width of `like`, corners not aligned."""
    # Plain integers: a traced size would make the exported shapes dynamic.
    size = (int(like.shape[-2]), int(like.shape[-1]))
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (arXiv 1512.03385): [N, c_in, H, W] -> [N, c_out, H / stride, W / stride].

    Args:
        c_in: Input channels.
        c_out: Output channels.
        stride: Stride of the first convolution and of the shortcut.
        act: Include the ReLU after the sum.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(c_in, c_out, 3, stride), conv_norm(c_out, c_out, act=False))
        self.shortcut = _shortcut(c_in, c_out, stride)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Add body and shortcut."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return F.relu(out) if self.act else out


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions that doubles the width, without ReLU after the sum.

    [N, c_in, H, W] -> [N, 2 * width, H / stride, W / stride].
    """

    def __init__(self, c_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(c_in, width, 1), conv_norm(width, width, 3, stride), conv_norm(width, 2 * width, 1, act=False)
        )
        self.shortcut = _shortcut(c_in, 2 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add body and shortcut."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Identity() if c_in == c_out and stride == 1 else conv_norm(c_in, c_out, 1, stride, act=False)


def stage(c_in: int, c_out: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return basic blocks, the last without ReLU: branches exchange features before the activation."""
    first = BasicBlock(c_in, c_out, stride)
    return nn.Sequential(first, *(BasicBlock(c_out, c_out, act=index < blocks - 1) for index in range(1, blocks)))


class SharedStages(nn.Module):
    """First stages of DDRNet and PIDNet: [N, 3, H, W] -> [N, 2 * width, H / 8, W / 8], after a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, width, 3, 2), conv_norm(width, width, 3, 2))
        self.first = stage(width, width, 2)
        self.second = stage(width, 2 * width, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stem and two stages."""
        return F.relu(self.second(F.relu(self.first(self.stem(x)))))


class ContextPooling(nn.Module):
    """Base of DDRNet's and PIDNet's context modules: [N, c_in, h, w] -> [N, c_out, h, w].

    Five scales are projected to `branch` channels each: the input, its averages over windows of 5, 9 and 17 with
    strides 2, 4 and 8, and its global average. They are mixed, concatenated and compressed, and a shortcut is added.
    """

    def __init__(self, c_in: int, branch: int, c_out: int) -> None:
        super().__init__()
        windows = [nn.AvgPool2d(2 * stride + 1, stride, stride) for stride in (2, 4, 8)]
        pools = [nn.Identity(), *windows, nn.AdaptiveAvgPool2d(1)]
        self.scales = nn.ModuleList(nn.Sequential(pool, norm_act_conv(c_in, branch)) for pool in pools)
        self.compress = norm_act_conv(len(pools) * branch, c_out)
        self.shortcut = norm_act_conv(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, mix and compress."""
        first, *pooled = [scale(x) for scale in self.scales]
        mixed = self.mix(first, [resize(level, first) for level in pooled])
        out: Tensor = self.compress(torch.cat(mixed, dim=1)) + self.shortcut(x)
        return out

    def mix(self, first: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Mix five tensors [N, branch, h, w] into tensors of 5 * branch channels in total."""
        raise NotImplementedError


class NormedHead(nn.Module):
    """Classifier of DDRNet and PIDNet: [N, c_in, h, w] -> [N, classes, h, w]. Its first norm cannot be folded."""

    def __init__(self, c_in: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(norm_act(c_in), conv_norm(c_in, width), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        logits: Tensor = self.layers(x)
        return logits
