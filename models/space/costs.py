"""Costs of architectures besides latency, for one or for arrays of them.

Symbols used here; those of `lut/predictor.py` hold too:

    choices  [N, E]  operator indices, one architecture a row
    heads    [N]     index of each one's width into `SearchSpace.heads`; None stands for the space's own
    values           size of a tensor, counted in numbers and not yet in bytes
    kind             what an operator costs in memory: the values of each tensor that it makes, in order; () if it
                     passes its input on, None for `zero`
    code             the kinds on all edges of a cell as one number, a digit an edge
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UnknownNameError, UsageError
from .lgcnet import SearchSpace
from .operators import (
    ZERO,
    ArgMax,
    Concat,
    Conv,
    MaxPool,
    Resize,
    count_macs,
    count_parameters,
    get_recipe,
    input_shapes,
)
from .opspec import OpSpec, strided_length
from .plan import DENSE, SCOPES, CellPlan

IntArray = NDArray[np.int64]
Kind = tuple[int, ...] | None
Number = TypeVar("Number", np.int64, np.float64)

CHUNK_ROWS = 8192
"""Architectures that are handled at once: few enough for a processor's cache."""
MAX_CODES = 2**19
"""Codes of a cell up to which the peaks of all of them are computed once, and then looked up."""
LABEL_BYTES = 8
"""A label is an int64, whatever the precision."""


