"""BiSeNetV2, "BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation"."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import PeerNetwork, conv_norm, depthwise, resize, separable

_WIDTH = 128
"""Channels at the end of both branches."""
_EXPANSION = 6
_HEAD = 320
"""Channels inside the head. The paper calls them C_t and gives no number: this is the largest multiple of 64 that does
not exceed the published multiply-accumulates of the whole network. Everything else is as published."""
_BOOSTED = {0: ("stem", 16), 2: ("semantic8", 32), 4: ("semantic16", 64), 8: ("semantic32", _WIDTH)}
"""Blocks of the semantic branch that end a stage -> feature of a booster head, and its channels."""


class StemBlock(nn.Module):
    """Strided convolution and pooling in parallel: [N, 3, H, W] -> [N, 16, H / 4, W / 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_norm(3, 16, 3, 2)
        self.convolve = nn.Sequential(conv_norm(16, 8, 1), conv_norm(8, 16, 3, 2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.last = conv_norm(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce both ways and merge."""
        x = self.first(x)
        out: Tensor = self.last(torch.cat([self.convolve(x), self.pool(x)], dim=1))
        return out


class GatherExpand(nn.Module):
    """Gather-and-expansion layer: [N, c_in, H, W] -> [N, c_out, H / stride, W / stride].

    A 3x3 convolution gathers and expands, a depthwise one follows (two at stride 2, for the receptive field), and a
    pointwise one projects. Reimplementations often expand in the depthwise convolution instead; that contradicts the
    paper's text and costs 3 GMACs less at 512x1024.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        inner = _EXPANSION * c_in
        spread = [depthwise(inner, stride), *([depthwise(inner)] if stride > 1 else [])]
        self.body = nn.Sequential(conv_norm(c_in, inner), *spread, conv_norm(inner, c_out, 1, act=False))
        self.shortcut = separable(c_in, c_out, stride, act=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add body and shortcut, then apply the ReLU."""
        return F.relu(self.body(x) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """Add the global average to every pixel, sizes unchanged; the average is normalised before its convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.average = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(channels), conv_norm(channels, channels, 1)
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the context and convolve."""
        out: Tensor = self.conv(x + self.average(x))
        return out


class GuidedAggregation(nn.Module):
    """Gate each branch by the other, at 1/8 and at 1/32: -> [N, channels, H / 8, W / 8]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail_fine = _pointwise_block(channels)
        self.detail_coarse = nn.Sequential(conv_norm(channels, channels, 3, 2, act=False), nn.AvgPool2d(3, 2, 1))
        self.semantic_fine = conv_norm(channels, channels, act=False)
        self.semantic_coarse = _pointwise_block(channels)
        self.last = conv_norm(channels, channels, act=False)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """Merge [N, channels, H / 8, W / 8] and [N, channels, H / 32, W / 32]."""
        fine = self.detail_fine(detail) * torch.sigmoid(resize(self.semantic_fine(semantic), detail))
        coarse = self.detail_coarse(detail) * torch.sigmoid(self.semantic_coarse(semantic))
        out: Tensor = self.last(fine + resize(coarse, detail))
        return out


def _pointwise_block(channels: int) -> nn.Sequential:
    return nn.Sequential(depthwise(channels), nn.Conv2d(channels, channels, 1))


class BiSeNetV2(PeerNetwork):
    """Network of a shallow detail branch, a deep semantic branch, aggregation and head (arXiv 2004.02147).

    Args:
        classes: Number of classes.
    """

    AUXILIARY: ClassVar = dict(_BOOSTED.values())

    def __init__(self, classes: int = 19) -> None:
        super().__init__(classes)
        self.detail = nn.Sequential(
            *(conv_norm(3, 64, 3, 2), conv_norm(64, 64)),
            *(conv_norm(64, 64, 3, 2), conv_norm(64, 64), conv_norm(64, 64)),
            *(conv_norm(64, _WIDTH, 3, 2), conv_norm(_WIDTH, _WIDTH), conv_norm(_WIDTH, _WIDTH)),
        )
        self.semantic = nn.Sequential(
            StemBlock(),
            *(GatherExpand(16, 32, 2), GatherExpand(32, 32, 1)),
            *(GatherExpand(32, 64, 2), GatherExpand(64, 64, 1)),
            GatherExpand(64, _WIDTH, 2),
            *(GatherExpand(_WIDTH, _WIDTH, 1) for _ in range(3)),
            ContextEmbedding(_WIDTH),
        )
        self.aggregate = GuidedAggregation(_WIDTH)
        self.head = nn.Sequential(conv_norm(_WIDTH, _HEAD), nn.Conv2d(_HEAD, classes, 1))

    def outputs(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply both branches, the aggregation and the head."""
        semantic, features = x, {}
        for index, block in enumerate(self.semantic):
            semantic = block(semantic)
            if index in _BOOSTED:
                features[_BOOSTED[index][0]] = semantic
        return self.head(self.aggregate(self.detail(x), semantic)), features
