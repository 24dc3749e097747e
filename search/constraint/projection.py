"""Projection of architectures onto a latency target, vectorised over a batch; symbols as in `decisions` and `latency`.

A preference [N, G, O] scores each operator, as a log-probability does. Swaps of single operators trade preference for
latency at the best rate until the target ratio is at most 1, then spend the remaining slack. The last step chooses the
head's width, with another swap where that is worth its cost, so that the ratio ends just below 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.space.lgcnet import Architecture
from ..decisions import Array, Indices, Mask
from .latency import Latency

TARGET_TOLERANCE = 0.01
"""Slack below the target, as a share of it, that a result may have."""
FREE_SLACK = 0.002
"""Slack, as a share of the target, that costs nothing in the last step."""
SLACK_COST = 300.0
"""Cost of slack beyond `FREE_SLACK`, in nats of preference per share of the target: 3 per percent. Ours."""
HEAD_COST = 0.1
"""Cost of each step away from the head's default width, in nats. Ours: small compared with any operator's."""
EPSILON = 1e-12


@dataclass(frozen=True)
class ArchitectureBatch:
    """Architectures as arrays.

    Attributes:
        choices: operator of each decision, [N, G].
        heads: width of the head, as an index into the space's `heads`, [N].
    """

    choices: Indices
    heads: Indices

    def __len__(self) -> int:
        return len(self.choices)

    def select(self, rows: Indices | Mask) -> ArchitectureBatch:
        """Return the architectures of some rows."""
        return ArchitectureBatch(self.choices[rows], self.heads[rows])

    def drop_duplicates(self) -> ArchitectureBatch:
        """Return each architecture once, in the order of first appearance."""
        return self.select(self.find_first_rows())

    def find_first_rows(self) -> Indices:
        """Return the row in which each architecture appears first, in ascending order."""
        _, first = np.unique(np.column_stack([self.choices, self.heads]), axis=0, return_index=True)
        return np.sort(first)


def build_architecture(batch: ArchitectureBatch, row: int, latency: Latency) -> Architecture:
    """Return a row of a batch as an Architecture."""
    edges = latency.decisions.expand(batch.choices[row : row + 1])[0]
    return Architecture.from_choices(latency.decisions.space, edges.tolist(), head=int(batch.heads[row]))


def project_to_target(choices: Indices, preference: Array, latency: Latency) -> ArchitectureBatch:
    """Make architectures valid and project them onto the target.

    Args:
        choices: operators before the projection, [N, G].
        preference: preference for operators, [G, O], or [N, G, O] with one preference per architecture.
        latency: latencies and targets; without targets, architectures are only made valid.

    Returns:
        N valid architectures; where the target is infeasible, the target ratio stays above 1.
    """
    choices = latency.decisions.repair(choices, preference)
    batch = ArchitectureBatch(choices, np.full(len(choices), latency.default_head))
    if latency.targets_ms is None:
        return batch
    preference = np.broadcast_to(preference, (len(choices), *preference.shape[-2:]))
    _reduce_latency(batch, preference, latency)
    _restart_infeasible(batch, latency)
    _spend_slack(batch, preference, latency)
    return _repeat_last_step(_take_last_step(batch, preference, latency), preference, latency)


def _reduce_latency(batch: ArchitectureBatch, preference: Array, latency: Latency) -> None:
    """Swap in place until every ratio is at most 1 or no swap lowers it; then use the fastest head."""
    active = np.arange(len(batch))
    while len(active := active[latency.target_ratio(batch.choices[active], batch.heads[active]) > 1]):
        rows = batch.select(active)
        ratio = latency.target_ratio(rows.choices, rows.heads)
        saved = ratio[:, None, None] - latency.target_ratio_after_swaps(rows.choices, rows.heads)
        cost = _swap_costs(rows.choices, preference[active])
        rate = np.where(saved > EPSILON, np.where(cost > 0, cost / np.maximum(saved, EPSILON), cost * saved), np.inf)
        swapped = _apply_best_swap(batch.choices, active, _exclude_invalid(rate, rows.choices, latency))
        stuck = active[~swapped]
        batch.heads[stuck] = int(latency.head_ms.sum(axis=0).argmin())
        active = np.concatenate([active[swapped], stuck[batch.heads[stuck] != rows.heads[~swapped]]])


def _restart_infeasible(batch: ArchitectureBatch, latency: Latency) -> None:
    """Replace in place, by the fastest architecture, those that single swaps cannot bring below the target."""
    ratio = latency.target_ratio(batch.choices, batch.heads)
    if (ratio > 1).any():
        choices, heads = latency.fastest
        stuck = ratio > max(1.0, float(latency.target_ratio(choices, heads)[0]))
        batch.choices[stuck], batch.heads[stuck] = choices, heads


def _spend_slack(batch: ArchitectureBatch, preference: Array, latency: Latency) -> None:
    """Swap in place to slower operators until every ratio is within `TARGET_TOLERANCE` below 1."""
    active = np.arange(len(batch))
    while len(active):
        ratio = latency.target_ratio(batch.choices[active], batch.heads[active])
        below = ratio < 1 - TARGET_TOLERANCE
        active, ratio = active[below], ratio[below]
        rows = batch.select(active)
        after = latency.target_ratio_after_swaps(rows.choices, rows.heads)
        added = after - ratio[:, None, None]
        cost = _swap_costs(rows.choices, preference[active])
        feasible = (added > EPSILON) & (after <= 1)
        rate = np.where(feasible, np.where(cost > 0, cost / np.maximum(added, EPSILON), cost * added), np.inf)
        active = active[_apply_best_swap(batch.choices, active, _exclude_invalid(rate, rows.choices, latency))]


def _take_last_step(batch: ArchitectureBatch, preference: Array, latency: Latency) -> ArchitectureBatch:
    """Choose the cheapest head and at most one swap that end within `TARGET_TOLERANCE` below 1.

    Where none does, choose those that end nearest below 1.
    """
    cost = _swap_costs(batch.choices, preference)
    lowest = np.full(len(batch), np.inf)
    result = ArchitectureBatch(batch.choices.copy(), batch.heads.copy())
    for head in range(latency.head_ms.shape[1]):
        slack = 1 - latency.target_ratio_after_swaps(batch.choices, np.full(len(batch), head))
        price = np.maximum(cost, 0) + HEAD_COST * abs(head - latency.default_head)
        price += SLACK_COST * np.maximum(slack - FREE_SLACK, 0)
        # Slack beyond the tolerance costs more than any swap that ends within it.
        price = np.where(slack > TARGET_TOLERANCE, 1e6 * (1 + slack), price)
        price = _exclude_invalid(np.where(slack < 0, np.inf, price), batch.choices, latency)
        flat = price.reshape(len(batch), cost.shape[1] * cost.shape[2])
        swap = flat.argmin(axis=1)
        better = flat[np.arange(len(batch)), swap] < lowest
        lowest = np.where(better, flat[np.arange(len(batch)), swap], lowest)
        rows = np.flatnonzero(better)
        decision, operator = np.divmod(swap[rows], cost.shape[2])
        result.choices[rows] = batch.choices[rows]
        result.choices[rows, decision] = operator
        result.heads[rows] = head
    return result


def _repeat_last_step(batch: ArchitectureBatch, preference: Array, latency: Latency) -> ArchitectureBatch:
    """Repeat the last step where the result is below the tolerance, for as long as that raises a ratio."""
    while True:
        ratio = latency.target_ratio(batch.choices, batch.heads)
        below = np.flatnonzero(ratio < 1 - TARGET_TOLERANCE)
        again = _take_last_step(batch.select(below), preference[below], latency)
        nearer = latency.target_ratio(again.choices, again.heads) > ratio[below] + EPSILON
        if not nearer.any():
            return batch
        batch.choices[below[nearer]], batch.heads[below[nearer]] = again.choices[nearer], again.heads[nearer]


def _swap_costs(choices: Indices, preference: Array) -> Array:
    """Return the preference that each swap loses, [N, G, O]."""
    chosen = np.take_along_axis(preference, choices[:, :, None], axis=2)
    cost: Array = chosen - preference
    return cost


def _exclude_invalid(rate: Array, choices: Indices, latency: Latency) -> Array:
    """Set the rate of swaps that would leave an endpoint dead to infinity, in place, and return the rates."""
    zero = latency.decisions.zero
    if zero is not None:
        rate[..., zero] = np.where(latency.decisions.find_required(choices), np.inf, rate[..., zero])
    return rate


def _apply_best_swap(choices: Indices, rows: Indices, rate: Array) -> Mask:
    """Make the swap of smallest finite rate in each row, in place; return the rows that had one."""
    flat = rate.reshape(len(rows), rate.shape[1] * rate.shape[2])
    swap = flat.argmin(axis=1)
    possible: Mask = np.isfinite(flat[np.arange(len(rows)), swap])
    decision, operator = np.divmod(swap, rate.shape[2])
    choices[rows[possible], decision[possible]] = operator[possible]
    return possible
