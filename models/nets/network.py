"""LGCNet, the network of an architecture. The search's supernet shares its skeleton."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...errors import MismatchError
from ..geometry import Geometry, Size
from ..images import IMAGENET, Normalisation
from ..space.lgcnet import LGCNetArchitecture, LGCNetSpace
from ..space.lgcnet.plan import NetworkLayout
from ..space.opspec import OpSpec
from ..space.protocol import Architecture, Space
from .cell import Cell, CellPath, FusionCell, Op
from .layers import StridedUpsample, build_module


class Skeleton(nn.Module):
    """Stem, cells, fusion cell and head of a space.

    Args:
        space: Search space of LGCNet.
        layout: Operators of the network.
        build: Function from an operator to its module.
        choices: Operator names of every cell, the fusion cell's last; None puts all candidates on every edge.
    """

    def __init__(
        self,
        space: Space,
        layout: NetworkLayout[Op],
        build: Callable[[Op], nn.Module],
        choices: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.space = LGCNetSpace.require(space)
        names = choices if choices is not None else [None] * len(layout.searched_cells)
        self.stem = nn.Sequential(*map(build, layout.stem))
        self.cells = nn.ModuleList(Cell(cell, names[index], build) for index, cell in enumerate(layout.cells))
        self.fusion = FusionCell(layout.fusion, names[-1], build)
        self.head = nn.Sequential(*map(build, layout.head))

    def compute(self, x: Tensor, paths: Sequence[CellPath] | None = None) -> Tensor:
        """Compute the logits at the fusion cell's resolution.

        Args:
            x: Images, [N, 3, H, W].
            paths: Path of every cell, the fusion cell's last; required if edges have several candidates.

        Returns:
            [N, classes, H / 2**level, W / 2**level].
        """
        return self.decode(self.features(x, paths), paths)

    def features(self, x: Tensor, paths: Sequence[CellPath] | None = None) -> list[Tensor]:
        """Compute the outputs of the stem and of every backbone cell, [N, C_i, H_i, W_i] each."""
        features = [self.stem(x)]
        for index, cell in enumerate(self.cells):
            features.append(cell(features, None if paths is None else paths[index]))
        return features

    def decode(self, features: Sequence[Tensor], paths: Sequence[CellPath] | None = None) -> Tensor:
        """Compute the logits from the features with the fusion cell and the head."""
        fused = self.fusion(features, None if paths is None else paths[-1])
        logits: Tensor = self.head(fused)
        return logits


class LGCNet(Skeleton):
    """Network of one architecture (arXiv 2302.08481): [N, 3, H, W] -> [N, classes, H / 8, W / 8] logits.

    Raises:
        MismatchError: The architecture belongs to a different space, or to one of another kind.
    """

    def __init__(self, space: Space, architecture: Architecture) -> None:
        if architecture.space.fingerprint != space.fingerprint:
            raise MismatchError(
                f"the architecture belongs to space {architecture.space.description}, not {space.description}"
            )
        own = LGCNetArchitecture.require(architecture)
        super().__init__(space, own.plan, build_module, [*own.cells, own.fusion])
        self.plan, self.architecture = own.plan, own

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits at the fusion cell's resolution, [N, classes, h, w]."""
        return self.compute(x)


def get_geometry(network: nn.Module) -> Geometry:
    """Return the positions of a network's logits in the image: those of its space, half-pixel centres without one."""
    return network.space.geometry if isinstance(network, Skeleton) else Geometry.HALF_PIXEL


class DenseOutput(nn.Module):
    """Network in scope `dense`: logits upsampled to the input size, then the label map.

    [N, 3, H, W] -> [N, H, W], int64.

    Args:
        network: Network whose logits have a stride.
        dense: Upsampling and argmax, as modules or as the `NetworkPlan.dense` of a space.
    """

    def __init__(self, network: nn.Module, dense: Sequence[OpSpec] | Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.dense = _DenseTail(*(part if isinstance(part, nn.Module) else build_module(part) for part in dense))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the label map."""
        size = (int(x.shape[-2]), int(x.shape[-1]))
        labels: Tensor = self.dense(self.network(x), size)
        return labels


class _DenseTail(nn.Sequential):
    """Upsampling and argmax: logits [N, C, h, w] -> labels of images of `size`, by default that of the space."""

    def forward(self, x: Tensor, size: Size | None = None) -> Tensor:
        for part in self:
            x = part(x, size) if isinstance(part, StridedUpsample) else part(x)
        return x


class FrameOutput(nn.Module):
    """Network in scope `end-to-end`: from image bytes to the label map as bytes.

    [N, H, W, 3], uint8 RGB -> [N, H, W], uint8. The runner copies between host and device.

    Args:
        dense: Network in scope `dense`.
        normalisation: Statistics that the network was trained with.
    """

    def __init__(self, dense: DenseOutput, normalisation: Normalisation = IMAGENET) -> None:
        super().__init__()
        self.dense = dense
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (normalisation.mean, normalisation.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise as in training, then compute the classes."""
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        image = x.to(scale.dtype).permute(0, 3, 1, 2) * scale + shift  # cast first: TensorRT cannot transpose bytes
        labels: Tensor = self.dense(image)
        return labels.to(torch.uint8)


def randomise_norms(module: nn.Module, seed: int) -> None:
    """Randomise the running statistics of batch normalisations.

    An untrained network's activations are near zero or constant; timing and output comparison need realistic ones.
    """
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None and child.running_var is not None:
            child.running_mean.copy_(torch.randn(child.num_features, generator=generator) * 0.1)
            child.running_var.copy_(torch.rand(child.num_features, generator=generator) + 0.5)
