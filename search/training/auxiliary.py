"""Auxiliary outputs of a training: heads of LGCNet and of peers, or outputs that another network returns itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...models.nets.definition import NetworkDefinition
from ...models.nets.layers import build_module
from ...models.nets.network import LGCNet
from ...models.nets.outputs import split_outputs
from ...models.nets.peers.common import PeerNetwork
from ...models.random_state import seed_generators
from ...models.space.lgcnet.plan import NetworkPlan
from ...models.space.opspec import OpSpec
from .config import SINGLE, Heads, TrainConfig

_PREFIX = "auxiliary."


def find_auxiliary_cells(plan: NetworkPlan) -> list[int]:
    """Return the backbone cells whose outputs auxiliary heads read: the last ones of the two coarsest resolutions.

    A single head reads the first of them, as in PSPNet (arXiv 1612.01105): deep enough to classify, with enough of the
    network after it to benefit.
    """
    heights = [cell.concat.height for cell in plan.cells]
    last = [index for index, height in enumerate(heights) if height not in heights[index + 1 :]]
    return last[-2:]


class TrainingNetwork(nn.Module):
    """A network of any source, with the auxiliary outputs that it has during training.

    LGCNet and peers get auxiliary heads on features inside the network. Other networks return auxiliary outputs
    themselves, or have none.

    Args:
        network: the network, whose weights are kept after the training.
        heads: kind of the heads, see `TrainConfig.aux_heads`; None for no auxiliary outputs.

    Attributes:
        main: name of the main output in training mode; None for that of `choose_main`.
        auxiliary_names: names of the outputs of another network that are auxiliary logits.
    """

    def __init__(self, network: nn.Module, heads: Heads | None) -> None:
        super().__init__()
        self.network = network
        self.has_auxiliary = heads is not None
        self.main: str | None = None
        self.auxiliary_names: tuple[str, ...] = ()
        widths: dict[str, int] = {}
        classes = 0
        if isinstance(network, LGCNet):
            cells = find_auxiliary_cells(network.plan)
            self.cells = [] if heads is None else cells[:1] if heads == SINGLE else cells
            widths = {f"cell{index}": network.plan.cells[index].concat.c_out for index in self.cells}
            classes = network.space.classes
        elif isinstance(network, PeerNetwork):
            widths = dict(network.AUXILIARY) if heads == "linear" else {}
            classes = network.classes
        build = _build_single if heads == SINGLE else _build_linear
        self.auxiliary = nn.ModuleDict({name: build(width, classes) for name, width in widths.items()})
        self.register_load_state_dict_pre_hook(_rename_head)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits, [N, classes, h, w], and auxiliary logits of own sizes by name."""
        if isinstance(self.network, LGCNet):
            outputs = self.network.features(x)
            logits = self.network.decode(outputs)
            features = {f"cell{index}": outputs[index + 1] for index in self.cells}  # the stem's output comes first
        elif isinstance(self.network, PeerNetwork):
            logits, features = self.network.compute(x)
        else:
            logits, others = split_outputs(self.network(x), self.main if self.training else None)
            names = self.auxiliary_names if self.has_auxiliary else ()
            return logits, {name: others[name] for name in names if name in others}
        return logits, {name: head(features[name]) for name, head in self.auxiliary.items()}


def _build_linear(width: int, classes: int) -> nn.Module:
    """Return a 1x1 classifier of a feature, [N, width, h, w] -> [N, classes, h, w]."""
    return build_module(OpSpec("classifier", width, classes, 1, 1))


def _build_single(width: int, classes: int) -> nn.Module:
    """Return a 3x3 convolution and a classifier of a feature, [N, width, h, w] -> [N, classes, h, w]."""
    specs = (OpSpec("conv_3x3", width, width, 1, 1), OpSpec("classifier", width, classes, 1, 1))
    return nn.Sequential(*map(build_module, specs))


def _rename_head(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the weights of the only head in a checkpoint of an earlier version."""
    assert isinstance(module, TrainingNetwork)
    own, names = f"{prefix}{_PREFIX}", list(module.auxiliary)
    if len(names) == 1 and any(key.startswith(f"{own}0.") for key in state):
        for key in [key for key in state if key.startswith(own)]:
            state[f"{own}{names[0]}.{key.removeprefix(own)}"] = state.pop(key)


def build_training_network(definition: NetworkDefinition, config: TrainConfig) -> TrainingNetwork:
    """Return the network before the first step, with random weights.

    They depend on the seed alone; the network's are the same with and without auxiliary heads.

    Raises:
        PluginError: the user's factory raises an error or returns no module.
    """
    with seed_generators(config.seed):
        return TrainingNetwork(definition.draw(), config.heads)
