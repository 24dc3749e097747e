"""Peak activation memory of a cell as a function of its operators, and of chains of tensors.

Terms used in this module:

    values  size of a tensor as a number of values, not bytes
    kind    memory behaviour of an operator: its `Footprint`; () if it passes its input through, None for `zero`
    code    the kinds on all edges of a cell as one number, with one digit per edge
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...recipe import Footprint
from ..cost import gather_sum, row_chunks
from ..operators import ZERO, find_footprint
from ..opspec import OpSpec
from .plan import CellPlan, InputPlan

IntArray = NDArray[np.int64]
Kind = Footprint | tuple[()] | None

MAX_CODES = 2**19
"""Maximum number of codes for which a cell's peaks are tabulated; beyond it, each peak is computed on its own."""


class CellMemory:
    """Peak memory of a cell, from its first edge to its concatenation, as a function of its operators.

    Args:
        plan: Plan of the cell.
        kept: Values of the features that later cells read.
        kept_features: Indices of these features.
    """

    def __init__(self, plan: CellPlan, kept: int, kept_features: frozenset[int]) -> None:
        self.plan = plan
        self.kept = kept
        self._tensors = _list_input_tensors(plan, kept_features)
        self.edges = len(plan.edges)
        kinds = [
            [None if spec.operator == ZERO else find_footprint(spec) or () for spec in edge.candidates]
            for edge in plan.edges
        ]
        self._kinds = [list(dict.fromkeys(row)) for row in kinds]
        self._digits = np.array(
            [[distinct.index(kind) for kind in row] for distinct, row in zip(self._kinds, kinds, strict=True)]
        )
        self._codes = 1
        place_values = []
        for distinct in self._kinds:
            place_values.append(self._codes)
            self._codes *= len(distinct)
        self._tabulated = self._codes <= MAX_CODES
        self._code_terms = self._digits * np.array(place_values)[:, None] if self._tabulated else self._digits

    def peaks(self, choices: NDArray[np.integer]) -> IntArray:
        """Return the peaks in values for the operators on this cell's edges: [N, edges] -> [N]."""
        if self._tabulated:
            peaks: IntArray = self._peak_table[gather_sum(self._code_terms, choices)]
            return peaks
        return self._compute_peaks(self._digits[np.arange(self.edges), choices])

    @cached_property
    def _peak_table(self) -> IntArray:
        """Peaks of all codes, [codes]."""
        peaks = []
        for rows in row_chunks(self._codes):
            rest = np.arange(self._codes)[rows]
            digits = np.empty((len(rest), self.edges), np.int64)
            for edge, distinct in enumerate(self._kinds):
                rest, digits[:, edge] = np.divmod(rest, len(distinct))
            peaks.append(self._compute_peaks(digits))
        return np.concatenate(peaks)

    def _compute_peaks(self, digits: IntArray) -> IntArray:
        """Simulate N cells in parallel: digits of kinds [N, edges] -> peaks in values, [N].

        Edge e's operator runs at time 2e, and the addition of its output at time 2e + 1. Nodes live until the
        concatenation; before it, only inputs and unfinished sums are freed.
        """
        facts = [
            np.array([_kind_facts(kind) for kind in distinct])[digits[:, edge]].T
            for edge, distinct in enumerate(self._kinds)
        ]
        uses = self._last_uses([fact[0] > 0 for fact in facts], [fact[1] > 0 for fact in facts])
        last = np.array([uses[inputs].max(axis=0) for inputs in self._tensors]).reshape(-1, len(digits))
        size = self.plan.edges[0].candidates[0].c_in * int(np.prod(self.plan.edges[0].candidates[0].fine))
        added = self.plan.add.c_out * int(np.prod(self.plan.add.coarse))
        nodes = peak = np.zeros(len(digits), np.int64)
        for node in range(self.plan.nodes):
            total = summands = np.zeros(len(digits), np.int64)
            for edge in self.plan.edges_into(node):
                live, passed, during_own, after_own, out = facts[edge]
                during = (last >= 2 * edge).sum(axis=0) * size
                after = (last > 2 * edge).sum(axis=0) * size
                running = np.where(passed, 0, np.maximum(during + during_own, after + after_own))
                adding = np.where(summands, after + out + added, 0)
                peak = np.where(live, np.maximum(peak, nodes + total + np.maximum(running, adding)), peak)
                total = np.where(live, np.where(summands, added, out), total)
                summands = summands + live
            nodes = nodes + total
        inputs = (last >= 2 * self.edges).sum(axis=0) * size
        peaks: IntArray = self.kept + np.maximum(peak, inputs + nodes + output_values(self.plan.concat))
        return peaks

    def _last_uses(self, live: Sequence[NDArray[np.bool_]], passed: Sequence[NDArray[np.bool_]]) -> IntArray:
        """Return the time of each input's last use, [inputs, N].

        An input that an edge passes through is used when the edge is added. The first live edge of a node is not
        added to anything: its input is used when the next live edge is added to it, or, if there is none, by the
        concatenation.

        Args:
            live: For each edge, True where its operator is not `zero`, [N].
            passed: For each edge, True where its operator passes the input through, [N].
        """
        last = np.full((len(self.plan.inputs), len(live[0])), -1)
        for node in range(self.plan.nodes):
            next_use = np.full(len(live[0]), 2 * self.edges)
            into = self.plan.edges_into(node)
            before = np.cumsum([live[edge] for edge in into], axis=0) - [live[edge] for edge in into]
            for edge, summands in zip(reversed(into), reversed(before), strict=True):
                use = np.where(passed[edge], np.where(summands > 0, 2 * edge + 1, next_use), 2 * edge)
                source = self.plan.edges[edge].source
                if source < len(last):
                    last[source] = np.where(live[edge], np.maximum(last[source], use), last[source])
                next_use = np.where(live[edge], 2 * edge + 1, next_use)
        return last


