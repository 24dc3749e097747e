"""Peers of LGCNet, written from their papers, with random weights; `lgc-bench` compares our networks with them.

The registry does not import torch; `build_peer` imports the network's module. docs/peers.md has the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ....errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn

LOGITS_STRIDE = 8
"""Stride of every peer's logits, [N, classes, H / 8, W / 8], rounded up."""

MIN_SIZE = 32
"""Minimum height and width of an image in pixels; every larger size is supported."""


@dataclass(frozen=True)
class FrameRate:
    """Published frame rate on Cityscapes.

    Its GPU, backend and scope differ from ours, so it must not be mixed with measured frame rates.

    Attributes:
        fps: Frames per second.
        gpu: GPU model.
        backend: Inference runtime.
        input: Height and width in pixels.
        miou_val: Mean IoU in per cent on the validation set; None if unpublished.
        miou_test: Mean IoU in per cent on the test set; None if unpublished.
        source: Tables or pages of the numbers.
    """

    fps: float
    gpu: str
    backend: str
    input: tuple[int, int]
    miou_val: float | None
    miou_test: float | None
    source: str


@dataclass(frozen=True)
class Published:
    """Published figures of a network.

    Attributes:
        parameters: Number of parameters; None if unpublished.
        macs: Multiply-accumulates (FLOPs in the papers); None if unpublished.
        size: Height and width of the input that `macs` holds for.
        source: Tables or pages of the two numbers.
        counted: Part of the network that the two numbers count.
        frame_rates: Published frame rates.
        whole: True if the two numbers count the whole network, False if only the part in `counted`.
    """

    parameters: float | None
    macs: float | None
    size: tuple[int, int]
    source: str
    counted: str
    frame_rates: tuple[FrameRate, ...]
    whole: bool = True


@dataclass(frozen=True)
class Peer:
    """Built-in network.

    Attributes:
        name: Name on the command line.
        title: Name in the paper.
        paper: arXiv number.
        network: Module of this package and its class, `module:Class`.
        published: Published figures.
    """

    name: str
    title: str
    paper: str
    network: str
    published: Published


_BISENETV2 = Published(
    parameters=None,
    macs=21.15e9,
    size=(512, 1024),
    source="paper, tables of the ablations and of Cityscapes; no parameters published",
    counted="inference form; the head's width is unpublished and was chosen to match this number",
    frame_rates=(FrameRate(156, "GTX 1080 Ti", "TensorRT", (512, 1024), 73.4, 72.6, "paper, table of Cityscapes"),),
)
_DDRNET = Published(
    parameters=5.7e6,
    macs=36.3e9,
    size=(1024, 2048),
    source="paper, table of Cityscapes",
    counted="inference form",
    frame_rates=(FrameRate(102, "RTX 2080 Ti", "PyTorch", (1024, 2048), 77.8, 77.4, "paper's abstract; repository"),),
)
_PIDNET = Published(
    parameters=7.6e6,
    macs=47.6e9,
    size=(1024, 2048),
    source="paper, table of Cityscapes",
    counted="inference form",
    frame_rates=(FrameRate(93.2, "RTX 3090", "PyTorch", (1024, 2048), 78.8, 78.6, "paper's abstract; repository"),),
)
_STDC1 = Published(
    parameters=8.44e6,
    macs=813e6,
    size=(224, 224),
    source="paper, table of the STDC networks; none published for the segmentation network",
    counted="backbone with its ImageNet classifier (1x1 convolution, linear layers of 1024 and 1000)",
    frame_rates=(
        FrameRate(250.4, "GTX 1080 Ti", "TensorRT", (512, 1024), 72.2, 71.9, "paper, Seg50; repository"),
        FrameRate(126.7, "GTX 1080 Ti", "TensorRT", (768, 1536), 74.5, 75.3, "paper, Seg75; repository"),
    ),
    whole=False,
)
_FAST_SCNN = Published(
    parameters=1.11e6,
    macs=None,
    size=(1024, 2048),
    source="paper, table of Cityscapes; no multiply-accumulates published",
    counted="inference form without the scales and shifts of batch normalisations",
    frame_rates=(
        FrameRate(123.5, "Titan Xp", "TensorFlow", (1024, 2048), 68.6, 68.0, "paper, tables of Cityscapes"),
        FrameRate(285.8, "Titan Xp", "TensorFlow", (512, 1024), None, 62.8, "paper, table of input sizes"),
    ),
)

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("bisenetv2", "BiSeNetV2", "2004.02147", "bisenetv2:BiSeNetV2", _BISENETV2),
        Peer("ddrnet-23-slim", "DDRNet-23-slim", "2101.06085", "ddrnet:DDRNet23Slim", _DDRNET),
        Peer("pidnet-s", "PIDNet-S", "2206.02066", "pidnet:PIDNetS", _PIDNET),
        Peer("stdc1-seg", "STDC1-Seg", "2104.13188", "stdc:STDC1Seg", _STDC1),
        Peer("fast-scnn", "Fast-SCNN", "1902.04502", "fastscnn:FastSCNN", _FAST_SCNN),
    )
}
"""Peers by name."""


def build_peer(name: str, classes: int = 19) -> nn.Module:
    """Build a peer with random weights, in evaluation mode.

    It maps float32 images [N, 3, H, W], H and W at least `MIN_SIZE`, to logits [N, classes, H / 8, W / 8], rounded up;
    smaller images raise a UsageError.

    Raises:
        UnknownNameError: Unknown peer; the message lists the known ones.
    """
    if name not in PEERS:
        raise UnknownNameError("peer", name, PEERS)
    module, _, kind = PEERS[name].network.partition(":")
    network: nn.Module = getattr(import_module(f".{module}", __name__), kind)(classes)
    return network.eval()
