"""Contexts: the graphs timed for an operator, and the table entry computed from them.

`carriers` measures an operator as inside a network, between convolutions.

    probe     [carrier] -> operator x k -> [carrier]     k = `COPIES` if the operator keeps the shape, else 1
    baseline  [carrier] -> [carrier]                     one chain per input tensor, or per output tensor

    entry = (probe - baseline(inputs) / 2 - baseline(outputs) / 2) / k

A carrier is a 1x1 convolution with ReLU that keeps the channels. Runtimes reorder, cast and fuse at a graph's inputs
and outputs; here these are the carriers'. Subtracting half a baseline per end assumes that a tensor costs as much on
the way in as on the way out, which matters only where input and output differ. Two operators are at an end of every
network and have no carrier there: the convolution of the image, and `argmax`, whose output cannot be convolved. Each
keeps half of a run's overhead, and what the runtime does with the graph's input or output.

`isolated` runs the operator alone, back to back: common practice, kept for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import UnknownNameError
from ...lut.table.table import LatencyTable
from ...models.recipe import Add, ArgMax, Concat, Conv, iter_layers
from ...models.space.operators import get_operator, get_recipe, input_shapes, is_free
from ...models.space.opspec import OpSpec
from ...models.space.protocol import Space
from ..backends import Workload
from .workloads import build_folded, operator_workload

if TYPE_CHECKING:
    from torch import nn

IMAGE_CHANNELS = 3
COPIES = 3
"""Copies of an operator in its probe, so that it outweighs the subtracted baseline."""
CARRIERS, ISOLATED = "carriers", "isolated"
OPERATOR, CARRIER = "operator", "carrier"
PROTOCOL = "interleaved-rounds-2"
"""Name of the protocol in tables. In the earlier one, `interleaved-rounds`, a carrier precedes every operator."""


@dataclass(frozen=True)
class Term:
    """A term of an entry: coefficient * latency of the benchmark `key`."""

    key: str
    kind: str
    coefficient: float
    workload: Workload


def list_terms(spec: OpSpec, context: str, image: tuple[int, int] | None = None) -> tuple[Term, ...]:
    """Return the terms that add up to the entry of `spec`.

    Args:
        spec: operator.
        context: `carriers` or `isolated`.
        image: height and width of the networks' input, whose convolution has no carrier in front; None if all have one.

    Raises:
        UnknownNameError: no such context.
    """
    if context not in CONTEXTS:
        raise UnknownNameError("context", context, CONTEXTS)
    return CONTEXTS[context](spec, image)


def register_benchmarks(table: LatencyTable, space: Space) -> dict[str, Workload]:
    """Register the benchmarks of all operators of `space` in the table; return their workloads, carriers first."""
    specs = [spec for spec in space.specs() if not is_free(spec)]
    image = find_image(specs) if table.protocol.get("name") == PROTOCOL else None
    terms = {str(spec): list_terms(spec, str(table.protocol["context"]), image) for spec in specs}
    workloads: dict[str, Workload] = {}
    for kind in (CARRIER, OPERATOR):
        rows: dict[str, list[tuple[str, str, float]]] = {}
        for entry, parts in terms.items():
            for term in parts:
                if term.kind == kind:
                    rows.setdefault(term.key, []).append((entry, term.key, term.coefficient))
                    workloads.setdefault(term.key, term.workload)
        table.add_benchmarks(kind, rows)
    return workloads


def count_copies(spec: OpSpec) -> int:
    """Return the number of copies of `spec` in its probe; more than one needs equal input and output shapes.

    Additions are not repeated: TensorRT would fuse a chain of them into one kernel, which networks rarely allow.
    """
    keeps = spec.stride == 1 and spec.c_in == spec.c_out
    return COPIES if keeps and not isinstance(get_recipe(spec)[0], Add | Concat | ArgMax) else 1


def find_image(specs: Iterable[OpSpec]) -> tuple[int, int] | None:
    """Return height and width of the largest map of three channels that operators read; None without any."""
    return max(((spec.height, spec.width) for spec in specs if spec.c_in == IMAGE_CHANNELS), default=None)


def _reads_image(spec: OpSpec, image: tuple[int, int] | None) -> bool:
    """Return whether `spec` is a convolution of three channels of the size `image`."""
    is_image = spec.c_in == IMAGE_CHANNELS and (spec.height, spec.width) == image
    return is_image and isinstance(next(iter_layers(get_recipe(spec)), None), Conv)


def _in_carriers(spec: OpSpec, image: tuple[int, int] | None) -> tuple[Term, ...]:
    inputs = input_shapes(spec)
    leading = not _reads_image(spec, image)
    copies = count_copies(spec) if leading else 1
    ends = [_baseline(inputs[0], len(inputs))] if leading else []
    if not isinstance(get_recipe(spec)[-1], ArgMax):
        ends.append(_baseline((spec.batch, spec.c_out, *output_size(spec)), 1))
    kind = "probe" if leading else "image"
    probe = Workload(f"{kind}/{spec}/x{copies}", inputs, lambda: _probe(spec, copies, leading))
    terms = [Term(probe.name, OPERATOR, 1 / copies, probe)]
    for end in {end.name: end for end in ends}.values():
        half = sum(other.name == end.name for other in ends) / 2
        terms.append(Term(end.name, CARRIER, -half / copies, end))
    return tuple(terms)


def _alone(spec: OpSpec, image: tuple[int, int] | None) -> tuple[Term, ...]:
    workload = operator_workload(spec)
    return (Term(workload.name, OPERATOR, 1.0, workload),)


CONTEXTS: dict[str, Callable[[OpSpec, tuple[int, int] | None], tuple[Term, ...]]] = {
    CARRIERS: _in_carriers,
    ISOLATED: _alone,
}
"""Context -> terms of an operator."""


def output_size(spec: OpSpec) -> tuple[int, int]:
    """Return (height, width) of the operator's output."""
    return spec.fine if get_operator(spec.operator).upsamples else spec.coarse


def _baseline(shape: tuple[int, int, int, int], tensors: int) -> Workload:
    """Return the baseline of `tensors` separate pairs of carriers, input shape [N, C, H, W] each."""
    batch, channels, height, width = shape
    name = f"carrier/c{channels}/{height}x{width}/x{tensors}" + f"/b{batch}" * (batch > 1)
    return Workload(name, (shape,) * tensors, lambda: _carrier_pairs(shape[1:], tensors))


def _probe(spec: OpSpec, copies: int, leading: bool) -> nn.Module:
    from torch import nn

    from ...models.nets.layers import build_module
    from .probe import Probe

    inputs = input_shapes(spec)
    ends = not isinstance(get_recipe(spec)[-1], ArgMax)
    return build_folded(
        lambda: Probe(
            [build_module(_carrier(inputs[0][1:])) for _ in inputs] if leading else [nn.Identity()],
            [build_module(spec) for _ in range(copies)],
            build_module(_carrier((spec.c_out, *output_size(spec)))) if ends else None,
        ),
        inputs,
    )


def _carrier_pairs(shape: tuple[int, int, int], tensors: int) -> nn.Module:
    from ...models.nets.layers import build_module
    from .probe import Baseline

    return build_folded(
        lambda: Baseline([[build_module(_carrier(shape)) for _ in range(2)] for _ in range(tensors)]),
        [(1, *shape)] * tensors,
    )


def _carrier(shape: tuple[int, int, int]) -> OpSpec:
    channels, height, width = shape
    return OpSpec("conv_1x1", channels, channels, height, width)
