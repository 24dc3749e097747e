"""Contexts: what is run to learn the latency of an operator, and how the entry follows from what was timed.

`carriers` measures an operator where it stands in a network: between convolutions.

    probe    [carrier] -> operator x k -> [carrier]     k = `COPIES` where the shape is kept, else 1
    passage  [carrier] -> [carrier]                      one for each tensor of the operator's inputs, or of its outputs

    entry = (probe - passage(inputs) / 2 - passage(outputs) / 2) / k

A carrier is a 1x1 convolution with ReLU that keeps the channels. Runtimes reorder, cast and fuse at borders: here the
borders to the graph's inputs and outputs are the carriers', and half of each passage stands at either end: where input
and output differ, that is right as far as a tensor costs as much at the way in as at the way out. An operator
with no tensor to convolve behind it (`argmax`) has no passage there and keeps half of a run's overhead.

`isolated` runs the operator alone, back to back: the usual way, kept for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import UnknownNameError
from ...lut.table.table import LatencyTable
from ...models.space.lgcnet import SearchSpace
from ...models.space.operators import Add, ArgMax, Concat, get_operator, get_recipe, input_shapes, is_free
from ...models.space.opspec import OpSpec
from ..backends import Workload
from .workloads import operator_workload, workload_of

if TYPE_CHECKING:
    from torch import nn

COPIES = 3
"""Copies of an operator in its probe, so that what is sought is large against what is subtracted."""
CARRIERS, ISOLATED = "carriers", "isolated"
OPERATOR, CARRIER = "operator", "carrier"


@dataclass(frozen=True)
class Term:
    """One summand of an entry: coefficient * latency of the subject `key`, which is of a kind and runs a workload."""

    key: str
    kind: str
    coefficient: float
    workload: Workload


def terms_of(spec: OpSpec, context: str) -> tuple[Term, ...]:
    """What has to be timed for the entry of `spec`, and how the entry follows.

    Raises:
        UnknownNameError: no such context.
    """
    if context not in CONTEXTS:
        raise UnknownNameError("context", context, CONTEXTS)
    return CONTEXTS[context](spec)


def register(table: LatencyTable, space: SearchSpace) -> dict[str, Workload]:
    """Tell the table what has to be timed for the operators of `space`; the workloads, carriers first, by subject."""
    terms = {str(spec): terms_of(spec, str(table.protocol["context"])) for spec in space.specs() if not is_free(spec)}
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


def copies_of(spec: OpSpec) -> int:
    """How often a probe repeats `spec`: its output must be of its input's shape, its inputs one.

    Several additions in a row would be fused into one kernel by TensorRT, which a network's seldom are.
    """
    keeps = spec.stride == 1 and spec.c_in == spec.c_out
    return COPIES if keeps and not isinstance(get_recipe(spec)[0], Add | Concat | ArgMax) else 1


def _in_carriers(spec: OpSpec) -> tuple[Term, ...]:
    copies = copies_of(spec)
    inputs = input_shapes(spec)
    ends = [_passage(inputs[0][1:], len(inputs))]
    if not isinstance(get_recipe(spec)[-1], ArgMax):
        ends.append(_passage((spec.c_out, *output_size(spec)), 1))
    probe = Workload(f"probe/{spec}/x{copies}", inputs, lambda: _probe(spec, copies))
    terms = [Term(probe.name, OPERATOR, 1 / copies, probe)]
    for end in {end.name: end for end in ends}.values():
        half = sum(other.name == end.name for other in ends) / 2
        terms.append(Term(end.name, CARRIER, -half / copies, end))
    return tuple(terms)


def _alone(spec: OpSpec) -> tuple[Term, ...]:
    workload = operator_workload(spec)
    return (Term(workload.name, OPERATOR, 1.0, workload),)


CONTEXTS: dict[str, Callable[[OpSpec], tuple[Term, ...]]] = {CARRIERS: _in_carriers, ISOLATED: _alone}
"""Name -> what has to be timed for an entry."""


def output_size(spec: OpSpec) -> tuple[int, int]:
    """(height, width) of the operator's output."""
    return spec.fine if get_operator(spec.operator).upsamples else spec.coarse


def _passage(shape: tuple[int, int, int], tensors: int) -> Workload:
    """`tensors` separate pairs of carriers on tensors of `shape` (channels, height, width)."""
    channels, height, width = shape
    name = f"carrier/c{channels}/{height}x{width}/x{tensors}"
    return Workload(name, ((1, *shape),) * tensors, lambda: _pairs(shape, tensors))


def _probe(spec: OpSpec, copies: int) -> nn.Module:
    from ...models.nets.layers import build_module
    from .probe import Probe

    inputs = input_shapes(spec)
    ends = not isinstance(get_recipe(spec)[-1], ArgMax)
    return workload_of(
        lambda: Probe(
            [build_module(_carrier(inputs[0][1:])) for _ in inputs],
            [build_module(spec) for _ in range(copies)],
            build_module(_carrier((spec.c_out, *output_size(spec)))) if ends else None,
        )
    )


def _pairs(shape: tuple[int, int, int], tensors: int) -> nn.Module:
    from ...models.nets.layers import build_module
    from .probe import Baseline

    return workload_of(lambda: Baseline([[build_module(_carrier(shape)) for _ in range(2)] for _ in range(tensors)]))


def _carrier(shape: tuple[int, int, int]) -> OpSpec:
    channels, height, width = shape
    return OpSpec("conv_1x1", channels, channels, height, width)