def _kind_facts(kind: Kind) -> tuple[int, int, int, int, int]:
    """Return a kind's facts: live, passes through, and its footprint."""
    if not kind:
        return kind is not None, kind is not None, 0, 0, 0
    return True, False, *kind


def _list_input_tensors(cell: CellPlan, kept_features: frozenset[int]) -> list[list[int]]:
    """Return the inputs that are the same tensor, for each tensor that lives in the cell.

    A feature that is passed through is a tensor of two inputs that both pass it, and of none if later cells read it.
    """
    tensors: dict[object, list[int]] = {}
    for index, source in enumerate(cell.inputs):
        if not _passes(source):
            tensors[index, source.feature] = [index]
        elif source.feature not in kept_features:
            tensors.setdefault(source.feature, []).append(index)
    return list(tensors.values())


def _passes(source: InputPlan) -> bool:
    """Return True if an input is the feature itself."""
    return source.resize is None and find_footprint(source.project) is None


def output_values(spec: OpSpec) -> int:
    """Return the number of values in the output of `spec`; 0 if its input is passed through."""
    footprint = find_footprint(spec)
    return 0 if footprint is None else footprint.out


def chain_peak(sizes: Sequence[int]) -> int:
    """Return the peak of tensors of these sizes, each computed from the previous one."""
    return max(sum(pair) for pair in pairwise(sizes))


def inputs_peak(cell: CellPlan, dying: dict[int, int]) -> int:
    """Return the peak in values while the inputs of `cell` are projected and then resized.

    Args:
        cell: Plan of the cell.
        dying: Values of each feature that no later cell reads, by feature.
    """
    peak = held = 0
    passed = {source.feature for source in cell.inputs if _passes(source)}
    for index, source in enumerate(cell.inputs):
        held += output_values(source.project)
        unread = {other.feature for other in cell.inputs[index:]}
        peak = max(peak, held + sum(size for feature, size in dying.items() if feature in unread | passed))
    held += sum(size for feature, size in dying.items() if feature in passed)
    for source in cell.inputs:
        if source.resize is not None:
            resized = output_values(source.resize)
            peak = max(peak, held + resized)
            held += resized - output_values(source.project)
    return peak