class Costs:
    """Multiply-accumulates, parameters and activation memory of architectures of `space`.

    Args:
        space: the search space that gives the choices their meaning.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def macs(self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None = None) -> IntArray:
        """Multiply-accumulates of one image: choices [N, E], heads [N] -> [N]; each is `Architecture.macs`.

        Raises:
            UsageError: choices or heads are no such arrays.
        """
        return self._sums(choices, heads, self._macs)

    def parameters(self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None = None) -> IntArray:
        """Parameters, normalisation folded: choices [N, E], heads [N] -> [N]; each is `Architecture.parameters`.

        Raises:
            UsageError: choices or heads are no such arrays.
        """
        return self._sums(choices, heads, self._parameters)

    def peak_activation_bytes(
        self,
        choices: NDArray[np.integer],
        heads: NDArray[np.integer] | None = None,
        bytes_per_value: int = 4,
        scope: str = DENSE,
    ) -> IntArray:
        """The most bytes of tensors that are alive at once while one image is computed: [N, E], [N] -> [N].

        The network runs layer by layer in the order of `network.py` and `cell.py`: a cell projects all of its inputs,
        then resizes those that need it; then each node in turn runs its live edges in the plan's order and adds each
        output to the sum so far; then the nodes are concatenated. While a layer runs, its inputs, its output and every
        tensor that is used later are alive: no output takes the place of an input, and a tensor is freed after its
        last use, the image too. Each layer of an operator makes a tensor, so a separable convolution has one between
        its two convolutions; a convolution, its folded normalisation and its ReLU are one layer. `skip` at stride 1
        passes its input on and makes none. Weights, and what a backend needs inside a layer, are not counted.

        In the presets the stem (`core`) or the upsampled logits (`dense`) take more than any cell can, so that all
        architectures have the same peak; it tells networks apart in spaces of wide cells or coarse outputs.

        Args:
            choices: valid architectures, [N, E]; the peak of one with something dead in it means nothing.
            heads: index of each one's width into the space's `heads`, [N]; None takes the space's own.
            bytes_per_value: 4 for fp32, 2 for fp16 and bf16. Labels take 8 whatever it is.
            scope: `dense` (up to the labels) or `core` (up to the logits).

        Raises:
            UsageError: choices or heads are no such arrays, or values take no bytes.
            UnknownNameError: no such scope.
        """
        if scope not in SCOPES:
            raise UnknownNameError("scope", scope, SCOPES)
        if bytes_per_value < 1:
            raise UsageError(f"values of {bytes_per_value} bytes: at least 1 is needed")
        unsearched, cells = self._memory
        floor = unsearched * bytes_per_value
        if scope == DENSE:
            logits, upsampled, labels = (self.space.plan.heads[0][-1], *self.space.plan.dense)
            sizes = [_made(logits)[-1] * bytes_per_value, _made(upsampled)[-1] * bytes_per_value]
            floor = np.maximum(floor, _chain_peak([*sizes, _made(labels)[-1] * LABEL_BYTES]))
        peaks = []
        for part, head in self._parts(choices, heads):
            peak, first = np.zeros(len(part), np.int64), 0
            for cell in cells:
                np.maximum(peak, cell.peaks(part[:, first : first + cell.edges]), out=peak)
                first += cell.edges
            peaks.append(np.maximum(peak * bytes_per_value, floor[head]))
        return np.concatenate(peaks)

    @cached_property
    def _macs(self) -> tuple[IntArray, IntArray]:
        return self._edge_costs(count_macs)

    @cached_property
    def _parameters(self) -> tuple[IntArray, IntArray]:
        return self._edge_costs(count_parameters)

    def _edge_costs(self, cost: Callable[[OpSpec], int]) -> tuple[IntArray, IntArray]:
        """Cost of all that is not searched with each head, [H], and of every operator on every edge, [E, O].

        Additions cost nothing.
        """
        fixed = np.zeros(len(self.space.heads), np.int64)
        edges = np.zeros((self.space.edges, len(self.space.operators)), np.int64)
        for slot in self.space.slots():
            costs = [cost(spec) for spec in slot.candidates]
            if slot.edge is not None:
                edges[slot.edge] = costs
            elif not slot.sums:
                fixed += costs if slot.head else costs[0]
        return fixed, edges

    def _sums(
        self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None, costs: tuple[IntArray, IntArray]
    ) -> IntArray:
        fixed, edges = costs
        return np.concatenate([fixed[head] + gather_sum(edges, part) for part, head in self._parts(choices, heads)])

    def _parts(
        self, choices: NDArray[np.integer], heads: NDArray[np.integer] | None
    ) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
        """Checks choices and heads, then gives them out `CHUNK_ROWS` at a time; one empty part if there are none."""
        choices = check_choices(choices, self.space)
        heads = check_heads(heads, self.space, len(choices))
        for first in range(0, max(len(choices), 1), CHUNK_ROWS):
            yield choices[first : first + CHUNK_ROWS], heads[first : first + CHUNK_ROWS]

    @cached_property
    def _memory(self) -> tuple[IntArray, list[_CellMemory]]:
        """Peak, in values, of all but the cells up to the logits with each head, [H]; every cell, the fusion's last."""
        plan = self.space.plan
        last_cell = {source.feature: index for index, cell in enumerate(plan.searched_cells) for source in cell.inputs}
        image = plan.stem[0].c_in * plan.stem[0].height * plan.stem[0].width
        stem = [image, *(_made(spec)[-1] for spec in plan.stem)]
        peak, features, cells = _chain_peak(stem), [stem[-1]], []
        for index, cell in enumerate(plan.searched_cells):
            kept = sum(size for feature, size in enumerate(features) if last_cell[feature] > index)
            read = {source.feature for source in cell.inputs if last_cell[source.feature] == index}
            peak = max(peak, kept + _inputs_peak(cell, {feature: features[feature] for feature in read}))
            cells.append(_CellMemory(cell, kept))
            features.append(cell.concat.c_out * cell.concat.height * cell.concat.width)
        heads = [_chain_peak([features[-1], *(_made(spec)[-1] for spec in head)]) for head in plan.heads]
        return np.maximum(peak, heads), cells


