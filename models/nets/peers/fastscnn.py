"""Fast-SCNN, "Fast-SCNN: Fast Semantic Segmentation Network"."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import PeerNetwork, conv_norm, depthwise, resize, separable

_EXPANSION = 6
_BOTTLENECKS = ((64, 2), (96, 2), (128, 1))
"""Channels and stride of the global feature extractor's three groups of three bottlenecks."""
_BINS = (1, 2, 3, 6)
"""Grid sizes of the pyramid pooling."""
_WIDTH = 128
"""Channels of the fusion and of the classifier."""


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection (arXiv 1801.04381), all normalised.

    [N, c_in, H, W] -> [N, c_out, H / stride, W / stride]; the input is added if the shapes are equal.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        inner = _EXPANSION * c_in
        self.body = nn.Sequential(
            conv_norm(c_in, inner, 1), depthwise(inner, stride, act=True), conv_norm(inner, c_out, 1, act=False)
        )
        self.residual = c_in == c_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the body, and add the input if the shapes are equal."""
        out: Tensor = self.body(x)
        return x + out if self.residual else out


class PyramidPooling(nn.Module):
    """Concatenate features with their averages over grids of 1, 4, 9 and 36 cells (arXiv 1612.01105), then project."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(conv_norm(channels, channels // len(_BINS), 1) for _ in _BINS)
        self.project = conv_norm(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, convolve, concatenate and project; the shape is unchanged."""
        pooled = [level(grid_average(x, bins)) for level, bins in zip(self.levels, _BINS, strict=True)]
        out: Tensor = self.project(torch.cat([x, *(resize(level, x) for level in pooled)], dim=1))
        return out


def grid_average(x: Tensor, bins: int) -> Tensor:
    """Pool adaptively, [N, C, H, W] -> [N, C, bins, bins], by products with two constant matrices.

    ONNX has no adaptive pooling, and H and W are rarely multiples of 3 and 6.
    """
    height, width = int(x.shape[-2]), int(x.shape[-1])
    return _averaging(height, bins, x) @ x @ _averaging(width, bins, x).T


def _averaging(size: int, bins: int, like: Tensor) -> Tensor:
    """Return [bins, size]; row i averages from floor(i * size / bins) to ceil((i + 1) * size / bins)."""
    rows = []
    for index in range(bins):
        start, end = index * size // bins, -(-(index + 1) * size // bins)
        rows.append([1 / (end - start) if start <= position < end else 0.0 for position in range(size)])
    matrix = torch.tensor(rows, dtype=like.dtype)
    # A plain copy to a GPU would make the host wait for it.
    return matrix if like.device.type == "cpu" else matrix.to(like.device, non_blocking=True)


class FeatureFusion(nn.Module):
    """Sum of features at 1/8 and at 1/32, projected to one width: -> [N, 128, H / 8, W / 8]."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.fine = conv_norm(fine, _WIDTH, 1, act=False)
        # The dilation equals the upsampling factor: nearer neighbours are nearly equal.
        self.spread = depthwise(coarse, dilation=4, act=True)
        self.coarse = conv_norm(coarse, _WIDTH, 1, act=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Upsample the coarse features and add both."""
        return F.relu(self.fine(fine) + self.coarse(self.spread(resize(coarse, fine))))


class FastSCNN(PeerNetwork):
    """Network of downsampling, global feature extractor, feature fusion and classifier (arXiv 1902.04502).

    Dropout is omitted.

    Args:
        classes: Number of classes.
    """

    AUXILIARY: ClassVar = {"downsample": 64, "extract": 128}

    def __init__(self, classes: int = 19) -> None:
        super().__init__(classes)
        self.downsample = nn.Sequential(conv_norm(3, 32, 3, 2), separable(32, 48, 2), separable(48, 64, 2))
        blocks, channels = [], 64
        for c_out, stride in _BOTTLENECKS:
            for index in range(3):
                blocks.append(InvertedBottleneck(channels, c_out, stride if index == 0 else 1))
                channels = c_out
        self.extract = nn.Sequential(*blocks, PyramidPooling(channels))
        self.fuse = FeatureFusion(64, channels)
        self.classify = nn.Sequential(
            separable(_WIDTH, _WIDTH), separable(_WIDTH, _WIDTH), nn.Conv2d(_WIDTH, classes, 1)
        )

    def outputs(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply the four modules in turn."""
        fine = self.downsample(x)
        coarse = self.extract(fine)
        return self.classify(self.fuse(fine, coarse)), {"downsample": fine, "extract": coarse}
