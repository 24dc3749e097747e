"""The auxiliary head: classes told from a coarse feature as well, which trains the backbone and is then left out."""

from __future__ import annotations

from torch import Tensor, nn

from ...models.nets.layers import build_module
from ...models.nets.network import LGCNet
from ...models.space.opspec import OpSpec
from ...models.space.plan import NetworkPlan


def auxiliary_cell(plan: NetworkPlan) -> int:
    """The backbone cell whose output the auxiliary head sees: the last one before the coarsest resolution.

    As in PSPNet (arXiv 1612.01105): deep enough to tell classes, and behind it enough of the network that gains by it.
    Of a backbone of one resolution, the last cell.
    """
    heights = [cell.concat.height for cell in plan.cells]
    finer = [index for index, height in enumerate(heights) if height > heights[-1]]
    return finer[-1] if finer else len(heights) - 1


class Trainee(nn.Module):
    """A network with the auxiliary head that it has while it is trained.

    Args:
        network: the network; its weights are what is kept.
        auxiliary: whether to have the head at all.
    """

    def __init__(self, network: LGCNet, auxiliary: bool) -> None:
        super().__init__()
        self.network = network
        plan = network.space.plan
        self.cell = auxiliary_cell(plan)
        self.auxiliary: nn.Module | None = None
        if auxiliary:
            seen = plan.cells[self.cell].concat
            width, size = seen.c_out, (seen.height, seen.width)
            specs = (
                OpSpec("conv_3x3", width, width, *size),
                OpSpec("classifier", width, network.space.classes, *size),
            )
            self.auxiliary = nn.Sequential(*(build_module(spec) for spec in specs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the network and of the auxiliary head, [N, classes, h, w] each at its own size; None without it."""
        features = self.network.features(x)
        logits = self.network.decode(features)
        # The stem's output comes before the cells'.
        return logits, None if self.auxiliary is None else self.auxiliary(features[self.cell + 1])
