"""Peers of LGCNet, written from their papers, with random weights: what `lgc-bench` times beside our own networks.

This registry does not import torch; the networks are imported when one is built. docs/peers.md has the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ....errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn

LOGITS_STRIDE = 8
"""All peers give logits at 1/8 of the input, [N, classes, H / 8, W / 8], rounded up."""

MIN_SIZE = 32
"""Least height and width of an image; beyond that H and W may be anything, multiples of 1."""


@dataclass(frozen=True)
class FrameRate:
    """A frame rate on Cityscapes as published: another GPU, backend and scope, never to be mixed with measured ones.

    Attributes:
        fps: frames per second.
        gpu: device.
        backend: runtime.
        input: height and width in pixels.
        miou_val: mean IoU in per cent on the validation set, None where not published.
        miou_test: the same on the test set.
        source: where the numbers are from.
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
    """What is published about a network.

    Attributes:
        parameters: how many; None where its authors give no number.
        macs: multiply-accumulates (papers say FLOPs), None where its authors give no number.
        size: height and width of the input for which `macs` holds.
        source: where the two are from.
        counted: what they count, where that is not all parameters of the network in its inference form.
        frame_rates: as published.
        whole: whether they are of the whole network; else `counted` says of which part.
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
    """A built-in network.

    Attributes:
        name: its name on the command line.
        title: as the paper writes it.
        paper: arXiv number.
        network: module in this package and class in it, `module:Class`.
        published: what is published about it.
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
    source="paper, tables of the ablations and of Cityscapes; it gives no parameters",
    counted="inference form; the width of the head is not published and was chosen here by this very number",
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
    source="paper, table of the STDC networks; it gives nothing for the segmentation network",
    counted="the backbone with its ImageNet classifier (1x1 convolution, two linear layers of 1024 and 1000)",
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
    source="paper, table of Cityscapes; it gives no multiply-accumulates",
    counted="inference form without scales and shifts of the batch normalisations",
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
"""Name -> peer."""


def build_peer(name: str, classes: int = 19) -> nn.Module:
    """A peer with random weights, in evaluation mode, its auxiliary heads left out.

    It takes float32 images [N, 3, H, W], H and W at least 32 and of any multiple, and gives logits
    [N, classes, H / 8, W / 8], rounded up; smaller images are a UsageError.

    Raises:
        UnknownNameError: no such peer; the message lists the known ones.
    """
    if name not in PEERS:
        raise UnknownNameError("peer", name, PEERS)
    module, _, kind = PEERS[name].network.partition(":")
    network: nn.Module = getattr(import_module(f".{module}", __name__), kind)(classes)
    return network.eval()
