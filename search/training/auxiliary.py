"""Auxiliary outputs of a training: LGCNet's auxiliary head, or those that another network returns itself."""

from __future__ import annotations

from torch import Tensor, nn

from ...models.nets.definition import NetworkDefinition
from ...models.nets.layers import build_module
from ...models.nets.network import LGCNet
from ...models.nets.outputs import split_outputs
from ...models.random_state import seed_generators
from ...models.space.lgcnet.plan import NetworkPlan
from ...models.space.opspec import OpSpec
from .config import TrainConfig


def find_auxiliary_cell(plan: NetworkPlan) -> int:
    """Return the backbone cell whose output the auxiliary head reads: the last one before the coarsest resolution.

    As in PSPNet (arXiv 1612.01105): deep enough to classify, with enough of the network after it to benefit. In a
    backbone with a single resolution, it is the last cell.
    """
    heights = [cell.concat.height for cell in plan.cells]
    finer = [index for index, height in enumerate(heights) if height > heights[-1]]
    return finer[-1] if finer else len(heights) - 1


class TrainingNetwork(nn.Module):
    """A network of any source, with the auxiliary outputs that it has during training.

    LGCNet gets an auxiliary head. Other networks return auxiliary outputs themselves, or have none.

    Args:
        network: the network, whose weights are kept after the training.
        auxiliary: Include auxiliary outputs.

    Attributes:
        main: name of the main output in training mode; None for that of `choose_main`.
        auxiliary_names: names of the outputs of another network that are auxiliary logits.
    """

    def __init__(self, network: nn.Module, auxiliary: bool) -> None:
        super().__init__()
        self.network = network
        self.has_auxiliary = auxiliary
        self.main: str | None = None
        self.auxiliary_names: tuple[str, ...] = ()
        self.auxiliary: nn.Module | None = None
        if isinstance(network, LGCNet):
            plan = network.plan
            self.cell = find_auxiliary_cell(plan)
            if auxiliary:
                self.auxiliary = _build_head(plan, self.cell, network.space.classes)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits, [N, classes, h, w], and auxiliary logits of own sizes by name."""
        if isinstance(self.network, LGCNet):
            features = self.network.features(x)
            logits = self.network.decode(features)
            # The stem's output precedes the cells'.
            return logits, {} if self.auxiliary is None else {"head": self.auxiliary(features[self.cell + 1])}
        logits, others = split_outputs(self.network(x), self.main if self.training else None)
        if not self.has_auxiliary:
            return logits, {}
        return logits, {name: others[name] for name in self.auxiliary_names if name in others}


def _build_head(plan: NetworkPlan, cell: int, classes: int) -> nn.Module:
    """Return the auxiliary head on the output of a backbone cell: a 3x3 convolution and a classifier."""
    feature = plan.cells[cell].concat
    width, size = feature.c_out, (feature.height, feature.width)
    specs = (OpSpec("conv_3x3", width, width, *size), OpSpec("classifier", width, classes, *size))
    return nn.Sequential(*(build_module(spec) for spec in specs))


def build_training_network(definition: NetworkDefinition, config: TrainConfig) -> TrainingNetwork:
    """Return the network before the first step, with random weights.

    They depend on the seed alone; the network's are the same with and without an auxiliary head.

    Raises:
        PluginError: the user's factory raises an error or returns no module.
    """
    with seed_generators(config.seed):
        return TrainingNetwork(definition.draw(), config.aux > 0)
