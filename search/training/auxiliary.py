"""The auxiliary head, which classifies a coarse feature during training only."""

from __future__ import annotations

from torch import Tensor, nn

from ...models.nets.layers import build_module
from ...models.nets.network import LGCNet
from ...models.space.opspec import OpSpec
from ...models.space.plan import NetworkPlan


def find_auxiliary_cell(plan: NetworkPlan) -> int:
    """Return the backbone cell whose output the auxiliary head reads: the last one before the coarsest resolution.

    As in PSPNet (arXiv 1612.01105): deep enough to classify, with enough of the network after it to benefit. In a
    backbone with a single resolution, it is the last cell.
    """
    heights = [cell.concat.height for cell in plan.cells]
    finer = [index for index, height in enumerate(heights) if height > heights[-1]]
    return finer[-1] if finer else len(heights) - 1


class TrainingNetwork(nn.Module):
    """A network with the auxiliary head that it has during training.

    Args:
        network: the network, whose weights are kept after the training.
        auxiliary: Include the auxiliary head.
    """

    def __init__(self, network: LGCNet, auxiliary: bool) -> None:
        super().__init__()
        self.network = network
        plan = network.space.plan
        self.cell = find_auxiliary_cell(plan)
        self.auxiliary: nn.Module | None = None
        if auxiliary:
            feature = plan.cells[self.cell].concat
            width, size = feature.c_out, (feature.height, feature.width)
            specs = (
                OpSpec("conv_3x3", width, width, *size),
                OpSpec("classifier", width, network.space.classes, *size),
            )
            self.auxiliary = nn.Sequential(*(build_module(spec) for spec in specs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits of the network and of the auxiliary head (None without it), [N, classes, h, w] of own size."""
        features = self.network.features(x)
        logits = self.network.decode(features)
        # The stem's output precedes the cells'.
        return logits, None if self.auxiliary is None else self.auxiliary(features[self.cell + 1])
