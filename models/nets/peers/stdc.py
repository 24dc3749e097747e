"""STDC1-Seg, "Rethinking BiSeNet For Real-time Semantic Segmentation"."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from .common import PeerNetwork, conv_norm, depthwise, resize

_STAGES = (256, 512, 1024)
"""Channels at 1/8, 1/16 and 1/32; STDC1 has two modules at each."""
_WIDTH = 128
"""Channels of the context path."""
_FUSED = 256
"""Channels of the feature fusion and of the head."""


class STDCModule(nn.Module):
    """Short-term dense concatenation: [N, c_in, H, W] -> [N, c_out, H / stride, W / stride].

    Four convolutions in sequence, of 1/2, 1/4, 1/8 and 1/8 of the width, the first pointwise; all outputs are
    concatenated. At stride 2, a depthwise convolution reduces the second one's input, and an average the first output.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        widths = (c_out // 2, c_out // 4, c_out // 8, c_out // 8)
        self.first = conv_norm(c_in, widths[0], 1)
        self.reduce: nn.Module = depthwise(widths[0], stride) if stride > 1 else nn.Identity()
        self.skip: nn.Module = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.rest = nn.ModuleList(conv_norm(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve in sequence and concatenate the outputs."""
        first = self.first(x)
        outputs = [self.skip(first)]
        x = self.reduce(first)
        for conv in self.rest:
            x = conv(x)
            outputs.append(x)
        return torch.cat(outputs, dim=1)


class STDC1(nn.Module):
    """STDC1 backbone: [N, 3, H, W] -> features at 1/8, 1/16 and 1/32, [N, C, H / s, W / s] each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 32, 3, 2), conv_norm(32, 64, 3, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(STDCModule(a, b, 2), STDCModule(b, b, 1)) for a, b in pairwise((64, *_STAGES))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features, finest first."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class AttentionRefinement(nn.Module):
    """Convolution, then channel attention from the global average: [N, c_in, h, w] -> [N, c_out, h, w]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = conv_norm(c_in, c_out)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm(c_out, c_out, 1, act=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and weight the channels."""
        x = self.conv(x)
        out: Tensor = x * self.gate(x)
        return out


class AttentionFusion(nn.Module):
    """BiSeNet's feature fusion: concatenation, convolution, channel attention -> [N, c_out, h, w]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = conv_norm(c_in, c_out, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c_out, c_out // 4, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out // 4, c_out, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Fuse detail and context, c_in channels in total."""
        x = self.conv(torch.cat([detail, context], dim=1))
        out: Tensor = x * self.gate(x) + x
        return out


class STDC1Seg(PeerNetwork):
    """Network of STDC1 with BiSeNet's context path and fusion, without a spatial path (arXiv 2104.13188).

    The detail head of training is omitted. Features are upsampled by nearest neighbour, as in the authors' code for
    training and timing.

    Args:
        classes: Number of classes.
    """

    AUXILIARY: ClassVar = {"context32": _WIDTH, "context16": _WIDTH}

    def __init__(self, classes: int = 19) -> None:
        super().__init__(classes)
        self.backbone = STDC1()
        detail, middle, deep = _STAGES
        self.average = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm(deep, _WIDTH, 1))
        self.refine32 = AttentionRefinement(deep, _WIDTH)
        self.refine16 = AttentionRefinement(middle, _WIDTH)
        self.conv32 = conv_norm(_WIDTH, _WIDTH)
        self.conv16 = conv_norm(_WIDTH, _WIDTH)
        self.fuse = AttentionFusion(detail + _WIDTH, _FUSED)
        self.head = nn.Sequential(conv_norm(_FUSED, _FUSED), nn.Conv2d(_FUSED, classes, 1, bias=False))

    def outputs(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply the backbone, the context path from coarse to fine, the fusion and the head."""
        detail, middle, deep = self.backbone(x)
        # The average has a single pixel: broadcasting is nearest-neighbour upsampling.
        context = self.refine32(deep) + self.average(deep)
        context32 = self.conv32(resize(context, middle, "nearest"))
        context16 = self.conv16(resize(self.refine16(middle) + context32, detail, "nearest"))
        return self.head(self.fuse(detail, context16)), {"context32": context32, "context16": context16}
