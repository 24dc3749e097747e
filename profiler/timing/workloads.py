"""Operators and networks as workloads, with batch normalisation folded and, by default, random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...models.space.operators import input_shapes
from ...models.space.opspec import OpSpec
from ...models.space.protocol import CORE, END_TO_END, Architecture
from ..backends import Workload
from ..backends.base import FLOAT_DTYPE, IMAGE_DTYPE

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 0
NetworkBuilder = Callable[[Architecture, str], Workload]
"""Function from an architecture and a scope to the workload of the whole network."""


def operator_workload(spec: OpSpec) -> Workload:
    """Return the workload of one operator in isolation."""

    def module() -> nn.Module:
        from ...models.nets.layers import build_module

        return build_folded(lambda: build_module(spec))

    return Workload(f"alone/{spec}", input_shapes(spec), module)


def build_folded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the folded module that `make` builds, with reproducible random weights and statistics."""
    import torch

    from ...models.nets.layers import fold_norms
    from ...models.nets.network import randomise_norms

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = make()
    randomise_norms(module, SEED)
    return fold_norms(module)


def network_workload(architecture: Architecture, scope: str, weights: Mapping[str, Tensor] | None = None) -> Workload:
    """Return the workload of a network in a scope, with trained `weights` (a state dict of LGCNet) or random ones."""

    def module() -> nn.Module:
        from ...models.nets.layers import fold_norms

        return fold_norms(network_module(architecture, scope, weights))

    shape, dtype = image_input(architecture.space.input, scope)
    return Workload(f"{architecture.space.name} network", (shape,), module, dtype)


def network_module(architecture: Architecture, scope: str, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return the unfolded network in evaluation mode."""
    import torch

    from ...models.nets.network import LGCNet, randomise_norms

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = LGCNet(architecture.space, architecture)
    if weights is None:
        randomise_norms(network, SEED)
    else:
        network.load_state_dict(dict(weights))
    return in_scope(network, scope, network.space.plan.dense)


def in_scope(core: nn.Module, scope: str, dense: Sequence[OpSpec]) -> nn.Module:
    """Wrap a network that outputs logits for a scope, in evaluation mode.

    Args:
        core: [N, 3, H, W] -> [N, classes, h, w].
        scope: one of `EXPORT_SCOPES`.
        dense: operators after the logits.
    """
    from ...models.nets.network import DenseOutput, FrameOutput

    if scope == CORE:
        return core.eval()
    whole = DenseOutput(core, dense)
    return (FrameOutput(whole) if scope == END_TO_END else whole).eval()


def image_input(size: tuple[int, int], scope: str) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a network's input in a scope."""
    return ((1, *size, 3), IMAGE_DTYPE) if scope == END_TO_END else ((1, 3, *size), FLOAT_DTYPE)
