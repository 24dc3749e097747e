"""DDRNet-23-slim, "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from .common import (
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
_CONTEXT = 128
_HEAD = 64
"""Channels of the stem, of each scale of the context module, and of the head; specific to the slim variant."""


class DAPPM(ContextPooling):
    """Deep aggregation pyramid pooling: each scale is added to the finer scale's result and convolved."""

    def __init__(self, c_in: int, branch: int, c_out: int) -> None:
        super().__init__(c_in, branch, c_out)
        self.process = nn.ModuleList(norm_act_conv(branch, branch, 3) for _ in self.scales[1:])

    def mix(self, first: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Mix the scales one after the other, from the finest to the global average."""
        mixed = [first]
        for process, level in zip(self.process, pooled, strict=True):
            mixed.append(process(level + mixed[-1]))
        return mixed


class DDRNet23Slim(PeerNetwork):
    """Network of a branch at 1/8 and one down to 1/64 that exchange features twice (arXiv 2101.06085).

    The norms of the DAPPM and the first of the head cannot be folded.

    Args:
        classes: Number of classes.
    """

    AUXILIARY: ClassVar = {"high": 2 * _WIDTH}

    def __init__(self, classes: int = 19) -> None:
        super().__init__(classes)
        w = _WIDTH
        self.shared = SharedStages(w)
        self.low3 = stage(2 * w, 4 * w, 2, 2)
        self.low4 = stage(4 * w, 8 * w, 2, 2)
        self.low5 = Bottleneck(8 * w, 8 * w, 2)
        self.high3 = stage(2 * w, 2 * w, 2)
        self.high4 = stage(2 * w, 2 * w, 2)
        self.high5 = Bottleneck(2 * w, 2 * w)
        self.up3 = conv_norm(4 * w, 2 * w, 1, act=False)
        self.up4 = conv_norm(8 * w, 2 * w, 1, act=False)
        self.down3 = conv_norm(2 * w, 4 * w, 3, 2, act=False)
        self.down4 = nn.Sequential(conv_norm(2 * w, 4 * w, 3, 2), conv_norm(4 * w, 8 * w, 3, 2, act=False))
        self.context = DAPPM(16 * w, _CONTEXT, 4 * w)
        self.head = NormedHead(4 * w, _HEAD, classes)

    def outputs(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply the shared stages, both branches with their exchanges, the context module and the head."""
        shared = self.shared(x)
        low, high = _exchange(self.low3(shared), self.high3(shared), self.down3, self.up3)
        features = {"high": high}
        low, high = _exchange(self.low4(low), self.high4(high), self.down4, self.up4)
        detail, context = self.high5(high), self.context(self.low5(low))
        return self.head(detail + resize(context, detail)), features


def _exchange(low: Tensor, high: Tensor, down: nn.Module, up: nn.Module) -> tuple[Tensor, Tensor]:
    """Add each branch's features to the other (bilateral fusion), then apply the ReLU to both."""
    return F.relu(low + down(F.relu(high))), F.relu(high + resize(up(F.relu(low)), high))
