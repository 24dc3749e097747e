"""Costs of LGCNet's architectures other than latency, vectorised: MACs, parameters, peak activation memory.

`choices` [N, D] are architectures, one per row; see `protocol`. `lut/predictor.py` predicts latency from the same
array.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ...errors import UnknownNameError, UsageError
from .cost import Choices, Cost, check_choices, row_chunks, sum_slots
from .lgcnet import LGCNetSpace
from .lgcnet.memory import CellMemory, IntArray, chain_peak, inputs_peak, output_values
from .lgcnet.plan import CellPlan
from .operators import count_macs, count_parameters
from .protocol import DENSE, SCOPES, Space

LABEL_BYTES = 8
"""Bytes per label, an int64 in every precision."""

COUNTS = {"macs": count_macs, "parameters": count_parameters}
"""Costs that follow from an operator's recipe, by unit."""


def count_cost(space: Space, unit: str) -> Cost:
    """Return the multiply-accumulates or the parameters of a space's architectures as a cost.

    Raises:
        UnknownNameError: `unit` is not in `COUNTS`.
    """
    if unit not in COUNTS:
        raise UnknownNameError("count", unit, COUNTS)
    return sum_slots(space, COUNTS[unit], unit=unit, source="recipes of the operators")


class Costs:
    """Multiply-accumulates, parameters and peak activation memory of architectures.

    Args:
        space: Search space of the choices.
    """

    def __init__(self, space: LGCNetSpace) -> None:
        self.space = space
        self._counts = {unit: count_cost(space, unit) for unit in COUNTS}

    def macs(self, choices: Choices) -> IntArray:
        """Return multiply-accumulates per image, as `Architecture.macs`: choices [N, D] -> [N].

        Raises:
            UsageError: Invalid choices.
        """
        return self._counts["macs"].evaluate(check_choices(choices, self.space)).astype(np.int64)

    def parameters(self, choices: Choices) -> IntArray:
        """Return numbers of parameters, as `Architecture.parameters`: choices [N, D] -> [N].

        Raises:
            UsageError: Invalid choices.
        """
        return self._counts["parameters"].evaluate(check_choices(choices, self.space)).astype(np.int64)

    def peak_activation_bytes(self, choices: Choices, bytes_per_value: int = 4, scope: str = DENSE) -> IntArray:
        """Return the peak of the bytes alive at once while one image is computed: [N, D] -> [N].

        The network runs layer by layer in the order of `network.py` and `cell.py`. A cell projects all of its inputs,
        then resizes them where needed. Each node in turn runs its live edges in the plan's order and adds each output
        to its sum. Finally the nodes are concatenated.

        While a layer runs, its inputs, its output and every tensor that is used later are alive. No output overwrites
        an input; a tensor, the image included, is freed after its last use. Each layer of an operator allocates a
        tensor, so a separable convolution has one between its two convolutions; a convolution with its folded
        normalisation and activation is one layer; `skip` at stride 1 allocates none. Of the user's modules, each
        operation of torch that does not run in place allocates one. Weights and a backend's workspace are not counted.

        In the presets, the stem (`core`) or the upsampled logits (`dense`) need more than any cell, so all
        architectures have the same peak; they differ in spaces with wide cells or coarse outputs.

        Args:
            choices: Valid architectures, [N, D]; the peak of an architecture with a fault is meaningless.
            bytes_per_value: 4 for fp32, 2 for fp16 and bf16. Labels always have 8 bytes.
            scope: `dense` (up to the labels) or `core` (up to the logits).

        Raises:
            UsageError: Invalid choices or `bytes_per_value`.
            UnknownNameError: Unknown scope.
        """
        if scope not in SCOPES:
            raise UnknownNameError("scope", scope, SCOPES)
        if bytes_per_value < 1:
            raise UsageError(f"bytes_per_value must be at least 1, got {bytes_per_value}")
        tail = 0
        if scope == DENSE:
            logits, upsampled, labels = (self.space.plan.head[-1], *self.space.plan.dense)
            sizes = [output_values(logits) * bytes_per_value, output_values(upsampled) * bytes_per_value]
            tail = chain_peak([*sizes, output_values(labels) * LABEL_BYTES])
        peaks = []
        for part in self._chunks(choices):
            peak = np.zeros(len(part), np.int64)
            widths, groups = np.unique(part[:, self.space.edges :], axis=0, return_inverse=True)
            for group, chosen in enumerate(widths.tolist()):
                rows = groups.reshape(-1) == group
                peak[rows] = self._peaks_at(tuple(chosen), part[rows])
            peaks.append(np.maximum(peak * bytes_per_value, tail))
        return np.concatenate(peaks)

    def _peaks_at(self, widths: tuple[int, ...], choices: Choices) -> IntArray:
        """Return the peaks up to the logits, in values, of architectures with these widths: [N, D] -> [N]."""
        fixed, cells = self._memory(widths)
        peak, first = np.full(len(choices), fixed, np.int64), 0
        for cell in cells:
            np.maximum(peak, cell.peaks(choices[:, first : first + cell.edges]), out=peak)
            first += cell.edges
        return peak

    def _chunks(self, choices: Choices) -> Iterator[Choices]:
        """Check choices and yield them in chunks of rows; a single empty one if there are no rows."""
        choices = check_choices(choices, self.space)
        for rows in row_chunks(len(choices)):
            yield choices[rows]

    def _memory(self, widths: tuple[int, ...]) -> tuple[int, list[CellMemory]]:
        """Return the peak in values up to the logits, cells excluded, and the memory of each cell, the fusion last."""
        plan = self.space.plan_at(widths)
        last_cell = {source.feature: index for index, cell in enumerate(plan.searched_cells) for source in cell.inputs}
        image = plan.stem[0].c_in * plan.stem[0].height * plan.stem[0].width
        stem = [image, *(output_values(spec) for spec in plan.stem)]
        peak, features, cells = chain_peak(stem), [stem[-1]], []
        for index, cell in enumerate(plan.searched_cells):
            kept_features = frozenset(feature for feature in range(len(features)) if last_cell[feature] > index)
            kept = sum(features[feature] for feature in kept_features)
            dying = {source.feature for source in cell.inputs if last_cell[source.feature] == index}
            peak = max(peak, kept + inputs_peak(cell, {feature: features[feature] for feature in dying}))
            cells.append(_make_memory(cell, kept, kept_features))
            features.append(cell.concat.c_out * cell.concat.height * cell.concat.width)
        head = chain_peak([features[-1], *(output_values(spec) for spec in plan.head)])
        return max(peak, head), cells


@lru_cache(maxsize=4096)
def _make_memory(cell: CellPlan, kept: int, kept_features: frozenset[int]) -> CellMemory:
    return CellMemory(cell, kept, kept_features)