class _CellMemory:
    """Peak memory of a cell, from its first edge to its concatenation, as a function of its operators.

    Args:
        plan: the cell.
        kept: values of the features that later cells read.
    """

    def __init__(self, plan: CellPlan, kept: int) -> None:
        self.plan = plan
        self.kept = kept
        self.edges = len(plan.edges)
        kinds = [[None if spec.operator == ZERO else _made(spec) for spec in edge.candidates] for edge in plan.edges]
        self._kinds = [list(dict.fromkeys(row)) for row in kinds]
        self._digits = np.array(
            [[distinct.index(kind) for kind in row] for distinct, row in zip(self._kinds, kinds, strict=True)]
        )
        self._codes = 1
        places = []
        for distinct in self._kinds:
            places.append(self._codes)
            self._codes *= len(distinct)
        self._few = self._codes <= MAX_CODES
        self._places = self._digits * np.array(places)[:, None] if self._few else self._digits

    def peaks(self, choices: NDArray[np.integer]) -> IntArray:
        """Peaks in values for the operators on this cell's edges: [N, edges] -> [N]."""
        if self._few:
            looked_up: IntArray = self._peak_of_code[gather_sum(self._places, choices)]
            return looked_up
        return self._run(self._digits[np.arange(self.edges), choices])

    @cached_property
    def _peak_of_code(self) -> IntArray:
        """Peaks of all codes, [codes]."""
        peaks = []
        for first in range(0, self._codes, CHUNK_ROWS):
            rest = np.arange(first, min(first + CHUNK_ROWS, self._codes))
            digits = np.empty((len(rest), self.edges), np.int64)
            for edge, distinct in enumerate(self._kinds):
                rest, digits[:, edge] = np.divmod(rest, len(distinct))
            peaks.append(self._run(digits))
        return np.concatenate(peaks)

    def _run(self, digits: IntArray) -> IntArray:
        """Run N cells side by side: digits [N, edges] of kinds -> peaks in values, [N].

        Time 2e is that of edge e's operator, 2e + 1 that of the addition of what it puts out. Nodes live until the
        concatenation: only inputs and unfinished sums are freed before it.
        """
        facts = [
            np.array([_facts(kind) for kind in distinct])[digits[:, edge]].T
            for edge, distinct in enumerate(self._kinds)
        ]
        last = self._last_uses([fact[0] > 0 for fact in facts], [fact[1] > 0 for fact in facts])
        size = self.plan.edges[0].candidates[0].c_in * int(np.prod(self.plan.edges[0].candidates[0].fine))
        added = self.plan.add.c_out * int(np.prod(self.plan.add.coarse))
        nodes = peak = np.zeros(len(digits), np.int64)
        for node in range(self.plan.nodes):
            total = seen = np.zeros(len(digits), np.int64)
            for edge in self.plan.edges_into(node):
                live, passed, begins, goes_on, out = facts[edge]
                during = (last >= 2 * edge).sum(axis=0) * size
                after = (last > 2 * edge).sum(axis=0) * size
                running = np.where(passed, 0, np.maximum(during + begins, after + goes_on))
                adding = np.where(seen, after + out + added, 0)
                peak = np.where(live, np.maximum(peak, nodes + total + np.maximum(running, adding)), peak)
                total = np.where(live, np.where(seen, added, out), total)
                seen = seen + live
            nodes = nodes + total
        inputs = (last >= 2 * self.edges).sum(axis=0) * size
        peaks: IntArray = self.kept + np.maximum(peak, inputs + nodes + sum(_made(self.plan.concat)))
        return peaks

    def _last_uses(self, live: Sequence[NDArray[np.bool_]], passed: Sequence[NDArray[np.bool_]]) -> IntArray:
        """The time of each input's last use, [inputs, N], for whether edges are live and pass their input on.

        What an edge passes on is used when it is added; if nothing comes before it in the node, when the next one is
        added to it; if nothing comes at all, the node is that input, and the concatenation uses it.
        """
        last = np.full((len(self.plan.inputs), len(live[0])), -1)
        for node in range(self.plan.nodes):
            later = np.full(len(live[0]), 2 * self.edges)
            into = self.plan.edges_into(node)
            before = np.cumsum([live[edge] for edge in into], axis=0) - [live[edge] for edge in into]
            for edge, seen in zip(reversed(into), reversed(before), strict=True):
                at = np.where(passed[edge], np.where(seen > 0, 2 * edge + 1, later), 2 * edge)
                source = self.plan.edges[edge].source
                if source < len(last):
                    last[source] = np.where(live[edge], np.maximum(last[source], at), last[source])
                later = np.where(live[edge], 2 * edge + 1, later)
        return last


