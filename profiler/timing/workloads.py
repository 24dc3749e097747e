"""Operators and networks as workloads, with batch normalisation folded and, by default, random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ...errors import PluginError
from ...models.images import IMAGENET, Normalisation
from ...models.nets.definition import NetworkDefinition
from ...models.space.lgcnet import LGCNetSpace
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

        return build_folded(lambda: build_module(spec), input_shapes(spec))

    return Workload(f"alone/{spec}", input_shapes(spec), module)


def build_folded(make: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]]) -> nn.Module:
    """Return the folded module that `make` builds, with reproducible random weights and statistics.

    The user's modules for inputs of `shapes` are folded if that leaves their output unchanged.
    """
    from ...models.nets.layers import fold_norms, is_foldable
    from ...models.nets.network import randomise_norms
    from ...models.random_state import seed_generators

    with seed_generators(SEED):
        module = make()
    randomise_norms(module, SEED)
    return fold_norms(module, sequences=is_foldable(module, shapes))


def network_workload(
    network: Architecture | NetworkDefinition,
    scope: str,
    weights: Mapping[str, Tensor] | None = None,
    foldable: Callable[[], bool] | None = None,
) -> Workload:
    """Return the workload of a network in a scope, with trained `weights` (its state dict) or random ones.

    `foldable` returns `is_network_foldable` if the caller knows it. The export of a factory's network raises a
    PluginError if tracing would miss something, or ONNX lacks an operator.
    """
    definition = NetworkDefinition.of(network)
    shape, dtype = image_input(definition.input, scope)
    can_fold = foldable or cache(lambda: is_network_foldable(definition, weights))

    def module() -> nn.Module:
        from ...models.nets.layers import fold_norms

        return fold_norms(network_module(definition, scope, weights), sequences=can_fold())

    def export() -> bytes:
        return _export_factory(module(), shape, dtype, definition.source.reference)

    is_factory = definition.source.kind == "factory"
    return Workload(f"{definition.source.name} network", (shape,), module, dtype, export=export if is_factory else None)


def _export_factory(module: nn.Module, shape: tuple[int, ...], dtype: str, name: str) -> bytes:
    """Return the ONNX model of the user's module.

    Raises:
        PluginError: tracing would miss something, or ONNX lacks an operator.
    """
    from ...models.onnx.export import to_onnx
    from ...models.onnx.tracing import require_traceable

    require_traceable(module, [shape], dtype, name)
    try:
        return to_onnx(module, [shape], dtype)
    except PluginError as error:
        raise PluginError(f"{name}: {error}") from error


def is_network_foldable(definition: NetworkDefinition, weights: Mapping[str, Tensor] | None = None) -> bool:
    """Return True if folding leaves the logits of a network unchanged; the user's are compared on a random image."""
    if definition.source.kind != "factory":
        return True
    from ...models.nets.layers import is_foldable

    return is_foldable(network_module(definition, CORE, weights), [(1, 3, *definition.input)])


def describe_folding(definition: NetworkDefinition, foldable: bool) -> list[str]:
    """Return a remark if the batch normalisations of a network cannot be folded."""
    if foldable:
        return []
    return [
        f"{definition.source.reference}: normalisations in nn.Sequential are not folded into convolutions, as forward "
        f"reads a convolution's output before its normalisation"
    ]


def network_module(
    network: Architecture | NetworkDefinition, scope: str, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return the unfolded network in evaluation mode."""
    from ...models.nets.layers import ChannelArgMax, ResizeTo
    from ...models.nets.network import randomise_norms
    from ...models.nets.outputs import MainOutput

    definition = NetworkDefinition.of(network)
    core = definition.build(SEED)
    if weights is None:
        randomise_norms(core, SEED)
    else:
        core.load_state_dict(dict(weights))
    architecture = definition.architecture
    if architecture is not None:
        dense: Sequence[OpSpec] | Sequence[nn.Module] = LGCNetSpace.require(architecture.space).plan.dense
    else:
        core = MainOutput(core) if definition.source.kind == "factory" else core
        dense = (ResizeTo(definition.input), ChannelArgMax())
    return in_scope(core, scope, dense, definition.normalisation)


def in_scope(
    core: nn.Module,
    scope: str,
    dense: Sequence[OpSpec] | Sequence[nn.Module],
    normalisation: Normalisation = IMAGENET,
) -> nn.Module:
    """Wrap a network that outputs logits for a scope, in evaluation mode.

    Args:
        core: [N, 3, H, W] -> [N, classes, h, w].
        scope: one of `EXPORT_SCOPES`.
        dense: operators or modules after the logits.
        normalisation: statistics of the input, for scope end-to-end.
    """
    from ...models.nets.network import DenseOutput, FrameOutput

    if scope == CORE:
        return core.eval()
    whole = DenseOutput(core, dense)
    return (FrameOutput(whole, normalisation) if scope == END_TO_END else whole).eval()


def image_input(size: tuple[int, int], scope: str) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a network's input in a scope."""
    return ((1, *size, 3), IMAGE_DTYPE) if scope == END_TO_END else ((1, 3, *size), FLOAT_DTYPE)
