"""PIDNet-S, "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import (
    BasicBlock,
    Bottleneck,
    ContextPooling,
    NormedHead,
    PeerNetwork,
    SharedStages,
    conv_norm,
    norm_act_conv,
    resize,
    stage,
)

_WIDTH = 32
_CONTEXT = 96
_HEAD = 128
"""Channels of the stem, of each scale of the context module, and of the head; the family's smallest."""


class PAPPM(ContextPooling):
    """Parallel aggregation pyramid pooling: one grouped convolution for all scales."""

    def __init__(self, c_in: int, branch: int, c_out: int) -> None:
        super().__init__(c_in, branch, c_out)
        scales = len(self.scales) - 1
        self.process = norm_act_conv(scales * branch, scales * branch, 3, groups=scales)

    def mix(self, first: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Add the unpooled scale to each other one, then convolve."""
        return [first, self.process(torch.cat([level + first for level in pooled], dim=1))]


class PixelAttention(nn.Module):
    """Pixel-attention-guided fusion: add context to the pixels whose detail features agree with it.

    [N, channels, H, W] and [N, channels, h, w] -> [N, channels, H, W].
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, width, 1, act=False)
        self.context = conv_norm(channels, width, 1, act=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Mix both by their similarity at each pixel."""
        products = self.detail(detail) * resize(self.context(context), detail)
        share = torch.sigmoid(products.sum(dim=1, keepdim=True))
        return (1 - share) * detail + share * resize(context, detail)


class LightBoundaryAttention(nn.Module):
    """Boundary-attention-guided fusion, light variant: details at boundaries, context elsewhere.

    Three of [N, channels, H, W] -> [N, channels, H, W].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, channels, 1, act=False)
        self.context = conv_norm(channels, channels, 1, act=False)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Sum both branches, each with the other's share added."""
        edge = torch.sigmoid(boundary)
        out: Tensor = self.detail((1 - edge) * context + detail) + self.context(context + edge * detail)
        return out


class PIDNetS(PeerNetwork):
    """Network of three branches at 1/8 and coarser: details (P), context (I), boundaries (D) (arXiv 2206.02066).

    The boundary head of training is omitted. The norms of the PAPPM and the first of the head cannot be folded.

    Args:
        classes: Number of classes.
    """

    AUXILIARY: ClassVar = {"detail": 2 * _WIDTH}

    def __init__(self, classes: int = 19) -> None:
        super().__init__(classes)
        w = _WIDTH
        self.shared = SharedStages(w)
        self.context3 = stage(2 * w, 4 * w, 3, 2)
        self.context4 = stage(4 * w, 8 * w, 3, 2)
        self.context5 = nn.Sequential(Bottleneck(8 * w, 8 * w, 2), Bottleneck(16 * w, 8 * w))
        self.pooling = PAPPM(16 * w, _CONTEXT, 4 * w)
        self.squeeze3 = conv_norm(4 * w, 2 * w, 1, act=False)
        self.squeeze4 = conv_norm(8 * w, 2 * w, 1, act=False)
        self.detail3 = stage(2 * w, 2 * w, 2)
        self.detail4 = stage(2 * w, 2 * w, 2)
        self.detail5 = Bottleneck(2 * w, 2 * w)
        self.attend3 = PixelAttention(2 * w, w)
        self.attend4 = PixelAttention(2 * w, w)
        self.boundary3 = BasicBlock(2 * w, w, act=False)
        self.boundary4 = Bottleneck(w, w)
        self.boundary5 = Bottleneck(2 * w, 2 * w)
        self.edge3 = conv_norm(4 * w, w, act=False)
        self.edge4 = conv_norm(8 * w, 2 * w, act=False)
        self.merge = LightBoundaryAttention(4 * w)
        self.head = NormedHead(4 * w, _HEAD, classes)

    def outputs(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply the shared stages, the three branches, their fusion and the head."""
        shared = self.shared(x)
        detail, boundary = self.detail3(shared), self.boundary3(shared)
        context = F.relu(self.context3(shared))
        detail = F.relu(self.attend3(detail, self.squeeze3(context)))
        features = {"detail": detail}
        boundary = F.relu(boundary + resize(self.edge3(context), boundary))
        context = F.relu(self.context4(context))
        detail = F.relu(self.attend4(self.detail4(detail), self.squeeze4(context)))
        boundary = self.boundary4(boundary)
        boundary = F.relu(boundary + resize(self.edge4(context), boundary))
        detail, boundary = self.detail5(detail), self.boundary5(boundary)
        context = resize(self.pooling(self.context5(context)), detail)
        return self.head(self.merge(detail, context, boundary)), features