def _facts(kind: Kind) -> tuple[int, int, int, int, int]:
    """Whether a kind is live and whether it passes on, its first tensor, the most after that, and its last tensor."""
    if not kind:
        return kind is not None, kind is not None, 0, 0, 0
    return True, False, kind[0], max((sum(pair) for pair in pairwise(kind)), default=0), kind[-1]


def _made(spec: OpSpec) -> tuple[int, ...]:
    """Values of the tensors that the layers of `spec` put out, in order."""
    channels, *size = input_shapes(spec)[0][1:]
    made = []
    for layer in get_recipe(spec):
        if isinstance(layer, Conv | MaxPool):
            size = [strided_length(length, layer.stride) for length in size]
        if isinstance(layer, Resize):
            size = list(layer.target)
        if isinstance(layer, Conv | Concat | ArgMax):
            channels = layer.c_out if isinstance(layer, Conv) else spec.c_out
        made.append(channels * size[0] * size[1])
    return tuple(made)


def _chain_peak(sizes: Sequence[int]) -> int:
    """Peak of tensors of these sizes where each is computed from the one before."""
    return max(sum(pair) for pair in pairwise(sizes))


def _inputs_peak(cell: CellPlan, dying: dict[int, int]) -> int:
    """Peak in values while the inputs of `cell` are projected and then resized.

    Args:
        cell: the cell.
        dying: values of the features that no later cell reads, by feature.
    """
    peak = held = 0
    for index, source in enumerate(cell.inputs):
        held += _made(source.project)[-1]
        waiting = {other.feature for other in cell.inputs[index:]}
        peak = max(peak, held + sum(size for feature, size in dying.items() if feature in waiting))
    for source in cell.inputs:
        if source.resize is not None:
            resized = _made(source.resize)[-1]
            peak = max(peak, held + resized)
            held += resized - _made(source.project)[-1]
    return peak


def check_choices(choices: NDArray[np.integer], space: SearchSpace) -> NDArray[np.integer]:
    """The choices, after showing that they are operator indices [N, E] of the space.

    Raises:
        UsageError: they are not.
    """
    choices = np.asarray(choices)
    if choices.ndim != 2 or choices.shape[1] != space.edges or choices.dtype.kind not in "iu":
        raise UsageError(
            f"choices in space {space.name} are integers [N, {space.edges}], not {choices.dtype} {list(choices.shape)}"
        )
    most = len(space.operators) - 1
    if choices.size and not 0 <= choices.min() <= choices.max() <= most:
        raise UsageError(f"choices run from 0 to {most}, these from {choices.min()} to {choices.max()}")
    return choices


def check_heads(heads: NDArray[np.integer] | None, space: SearchSpace, count: int) -> NDArray[np.integer]:
    """The heads, after showing that they are indices [count] into the space's; its own `count` times if None.

    Raises:
        UsageError: they are not.
    """
    if heads is None:
        return np.full(count, space.default_head)
    heads = np.asarray(heads)
    if heads.shape != (count,) or heads.dtype.kind not in "iu":
        raise UsageError(
            f"heads of {count} architectures are integers [{count}], not {heads.dtype} {list(heads.shape)}"
        )
    most = len(space.heads) - 1
    if heads.size and not 0 <= heads.min() <= heads.max() <= most:
        raise UsageError(f"heads run from 0 to {most}, these from {heads.min()} to {heads.max()}")
    return heads


def gather_sum(table: NDArray[Number], choices: NDArray[np.integer]) -> NDArray[Number]:
    """Sum over e of table[e, choices[n, e]], in chunks: table [E, O], choices [N, E] -> [N]."""
    edges = np.arange(len(table))
    parts = range(0, max(len(choices), 1), CHUNK_ROWS)
    return np.concatenate([table[edges, choices[first : first + CHUNK_ROWS]].sum(axis=1) for first in parts])
