"""Costs of architectures other than latency, vectorised: MACs, parameters, peak activation memory.

`choices` [N, E] are operator indices, one architecture per row, and `heads` [N] indices of the head's width in the
space's `heads`; None stands for the default head. `lut/predictor.py` predicts latency from the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from ...errors import UnknownNameError, UsageError
from .choices import Indices, check_choices, check_heads, gather_sum, row_chunks
from .lgcnet import SearchSpace
from .memory import CellMemory, IntArray, chain_peak, inputs_peak, tensor_values
from .operators import count_macs, count_parameters
from .opspec import OpSpec
from .plan import DENSE, SCOPES

LABEL_BYTES = 8
"""Bytes per label, an int64 in every precision."""


class Costs:
    """Multiply-accumulates, parameters and peak activation memory of architectures.

    Args:
        space: Search space of the choices.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def macs(self, choices: Indices, heads: Indices | None = None) -> IntArray:
        """Return multiply-accumulates per image, as `Architecture.macs`: choices [N, E], heads [N] -> [N].

        Raises:
            UsageError: Invalid choices or heads.
        """
        return self._sums(choices, heads, self._macs)

    def parameters(self, choices: Indices, heads: Indices | None = None) -> IntArray:
        """Return numbers of parameters, as `Architecture.parameters`: choices [N, E], heads [N] -> [N].

        Raises:
            UsageError: Invalid choices or heads.
        """
        return self._sums(choices, heads, self._parameters)

    def peak_activation_bytes(
        self, choices: Indices, heads: Indices | None = None, bytes_per_value: int = 4, scope: str = DENSE
    ) -> IntArray:
        """Return the peak of the bytes alive at once while one image is computed: [N, E], [N] -> [N].

        The network runs layer by layer in the order of `network.py` and `cell.py`. A cell projects all of its inputs,
        then resizes them where needed. Each node in turn runs its live edges in the plan's order and adds each output
        to its sum. Finally the nodes are concatenated.

        While a layer runs, its inputs, its output and every tensor that is used later are alive. No output overwrites
        an input; a tensor, the image included, is freed after its last use. Each layer of an operator allocates a
        tensor, so a separable convolution has one between its two convolutions; a convolution with its folded
        normalisation and ReLU is one layer; `skip` at stride 1 allocates none. Weights and a backend's workspace are
        not counted.

        In the presets, the stem (`core`) or the upsampled logits (`dense`) need more than any cell, so all
        architectures have the same peak; they differ in spaces with wide cells or coarse outputs.

        Args:
            choices: Valid architectures, [N, E]; the peak of an architecture with a fault is meaningless.
            heads: Indices of head widths, [N]; None for the default head.
            bytes_per_value: 4 for fp32, 2 for fp16 and bf16. Labels always have 8 bytes.
            scope: `dense` (up to the labels) or `core` (up to the logits).

        Raises:
            UsageError: Invalid choices, heads or `bytes_per_value`.
            UnknownNameError: Unknown scope.
        """
        if scope not in SCOPES:
            raise UnknownNameError("scope", scope, SCOPES)
        if bytes_per_value < 1:
            raise UsageError(f"bytes_per_value must be at least 1, got {bytes_per_value}")
        fixed, cells = self._memory
        floor = fixed * bytes_per_value
        if scope == DENSE:
            logits, upsampled, labels = (self.space.plan.heads[0][-1], *self.space.plan.dense)
            sizes = [tensor_values(logits)[-1] * bytes_per_value, tensor_values(upsampled)[-1] * bytes_per_value]
            floor = np.maximum(floor, chain_peak([*sizes, tensor_values(labels)[-1] * LABEL_BYTES]))
        peaks = []
        for part, head in self._chunks(choices, heads):
            peak, first = np.zeros(len(part), np.int64), 0
            for cell in cells:
                np.maximum(peak, cell.peaks(part[:, first : first + cell.edges]), out=peak)
                first += cell.edges
            peaks.append(np.maximum(peak * bytes_per_value, floor[head]))
        return np.concatenate(peaks)

    @cached_property
    def _macs(self) -> tuple[IntArray, IntArray]:
        return self._cost_terms(count_macs)

    @cached_property
    def _parameters(self) -> tuple[IntArray, IntArray]:
        return self._cost_terms(count_parameters)

    def _cost_terms(self, cost: Callable[[OpSpec], int]) -> tuple[IntArray, IntArray]:
        """Return the cost of everything that is not searched for each head, [H], and of each edge's operators, [E, O].

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

    def _sums(self, choices: Indices, heads: Indices | None, terms: tuple[IntArray, IntArray]) -> IntArray:
        fixed, edges = terms
        return np.concatenate([fixed[head] + gather_sum(edges, part) for part, head in self._chunks(choices, heads)])

    def _chunks(self, choices: Indices, heads: Indices | None) -> Iterator[tuple[Indices, Indices]]:
        """Check choices and heads and yield them in chunks of rows; a single empty one if there are no rows."""
        choices = check_choices(choices, self.space)
        heads = check_heads(heads, self.space, len(choices))
        for rows in row_chunks(len(choices)):
            yield choices[rows], heads[rows]

    @cached_property
    def _memory(self) -> tuple[IntArray, list[CellMemory]]:
        """Peak in values up to the logits, cells excluded, for each head, [H]; memory of each cell, the fusion last."""
        plan = self.space.plan
        last_cell = {source.feature: index for index, cell in enumerate(plan.searched_cells) for source in cell.inputs}
        image = plan.stem[0].c_in * plan.stem[0].height * plan.stem[0].width
        stem = [image, *(tensor_values(spec)[-1] for spec in plan.stem)]
        peak, features, cells = chain_peak(stem), [stem[-1]], []
        for index, cell in enumerate(plan.searched_cells):
            kept = sum(size for feature, size in enumerate(features) if last_cell[feature] > index)
            dying = {source.feature for source in cell.inputs if last_cell[source.feature] == index}
            peak = max(peak, kept + inputs_peak(cell, {feature: features[feature] for feature in dying}))
            cells.append(CellMemory(cell, kept))
            features.append(cell.concat.c_out * cell.concat.height * cell.concat.width)
        heads = [chain_peak([features[-1], *(tensor_values(spec)[-1] for spec in head)]) for head in plan.heads]
        return np.maximum(peak, heads), cells
