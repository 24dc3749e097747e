"""A network as a user might bring it: a small U-Net with dropout and an auxiliary classifier, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 96, 128)
"""Channels at strides 2, 4, 8, 16 and 32."""


def convolve(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """Map images [N, 3, H, W] to logits [N, classes, H/4, W/4]; both sides are multiples of 32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(convolve(c_in, c_out, 2), convolve(c_out, c_out))
            for c_in, c_out in zip(inputs, WIDTHS, strict=True)
        )
        self.up = nn.ModuleList(
            convolve(WIDTHS[index] + WIDTHS[index - 1], WIDTHS[index - 1]) for index in range(len(WIDTHS) - 1, 1, -1)
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(WIDTHS[1], classes, 1)
        self.auxiliary = nn.Conv2d(WIDTHS[-1], classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the logits under `out`, and those of the deepest feature under `aux`."""
        features = []
        for down in self.down:
            x = down(x)
            features.append(x)
        deepest = features.pop()
        x = deepest
        for up in self.up:
            feature = features.pop()
            x = up(torch.cat([F.interpolate(x, size=feature.shape[2:], mode="nearest"), feature], 1))
        return {"out": self.classify(self.dropout(x)), "aux": self.auxiliary(deepest)}


def build(classes: int) -> UNet:
    """Return the network with random weights."""
    return UNet(classes)
