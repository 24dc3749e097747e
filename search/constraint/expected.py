"""Expected cost of a supernet over its choice probabilities, differentiable in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...lut.predictor import Predictor
from ...lut.table.table import LatencyTable
from ...models.space.cost import Cost
from ...models.space.protocol import DENSE, Decision, Slot, Space
from ...models.space.slots import as_space

SUM_TOLERANCE = 1e-3
"""Largest deviation of a sum of probabilities from 1; types of fewer bits deviate further."""


class ExpectedCost(nn.Module):
    """Expected latency of a supernet, in ms, over independently drawn choices.

        E = constant + sum over d of p[d] . single[d] + sum over pairs (d, e) of p[d] . pairs[d, e] . p[e]

    This is the table's prediction with probabilities in the place of choices, so one-hot probabilities give
    `Predictor`'s latency. Its gradient is the latency term of a loss (GAS, arXiv 1909.06793).

        D  decisions of the space      C  largest number of choices

    Args:
        table: latency table that has the slots' operators.
        slots: slots of the network, or a space; see `models.space.slots`.
        scope: `dense` or `core`; the same for slots without a scope.

    Attributes:
        decisions: decisions, in the order of the probabilities.

    Raises:
        MismatchError: the table has other slots.
        MissingEntryError: the table has no latency for an operator.
    """

    constant: Tensor
    single: Tensor
    mask: Tensor

    def __init__(self, table: LatencyTable, slots: Space | Sequence[Slot], scope: str = DENSE) -> None:
        super().__init__()
        predictor = Predictor(as_space(slots), table, scope)
        self._set_terms(predictor.cost, predictor.space.decisions)

    @classmethod
    def from_cost(cls, cost: Cost, decisions: Sequence[Decision]) -> Self:
        """Return the expectation of any cost of these decisions, in its unit."""
        expected = cls.__new__(cls)
        nn.Module.__init__(expected)
        expected._set_terms(cost, decisions)
        return expected

    def _set_terms(self, cost: Cost, decisions: Sequence[Decision]) -> None:
        self.decisions = tuple(decisions)
        self.register_buffer("constant", torch.tensor(cost.constant, dtype=torch.float32), persistent=False)
        self.register_buffer("single", torch.from_numpy(cost.single).float(), persistent=False)
        counts = torch.tensor([len(decision.choices) for decision in self.decisions])
        mask = torch.arange(self.single.shape[1]) < counts[:, None]
        self.register_buffer("mask", mask, persistent=False)
        self._pairs = tuple(cost.pairs)
        for index, pair in enumerate(self._pairs):
            self.register_buffer(f"pair_{index}", torch.from_numpy(cost.pairs[pair]).float(), persistent=False)

    def forward(self, probabilities: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the expected cost, a scalar.

        Args:
            probabilities: probability of each choice, [D, C] with 0 beyond a decision's choices; or one tensor
                [choices] for each decision. Checking them synchronises with the device once.

        Raises:
            UsageError: there are more or fewer decisions, one has another number of choices, or its values are
                negative, not finite, or do not sum to 1.
        """
        p = self._stack(probabilities)
        self._check(p.detach())
        total = self.constant + (p * self.single).sum()
        for index, (d, e) in enumerate(self._pairs):
            terms = self.get_buffer(f"pair_{index}")
            rows, columns = terms.shape
            total = total + (p[d, :rows, None] * terms * p[e, :columns]).sum()
        return total

    def _stack(self, probabilities: Tensor | Sequence[Tensor]) -> Tensor:
        """Return probabilities as one tensor, [D, C], 0 beyond a decision's choices."""
        if isinstance(probabilities, Tensor) and probabilities.shape == self.single.shape:
            return probabilities
        if len(probabilities) != len(self.decisions):
            raise UsageError(f"expected probabilities of {len(self.decisions)} decisions, got {len(probabilities)}")
        for row, decision in zip(probabilities, self.decisions, strict=True):
            if row.shape != (len(decision.choices),):
                raise UsageError(
                    f"decision {decision.name} has {len(decision.choices)} choices, its probabilities have shape "
                    f"{[*row.shape]}"
                )
        return nn.utils.rnn.pad_sequence([*probabilities], batch_first=True)

    def _check(self, p: Tensor) -> None:
        """Check that each row of p, [D, C], is a distribution over the decision's choices."""
        tolerance = max(SUM_TOLERANCE, 4 * torch.finfo(p.dtype).eps) if p.is_floating_point() else SUM_TOLERANCE
        p = p.float()
        sums = (p * self.mask).sum(1)
        valid = (p >= -tolerance).all(1) & ((sums - 1).abs() <= tolerance) & ((p.sum(1) - 1).abs() <= tolerance)
        if not bool(valid.all()):  # false for NaN too
            row = int((~valid).nonzero()[0])
            values = ", ".join(f"{value:.4g}" for value in p[row].tolist())
            raise UsageError(
                f"decision {self.decisions[row].name}: [{values}] is not a distribution over its "
                f"{int(self.mask[row].sum())} choices (at least 0, sum 1): pass torch.softmax(alpha, dim=-1), not alpha"
            )
