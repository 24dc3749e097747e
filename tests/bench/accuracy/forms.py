"""Two forms of a space that wins, as a user's networks: stem to 1/8, cells of one node, width instead of depth.

Both have about the latency of Fast-SCNN at 192x256. They are written in plain torch, so any commit of lgc that trains
a user's network trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


def convolve(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Module:
    """Return a convolution with batch normalisation, and ReLU if `act`; only the stride changes the size."""
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Cell(nn.Module):
    """One node: operator of the previous cell's output, which is added where the shapes are equal."""

    def __init__(self, operator: nn.Module, identity: bool) -> None:
        super().__init__()
        self.operator = operator
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """Return the node."""
        out: Tensor = self.operator(x)
        return F.relu(x + out if self.identity else out)


def separable_cell(c_in: int, c_out: int, stride: int) -> Cell:
    """Return a cell of two separable 3x3 convolutions."""
    operator = nn.Sequential(
        convolve(c_in, c_in, stride=stride, groups=c_in),
        convolve(c_in, c_out, kernel=1),
        convolve(c_out, c_out, groups=c_out),
        convolve(c_out, c_out, kernel=1, act=False),
    )
    return Cell(operator, c_in == c_out and stride == 1)


def residual_cell(c_in: int, c_out: int, stride: int) -> Cell:
    """Return a cell of two 3x3 convolutions, as in a residual block."""
    operator = nn.Sequential(convolve(c_in, c_out, stride=stride), convolve(c_out, c_out, act=False))
    return Cell(operator, c_in == c_out and stride == 1)


class Form(nn.Module):
    """Map images [N, 3, H, W] to logits [N, classes, H / 8, W / 8]; both sides are multiples of 32.

    In training, a dictionary has the logits under `out`, and auxiliary logits at 1/16 and at 1/32.

    Args:
        classes: number of classes.
        cell: function from input channels, output channels and stride to a cell.
        stem: channels at 1/2, 1/4 and 1/8.
        widths: channels of the cells at 1/8, 1/16 and 1/32.
        cells: number of cells at each of them.
        fused: channels of the fusion at 1/8.
    """

    def __init__(
        self,
        classes: int,
        cell: Callable[[int, int, int], Cell],
        stem: Sequence[int],
        widths: Sequence[int],
        cells: Sequence[int],
        fused: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(convolve(c_in, c_out, stride=2) for c_in, c_out in pairwise((3, *stem))))
        levels, channels = [], stem[-1]
        for level, (width, count) in enumerate(zip(widths, cells, strict=True)):
            strides = [2 if level and index == 0 else 1 for index in range(count)]
            inputs = [channels] + [width] * (count - 1)
            levels.append(nn.Sequential(*(cell(c_in, width, s) for c_in, s in zip(inputs, strides, strict=True))))
            channels = width
        self.levels = nn.ModuleList(levels)
        self.project = nn.ModuleList(convolve(width, fused, kernel=1, act=False) for width in widths)
        self.head = nn.Sequential(convolve(fused, fused, groups=fused), convolve(fused, fused, kernel=1))
        self.classify = nn.Conv2d(fused, classes, 1)
        self.auxiliary = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the logits; in training, also the auxiliary ones."""
        x = self.stem(x)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        fine, *coarse = (project(feature) for project, feature in zip(self.project, features, strict=True))
        size = fine.shape[-2:]
        resized = [F.interpolate(feature, size=size, mode="bilinear", align_corners=False) for feature in coarse]
        logits: Tensor = self.classify(self.head(F.relu(fine + resized[0] + resized[1])))
        if not self.training:
            return logits
        aux_16, aux_32 = (head(feature) for head, feature in zip(self.auxiliary, features[1:], strict=True))
        return {"out": logits, "aux_16": aux_16, "aux_32": aux_32}


def build_separable(classes: int) -> Form:
    """Return the form of separable 3x3 convolutions, 64 channels at 1/8."""
    return Form(classes, separable_cell, (32, 48, 64), (64, 128, 256), (3, 4, 4), 128)


def build_residual(classes: int) -> Form:
    """Return the form of residual 3x3 convolutions, 32 channels at 1/8."""
    return Form(classes, residual_cell, (16, 32, 32), (32, 64, 128), (3, 3, 3), 128)
